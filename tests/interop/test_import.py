"""`llmc import`: what it writes, what it says, and that a fault leaves nothing behind."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from llmc.cli.main import main
from llmc.compiler.emit.tree import write_tree
from llmc.compiler.importing import imported_spec
from llmc.compiler.lower.hf_names import HF_NAMES
from llmc.compiler.pipeline import build
from llmc.spec.hf_config import from_hf_config
from llmc.spec.load import load_spec, load_text
from llmc.spec.model import Model

SPEC = """\
# yaml-language-server: $schema=.llmc/llmc.schema.json
llmc: 1
name: my-qwen-2.5

model:
  family: qwen2
  hidden_size: 32
  num_layers: 2
  num_heads: 4
  num_kv_heads: 2
  intermediate_size: 48
  vocab_size: 131
  max_seq_len: 4096
  tie_embeddings: true
  position:
    theta: 5000.0
    scaling: {kind: linear, factor: 2.0}

hardware: {accelerator: cpu}

serve:
  max_seq_len: 2048  # the model accepts 4096
  weights: {dtype: fp32}
  kv_cache: {dtype: fp32}
"""


@pytest.fixture(scope="module")
def theirs(randomise: Callable[[nn.Module, int], None]) -> Any:
    config = transformers.Qwen2Config(
        vocab_size=131,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "linear", "rope_theta": 5000.0, "factor": 2.0},
        bos_token_id=None,
        eos_token_id=7,
    )
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    randomise(model, 1)
    return model


@pytest.fixture
def hf(theirs: Any, tmp_path: Path) -> Path:
    folder = tmp_path / "My Qwen 2.5"
    theirs.save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    return folder


def run(*args: Any) -> int:
    return main(["import", *map(str, args)])


def test_a_folder_becomes_a_spec_and_weights(hf: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    out = tmp_path / "out"
    assert run(hf, "-o", out) == 0
    assert (out / "spec.yaml").read_text() == SPEC
    assert sorted(path.name for path in out.iterdir()) == [".llmc", "spec.yaml", "weights"]
    assert json.loads((out / "weights/generation_config.json").read_text())["eos_token_id"] == 7
    assert (out / "weights/tokenizer.json").exists()
    said = capfd.readouterr()
    assert f"llmc run serve {out / 'spec.yaml'} --weights {out / 'weights'}" in said.out
    assert said.err == ""


def test_the_program_of_the_spec_takes_the_weights(hf: Path, theirs: Any, tmp_path: Path, load_build: Any):
    out = tmp_path / "out"
    assert run(hf, "-o", out) == 0
    result = build(out / "spec.yaml", out / "build")
    assert result.tree is not None
    write_tree(result.tree, out / "build")
    ours = load_build(out / "build").load(out / "weights")
    tokens = torch.arange(100)[None]
    with torch.no_grad():
        torch.testing.assert_close(ours.logits(ours(tokens)), theirs(tokens).logits, rtol=0, atol=1e-4)


def test_a_spec_that_names_the_folder_is_the_same_model(hf: Path, tmp_path: Path):
    spec, _ = load_text(imported_spec(json.loads((hf / "config.json").read_text()), name="a"))
    (tmp_path / "spec.yaml").write_text(f"model: {{hf: '{hf.name}'}}\nhardware: {{accelerator: cpu}}\n")
    by_name, _ = load_spec(tmp_path / "spec.yaml")
    assert spec.model.model_dump(exclude={"hf"}) == by_name.model.model_dump(exclude={"hf"})


def test_without_a_tokenizer_the_user_is_told(hf: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    (hf / "tokenizer.json").unlink()
    assert run(hf, "-o", tmp_path / "out") == 0
    assert "has no tokenizer.json" in capfd.readouterr().err


def configure(hf: Path, **changes: Any) -> None:
    config = json.loads((hf / "config.json").read_text())
    (hf / "config.json").write_text(json.dumps({**config, **changes}))


FAULTS: dict[str, tuple[Callable[[Path], Any], int, str]] = {
    "no config.json": (lambda hf: (hf / "config.json").unlink(), 1, "error[S207"),
    "config.json is no JSON": (lambda hf: (hf / "config.json").write_text("{"), 1, "error[S207"),
    "an unknown architecture": (lambda hf: configure(hf, model_type="mamba"), 1, "'mamba' is none of the types"),
    "an unknown feature": (lambda hf: configure(hf, use_magic=3), 1, "`use_magic`"),
    "a value of the wrong kind": (lambda hf: configure(hf, hidden_size="wide"), 1, "error["),
    "quantised weights": (
        lambda hf: configure(hf, quantization_config={"quant_method": "awq"}),
        1,
        "weights stored in awq are not read yet",
    ),
    "pickled weights": (
        lambda hf: (hf / "model.safetensors").rename(hf / "pytorch_model.bin"),
        1,
        "holds pickled weights, which llmc never opens",
    ),
    "another width": (lambda hf: configure(hf, hidden_size=64), 1, "the model has"),
    "another depth": (
        lambda hf: configure(hf, num_hidden_layers=1, layer_types=["full_attention"]),
        1,
        "tensors without a place in this model",
    ),
    "a damaged file": (
        lambda hf: (hf / "model.safetensors").write_bytes(bytes(1000)),
        1,
        "model.safetensors cannot be read",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_and_leaves_nothing(hf: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], fault: str):
    spoil, status, message = FAULTS[fault]
    spoil(hf)
    assert run(hf, "-o", tmp_path / "out") == status
    said = capfd.readouterr()
    assert message in said.err
    assert "Traceback" not in said.err
    assert said.out == ""
    assert not (tmp_path / "out").exists()


def test_wrong_usage_is_told(hf: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    assert run(tmp_path / "nowhere") == 2
    (tmp_path / "model.gguf").write_bytes(b"GGML")
    assert run(tmp_path / "model.gguf", "-o", tmp_path / "out") == 2
    (tmp_path / "damaged.gguf").write_bytes(b"GGUF" + bytes(50))
    assert run(tmp_path / "damaged.gguf", "-o", tmp_path / "out") == 1
    assert not (tmp_path / "out").exists()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/spec.yaml").write_text("mine")
    assert run(hf, "-o", tmp_path / "taken") == 2
    assert (tmp_path / "taken/spec.yaml").read_text() == "mine"
    said = capfd.readouterr().err
    for line in (
        "there is no",
        "neither a folder with a config.json nor a GGUF file",
        "exists; -o names another folder",
    ):
        assert line in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("config_class", "values"),
    [
        ("LlamaConfig", {"head_dim": 96, "rope_parameters": {"rope_type": "default", "rope_theta": 1e-3}}),
        ("MistralConfig", {"sliding_window": 77}),
        ("Gemma2Config", {"query_pre_attn_scalar": 144}),
        ("Gemma3TextConfig", {}),
        ("GPT2Config", {}),
        ("FalconConfig", {"new_decoder_architecture": True, "num_kv_heads": 71}),
        ("GPTNeoXConfig", {"use_parallel_residual": False}),
        ("GraniteConfig", {"residual_multiplier": 0.22}),
        ("MptConfig", {}),
        ("Phi3Config", {"partial_rotary_factor": 0.75}),
    ],
)
def test_the_spec_says_what_the_config_says(tmp_path: Path, config_class: str, values: dict[str, Any]):
    """All that the spec leaves out is the family's or the language's default."""
    getattr(transformers, config_class)(**values).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    spec, _ = load_text(imported_spec(config, name="a"))
    expected = Model.model_validate(from_hf_config(config))
    assert spec.model.model_dump(exclude={"family"}) == expected.model_dump(exclude={"family"})


def test_the_page_names_every_type_that_is_converted(root: Path):
    page = (root / "docs/checkpoints.md").read_text(encoding="utf-8")
    listed = page.partition("### What is read")[2].partition("Of GGUF")[0]
    assert set(re.findall(r"`([a-z0-9_]+)`", listed)) - {"gemma3"} == set(HF_NAMES)
