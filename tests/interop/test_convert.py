"""What import and export do with files: shards, companions, and checkpoints that are damaged or of another model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from torch import nn

from llmc.runtimes.common.errors import RunError
from llmc.runtimes.pytorch.huggingface import files
from llmc.runtimes.pytorch.weights import load_weights, save_weights

SIZES = {"vocab_size": 131, "n_embd": 48, "n_layer": 3, "n_head": 6, "n_positions": 64}
IDS = {"bos_token_id": 1, "eos_token_id": 2}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gpt2")


@pytest.fixture(scope="module")
def theirs(home: Path, randomise: Callable[[nn.Module, int], None]) -> Any:
    """A GPT-2, saved in home/hf."""
    model = transformers.AutoModelForCausalLM.from_config(transformers.GPT2Config(**SIZES, **IDS)).eval()
    randomise(model, 1)
    model.save_pretrained(home / "hf")
    return model


@pytest.fixture(scope="module")
def program(home: Path, theirs: Any, build_for: Callable[[Path], Any]) -> Any:
    return build_for(home)


@pytest.fixture
def hf(home: Path, program: Any, tmp_path: Path) -> Path:
    """A copy of the checkpoint to spoil."""
    return Path(shutil.copytree(home / "hf", tmp_path / "hf"))


def change(hf: Path, edit: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Rewrite the weights of a checkpoint."""
    tensors = load_file(hf / "model.safetensors")
    edit(tensors)
    save_file(tensors, hf / "model.safetensors", metadata={"format": "pt"})


def test_shards_come_back_as_they_were(theirs: Any, program: Any, tmp_path: Path):
    theirs.save_pretrained(tmp_path / "hf", max_shard_size="100KB")
    originals = sorted(path.name for path in (tmp_path / "hf").glob("model*"))
    assert len(originals) > 3
    program.import_(tmp_path / "hf", tmp_path / "weights")
    program.export(tmp_path / "weights", tmp_path / "back")
    assert sorted(path.name for path in (tmp_path / "back").glob("model*")) == originals
    for name in originals:
        assert (tmp_path / "back" / name).read_bytes() == (tmp_path / "hf" / name).read_bytes(), name


def test_large_weights_are_cut_into_files_that_load(
    program: Any, hf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    program.import_(hf, tmp_path / "whole")
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 100_000)
    program.import_(hf, tmp_path / "cut")
    assert len(list((tmp_path / "cut").glob("model-0*-of-0*.safetensors"))) > 3
    assert not list((tmp_path / "cut").glob(".*"))
    whole, cut = program.load(tmp_path / "whole").state_dict(), program.load(tmp_path / "cut").state_dict()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    program.export(tmp_path / "cut", tmp_path / "one")  # as it was
    assert (tmp_path / "one/model.safetensors").read_bytes() == (hf / "model.safetensors").read_bytes()
    (tmp_path / "cut/huggingface.index.json").unlink()
    program.export(
        tmp_path / "cut", tmp_path / "back"
    )  # what has no original is cut as well, and transformers reads it
    assert len(list((tmp_path / "back").glob("model-0*-of-0*.safetensors"))) > 3
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back")
    assert torch.equal(again.transformer.wte.weight, whole["embed.weight"])


def test_half_precision_stays_half(theirs: Any, program: Any, hf: Path, tmp_path: Path):
    change(hf, lambda tensors: tensors.update({name: value.bfloat16() for name, value in tensors.items()}))
    program.import_(hf, tmp_path / "weights")
    program.export(tmp_path / "weights", tmp_path / "back")
    assert (tmp_path / "back/model.safetensors").read_bytes() == (hf / "model.safetensors").read_bytes()
    assert json.loads((tmp_path / "back/config.json").read_text())["dtype"] == "bfloat16"


def test_a_base_model_without_its_prefix_is_read(theirs: Any, program: Any, tmp_path: Path):
    """GPT-2's own checkpoint is one, and carries the constant masks beside its weights."""
    theirs.transformer.save_pretrained(tmp_path / "hf")
    change(tmp_path / "hf", lambda tensors: tensors.update({"h.0.attn.bias": torch.ones(1, 1, 64, 64)}))
    names = load_file(tmp_path / "hf/model.safetensors")
    assert "wte.weight" in names
    assert program.import_(tmp_path / "hf", tmp_path / "weights") == len(names) - 1
    weights = program.load(tmp_path / "weights")
    tokens = torch.arange(40)[None]
    with torch.no_grad():
        torch.testing.assert_close(weights.logits(weights(tokens)), theirs(tokens).logits, rtol=0, atol=1e-4)


def test_the_text_model_of_a_multimodal_checkpoint_is_read(
    tmp_path: Path, build_for: Callable[[Path], Any], randomise: Any, capfd: pytest.CaptureFixture[str]
):
    layers = ["sliding_attention", "full_attention"]
    text = {"vocab_size": 131, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 64}
    image = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    image |= {"image_size": 28, "patch_size": 14}
    tokens = {"image_token_index": 130, "boi_token_index": 128, "eoi_token_index": 129, "mm_tokens_per_image": 1}
    config = transformers.Gemma3Config(
        text_config={**text, "layer_types": layers, "sliding_window": 7}, vision_config=image, **tokens
    )
    theirs = transformers.Gemma3ForConditionalGeneration(config).eval()
    randomise(theirs, 1)
    theirs.save_pretrained(tmp_path / "hf")
    program = build_for(tmp_path)
    program.import_(tmp_path / "hf", tmp_path / "weights")
    images = [name for name in load_file(tmp_path / "hf/model.safetensors") if not name.startswith("language_model.")]
    assert f"the text model is read, {len(images)} tensors for images are not" in capfd.readouterr().err
    ours, tokens = program.load(tmp_path / "weights"), torch.arange(40)[None]
    with torch.no_grad():
        torch.testing.assert_close(ours.logits(ours(tokens)), theirs(input_ids=tokens).logits, rtol=0, atol=1e-4)


def test_a_tied_head_may_be_stored_twice(program: Any, hf: Path, tmp_path: Path):
    change(hf, lambda tensors: tensors.update({"lm_head.weight": tensors["transformer.wte.weight"].clone()}))
    program.import_(hf, tmp_path / "weights")
    assert "head.weight" not in load_file(tmp_path / "weights/model.safetensors")


def test_companions_and_end_tokens_go_along(program: Any, hf: Path, tmp_path: Path):
    (hf / "chat_template.jinja").write_text("{{ messages }}")
    (hf / "generation_config.json").write_text('{"temperature": 0.7, "eos_token_id": [2, 5]}')
    program.import_(hf, tmp_path / "weights")
    assert (tmp_path / "weights/chat_template.jinja").read_text() == "{{ messages }}"
    settings = json.loads((tmp_path / "weights/generation_config.json").read_text())
    assert settings == {"temperature": 0.7, "bos_token_id": 1, "eos_token_id": [2, 5]}
    program.export(tmp_path / "weights", tmp_path / "back")
    assert json.loads((tmp_path / "back/config.json").read_text())["eos_token_id"] == [2, 5]


def test_a_model_trained_here_is_exported_with_its_tokenizer(program: Any, tmp_path: Path):
    """A checkpoint of a run has weights and a tokenizer.json, and no files of transformers'."""
    save_weights(program.model.Model(), tmp_path / "step-1")
    tokenizer = Tokenizer(models.BPE(vocab={"<|endoftext|>": 0, "a": 1, "b": 2, "ab": 3}, merges=[("a", "b")]))
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(tmp_path / "step-1/tokenizer.json"))
    program.export(tmp_path / "step-1", tmp_path / "hf")
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert again("aba<|endoftext|>").input_ids == [3, 1, 0]
    assert again.eos_token_id == transformers.AutoConfig.from_pretrained(tmp_path / "hf").eos_token_id == 0


SPOILED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a tensor is missing": (
        lambda hf: change(hf, lambda tensors: tensors.pop("transformer.h.1.mlp.c_proj.bias")),
        "has no tensor transformer.h.1.mlp.c_proj.bias",
    ),
    "a tensor is left over": (
        lambda hf: change(hf, lambda tensors: tensors.update(extra=torch.ones(2))),
        "has 1 tensors without a place in this model: extra",
    ),
    "a bias is left over that looks like a mask": (
        lambda hf: change(hf, lambda tensors: tensors.update({"transformer.h.7.attn.c_attn.bias": torch.ones(2)})),
        "without a place in this model: transformer.h.7.attn.c_attn.bias",
    ),
    "a matrix has another shape": (
        lambda hf: change(hf, lambda tensors: tensors.update({"transformer.wte.weight": torch.ones(132, 48)})),
        r"transformer.wte.weight: shape \[132, 48\], the model has \[131, 48\]",
    ),
    "the head is not the embedding": (
        lambda hf: change(hf, lambda tensors: tensors.update({"lm_head.weight": torch.ones(131, 48)})),
        "has a lm_head.weight of its own, the model's head is its embedding",
    ),
    "the file is cut off": (
        lambda hf: (hf / "model.safetensors").write_bytes((hf / "model.safetensors").read_bytes()[:-100]),
        "model.safetensors cannot be read",
    ),
    "the file is no safetensors": (
        lambda hf: (hf / "model.safetensors").write_bytes(b"PK\x03\x04" + bytes(100)),
        "model.safetensors cannot be read",
    ),
    "weights are pickled": (
        lambda hf: (hf / "model.safetensors").rename(hf / "pytorch_model.bin"),
        "holds pickled weights, which llmc never opens",
    ),
    "there are no weights": (
        lambda hf: (hf / "model.safetensors").unlink(),
        "has neither model.safetensors nor a readable model.safetensors.index.json",
    ),
    "weights are quantised": (
        lambda hf: (hf / "config.json").write_text('{"quantization_config": {"quant_method": "gptq"}}'),
        r"holds quantised weights \(gptq\)",
    ),
    "config.json is damaged": (
        lambda hf: (hf / "config.json").write_text('{"model_type": '),
        "config.json cannot be read",
    ),
}


@pytest.mark.parametrize("fault", SPOILED)
def test_a_spoiled_checkpoint_is_refused_and_nothing_is_written(program: Any, hf: Path, tmp_path: Path, fault: str):
    spoil, message = SPOILED[fault]
    spoil(hf)
    with pytest.raises(RunError, match=message):
        program.import_(hf, tmp_path / "weights")
    assert not (tmp_path / "weights").exists()


def test_an_index_may_not_lead_out_of_its_folder(program: Any, hf: Path, tmp_path: Path):
    (hf / "model.safetensors").rename(tmp_path / "secret.safetensors")
    (hf / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../secret.safetensors"}}')
    with pytest.raises(RunError, match="is not a file beside it"):
        program.import_(hf, tmp_path / "weights")


def test_a_folder_is_not_written_onto_itself(program: Any, hf: Path):
    before = (hf / "model.safetensors").read_bytes()
    with pytest.raises(RunError, match="would overwrite itself"):
        program.import_(hf, hf)
    assert (hf / "model.safetensors").read_bytes() == before


def test_weights_of_another_shape_are_not_exported(program: Any, hf: Path, tmp_path: Path):
    program.import_(hf, tmp_path / "weights")
    change(tmp_path / "weights", lambda tensors: tensors.update({"embed.weight": torch.ones(7, 48)}))
    with pytest.raises(RunError, match=r"embed.weight has shape \[7, 48\] in .*, the model has \[131, 48\]"):
        program.export(tmp_path / "weights", tmp_path / "back")


def test_the_converter_is_a_program(program: Any, home: Path, hf: Path, tmp_path: Path):
    """From another folder, in a process of its own."""

    def convert(*args: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, program.folder / "convert.py", *args]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)

    there = convert("import", hf, "weights")
    assert (there.returncode, there.stdout) == (0, "40 tensors written to weights\n"), there.stderr
    back = convert("export", "weights", "back")
    assert back.returncode == 0, back.stderr
    assert (tmp_path / "back/model.safetensors").read_bytes() == (hf / "model.safetensors").read_bytes()
    load_weights(program.model.Model(), tmp_path / "weights")

    (hf / "model.safetensors").unlink()
    failed = convert("import", hf, "elsewhere")
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: ")
    assert "help: " in failed.stderr
    assert "Traceback" not in failed.stderr
