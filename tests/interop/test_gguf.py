"""GGUF files as Hugging Face folders: weights, rotary scaling, tokenizers, and files that are damaged or unknown."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import nn

from llmc.runtimes.common.errors import RunError
from llmc.runtimes.pytorch.huggingface.gguf import gguf_to_huggingface

TOKENS = ["<s>", "</s>", "<tool>", *"abcdefgh 0123456789", "Ġ", "ab", "abc", "Ġab", "12", "123"]
MERGES = ["a b", "ab c", "Ġ ab", "1 2", "12 3"]
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 8
OURS_TO_GGUF = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    """`model.layers.3.self_attn.q_proj.weight` -> `blk.3.attn_q.weight`."""
    stem, _, kind = name.rpartition(".")
    if stem in OURS_TO_GGUF:
        return f"{OURS_TO_GGUF[stem]}.{kind}"
    layer, _, part = stem.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{OURS_TO_GGUF[part]}.{kind}"


def pairs_from_halves(rows: np.ndarray, num_heads: int) -> np.ndarray:
    """What llama.cpp's converter does to queries and keys: row i of the second half goes after row i of the first."""
    halves = rows.reshape(num_heads, 2, HEAD_DIM // 2, -1)
    return halves.swapaxes(1, 2).reshape(rows.shape)


def write_gguf(
    path: Path,
    model: Any,
    *,
    arch: str,
    heads: int | list[int] = HEADS,
    tokenizer: str = "gpt2",
    pre: str = "gpt-2",
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    edit: Callable[[gguf.GGUFWriter], None] = lambda writer: None,
) -> None:
    """A GGUF file of a transformers model, by the format's own library."""
    config = model.config
    writer = gguf.GGUFWriter(path, arch)
    writer.add_context_length(64)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD_DIM)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_tokenizer_model(tokenizer)
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 4] + [1] * (len(TOKENS) - 3))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    edit(writer)
    for name, tensor in model.state_dict().items():
        values = tensor.numpy()
        if arch == "llama" and "q_proj" in name:
            values = pairs_from_halves(values, HEADS)
        if arch == "llama" and "k_proj" in name:
            values = pairs_from_halves(values, KV_HEADS)
        if values.ndim == 2 and kind != gguf.GGMLQuantizationType.F32:
            writer.add_tensor(gguf_name(name), gguf.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(gguf_name(name), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def make(randomise: Callable[[nn.Module, int], None]) -> Callable[..., Any]:
    """A tiny model of transformers' by the name of its config class."""

    def make_model(config_class: str, **changes: Any) -> Any:
        values = {
            "vocab_size": len(TOKENS),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": HEADS,
            "num_key_value_heads": KV_HEADS,
            "head_dim": HEAD_DIM,
            "max_position_embeddings": 64,
            "rms_norm_eps": 1e-5,
        }
        config = getattr(transformers, config_class)(**{**values, **changes})
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
        randomise(model, 3)
        return model

    return make_model


@pytest.fixture
def llama(make: Callable[..., Any]) -> Any:
    return make("LlamaConfig")


@pytest.mark.parametrize(
    ("arch", "config_class", "changes"),
    [
        ("llama", "LlamaConfig", {}),
        ("llama", "LlamaConfig", {"attention_bias": True}),
        ("qwen2", "Qwen2Config", {}),
        ("qwen3", "Qwen3Config", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    ],
)
def test_weights_and_config_come_back(
    make: Callable[..., Any], tmp_path: Path, arch: str, config_class: str, changes: dict[str, Any]
):
    theirs = make(config_class, **changes)
    write_gguf(tmp_path / "model.gguf", theirs, arch=arch)
    gguf_to_huggingface(tmp_path / "model.gguf", tmp_path / "hf")
    found = load_file(tmp_path / "hf/model.safetensors")
    assert found.keys() == theirs.state_dict().keys()
    assert all(torch.equal(found[name], value) for name, value in theirs.state_dict().items())
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        torch.testing.assert_close(again(tokens).logits, theirs(tokens).logits, rtol=0, atol=1e-6)


def test_quantised_blocks_become_what_they_stand_for(llama: Any, tmp_path: Path):
    kind = gguf.GGMLQuantizationType.Q8_0
    write_gguf(tmp_path / "model.gguf", llama, arch="llama", kind=kind)
    gguf_to_huggingface(tmp_path / "model.gguf", tmp_path / "hf")
    name = "model.layers.1.mlp.down_proj.weight"
    original = llama.state_dict()[name].numpy()
    found = load_file(tmp_path / "hf/model.safetensors")[name].numpy()
    np.testing.assert_array_equal(found, gguf.dequantize(gguf.quantize(original, kind), kind))
    assert 0 < np.abs(found - original).max() < 0.02


def test_a_tied_head_is_recognised(make: Callable[..., Any], tmp_path: Path):
    theirs = make("LlamaConfig", tie_word_embeddings=True)
    head = theirs.lm_head
    del theirs.lm_head  # as converters write it: once
    write_gguf(tmp_path / "model.gguf", theirs, arch="llama")
    theirs.lm_head = head
    gguf_to_huggingface(tmp_path / "model.gguf", tmp_path / "hf")
    assert json.loads((tmp_path / "hf/config.json").read_text())["tie_word_embeddings"] is True


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_the_rotary_scaling_of_llama3_is_recognised_by_its_divisors(
    make: Callable[..., Any], tmp_path: Path, factor: float
):
    parameters = {"rope_theta": 500000.0, "rope_type": "default"}
    theirs = make("LlamaConfig", rope_parameters=parameters)
    scaling = {"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling |= {"original_max_position_embeddings": 8192}
    scaled = make("LlamaConfig", rope_parameters={**parameters, **scaling}, max_position_embeddings=16384)
    divisors = theirs.model.rotary_emb.inv_freq / scaled.model.rotary_emb.inv_freq
    assert (divisors.min(), divisors.max()) == (1, factor)
    write_gguf(
        tmp_path / "model.gguf",
        theirs,
        arch="llama",
        edit=lambda writer: writer.add_tensor("rope_freqs.weight", divisors.numpy()),
    )
    gguf_to_huggingface(tmp_path / "model.gguf", tmp_path / "hf")
    assert json.loads((tmp_path / "hf/config.json").read_text())["rope_scaling"] == scaling


def tokenizer_of(path: Path, model: Any, **options: Any) -> Tokenizer:
    write_gguf(path / "model.gguf", model, arch="llama", **options)
    gguf_to_huggingface(path / "model.gguf", path / "hf")
    return Tokenizer.from_file(str(path / "hf/tokenizer.json"))


@pytest.mark.parametrize(
    ("pre", "expected"),
    [
        ("gpt-2", ["abc", "Ġab", "123", "4", "5"]),
        ("smollm", ["abc", "Ġab", "1", "2", "3", "4", "5"]),
        ("qwen2", ["abc", "Ġab", "1", "2", "3", "4", "5"]),
        ("llama-bpe", ["<s>", "abc", "Ġab", "123", "4", "5"]),
    ],
)
def test_the_name_of_the_pre_tokenizer_decides_how_digits_are_cut(
    llama: Any, tmp_path: Path, pre: str, expected: list[str]
):
    assert tokenizer_of(tmp_path, llama, pre=pre).encode("abc ab12345").tokens == expected


def test_special_tokens_are_special_and_added_ones_are_not(llama: Any, tmp_path: Path):
    tokenizer = tokenizer_of(tmp_path, llama)
    encoded = tokenizer.encode("ab</s><tool>")
    assert encoded.tokens == ["ab", "</s>", "<tool>"]
    assert tokenizer.decode(encoded.ids) == "ab<tool>"


def test_the_chat_template_and_the_roles_of_tokens_are_kept(llama: Any, tmp_path: Path):
    tokenizer_of(tmp_path, llama, edit=lambda writer: writer.add_chat_template("{{ messages[0].content }}"))
    config = json.loads((tmp_path / "hf/tokenizer_config.json").read_text())
    assert config["chat_template"] == "{{ messages[0].content }}"
    assert (config["bos_token"], config["eos_token"]) == ("<s>", "</s>")


UNKNOWN: dict[str, tuple[dict[str, Any], str]] = {
    "an architecture": ({"arch": "mamba"}, "is a mamba; known GGUF architectures: llama, qwen2, qwen3"),
    "a pre-tokenizer": ({"pre": "tekken"}, "names the pre-tokenizer tekken; known: gpt-2, llama-bpe, qwen2, smollm"),
    "a kind of tokenizer": ({"tokenizer": "llama"}, "has a llama tokenizer; known: gpt2"),
    "a tensor": (
        {"edit": lambda writer: writer.add_tensor("blk.0.ffn_gate_exps.weight", np.ones((2, 2), np.float32))},
        "has a tensor blk.0.ffn_gate_exps.weight that a llama-like model lacks",
    ),
    "a rotary scaling": (
        {"edit": lambda writer: writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)},
        "states a rotary scaling",
    ),
    "divisors of rotary frequencies": (
        {"edit": lambda writer: writer.add_tensor("rope_freqs.weight", np.array([1, 2, 3, 9], np.float32))},
        "scales its rotary frequencies in an unknown way",
    ),
    "heads that differ between layers": ({"heads": [4, 2]}, "has .4, 2. for llama.attention.head_count"),
}


@pytest.mark.parametrize("what", UNKNOWN)
def test_what_is_not_known_is_refused(llama: Any, tmp_path: Path, what: str):
    options, message = UNKNOWN[what]
    write_gguf(tmp_path / "model.gguf", llama, **{"arch": "llama", **options})
    with pytest.raises(RunError, match=message):
        gguf_to_huggingface(tmp_path / "model.gguf", tmp_path / "hf")


def test_a_damaged_file_is_refused(llama: Any, tmp_path: Path):
    """Cut off at any place, or with any byte of its header changed: never another exception than RunError."""
    write_gguf(tmp_path / "whole.gguf", llama, arch="llama")
    whole = (tmp_path / "whole.gguf").read_bytes()
    rng = np.random.default_rng(0)
    damaged = [whole[: int(size)] for size in rng.integers(0, len(whole), 40)]
    for place in rng.integers(0, 1500, 60):
        damaged.append(whole[:place] + bytes([whole[place] ^ 0x5A]) + whole[place + 1 :])
    refused = 0
    for data in damaged:
        (tmp_path / "model.gguf").write_bytes(data)
        try:
            gguf_to_huggingface(tmp_path / "model.gguf", tmp_path / "hf")
        except RunError:
            refused += 1
    assert refused > 50  # a changed letter of a token is no damage that can be seen
