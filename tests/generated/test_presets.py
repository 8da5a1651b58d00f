"""Every dense preset of the catalog becomes a program: formatted, linted, with the parameters that the graph counts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from programs import build, imported, plan_of

from llmc.compiler.frontend.model import build_model
from llmc.compiler.lower.refuse import refuse_program
from llmc.spec import catalog
from llmc.spec.document import Spec
from llmc.spec.load import load_text

PRESETS = sorted(path.stem for path in (Path(catalog.__file__).parent / "models" / "presets").glob("*.yaml"))
SPEC = """
name: {name}
model: {{preset: {preset}, num_layers: 4}}
hardware: {{accelerator: cpu}}
data: {{sources: [{{source: python-stdlib}}], tokenizer: {{train: bpe}}}}
train: {{objective: causal_lm, steps: 100, seq_len: 1024, global_batch: 4, precision: bf16, z_loss: 1.0e-4}}
serve: {{max_seq_len: 1024}}
"""


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Spec]:
    """A build of each preset that is lowered today, cut to four layers: folder -> spec."""
    folder = tmp_path_factory.mktemp("presets")
    found = {}
    for preset in PRESETS:
        spec, _ = load_text(SPEC.format(name=preset, preset=preset))
        plan = plan_of(spec)
        if not list(refuse_program(spec, plan)):
            found[build(spec, folder / preset, plan=plan)] = spec
    return found


def test_most_presets_are_lowered(builds: dict[Path, Spec]) -> None:
    assert len(builds) > 100
    assert {"llama-3.1-70b", "gemma-3-27b", "gpt2-xl", "bloom-176b", "falcon-40b", "qwen3-32b", "phi-2"} <= {
        folder.name for folder in builds
    }


@pytest.mark.parametrize("command", [("check",), ("format", "--diff")])
def test_programs_of_presets_are_formatted_and_linted(command: tuple[str, ...], builds: dict[Path, Spec]) -> None:
    folder = next(iter(builds)).parent
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *command, "--no-cache", "."],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_programs_of_presets_have_the_parameters_of_the_graph(builds: dict[Path, Spec]) -> None:
    for folder, spec in builds.items():
        with imported(folder, "model") as (module,), torch.device("meta"):
            found = sum(parameter.numel() for parameter in module.Model().parameters())
        assert found == build_model(spec.model, name=spec.name).num_parameters(), folder.name
