"""Programs built from a Hugging Face config.json compute what transformers computes from the same weights.

Tiny models with random weights, in float32. Sequences are longer than every window and every original context.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from expert_configs import EXPERT_CONFIGS
from torch import Tensor, nn

from llmc.compiler.lower.hf_names import HF_NAMES

VOCAB, NUM_TOKENS, WINDOW = 131, 40, 7
TOLERANCE = 1e-4

_SMALL = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_EPS = 0.02  # large, so that a wrong one shows
_GQA = {**_SMALL, "num_key_value_heads": 2}
_RMS = {**_GQA, "rms_norm_eps": _EPS}
_GPT = {
    "vocab_size": VOCAB,
    "n_embd": 48,
    "n_layer": 3,
    "n_head": 6,
    "n_positions": 64,
    "layer_norm_epsilon": _EPS,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_FALCON = {key: _SMALL[key] for key in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")}
_FALCON |= {"max_position_embeddings": 64, "layer_norm_epsilon": _EPS, "bos_token_id": 1, "eos_token_id": 2}


_OPT = {key: value for key, value in _FALCON.items() if key != "layer_norm_epsilon"}


def _rope(kind: str, **parameters: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 5000.0, **parameters}}


_STRETCHED = {"factor": 4.0, "original_max_position_embeddings": 16}

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": (
        "LlamaConfig",
        {**_RMS, **_rope("llama3", **_STRETCHED, low_freq_factor=1.0, high_freq_factor=4.0)},
    ),
    "llama-biases-tied": (
        "LlamaConfig",
        {**_RMS, "head_dim": 16, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    ),
    "llama-linear": ("LlamaConfig", {**_RMS, **_rope("linear", factor=4.0)}),
    "llama-yarn": ("LlamaConfig", {**_RMS, **_rope("yarn", **_STRETCHED)}),
    "mistral": ("MistralConfig", {**_RMS, "sliding_window": WINDOW}),
    "qwen2": ("Qwen2Config", _RMS),
    "qwen2-window": (
        "Qwen2Config",
        {**_RMS, "use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 0},
    ),
    "qwen3": ("Qwen3Config", {**_RMS, "head_dim": 16, "tie_word_embeddings": True}),
    "gemma": ("GemmaConfig", {**_RMS, "head_dim": 16}),
    "gemma2": (
        "Gemma2Config",
        {
            **_RMS,
            "head_dim": 16,
            "sliding_window": WINDOW,
            "query_pre_attn_scalar": 20,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
    ),
    "gemma3": (
        "Gemma3TextConfig",
        {
            **_RMS,
            "num_hidden_layers": 4,
            "head_dim": 16,
            "sliding_window": WINDOW,
            "query_pre_attn_scalar": 20,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        },
    ),
    "gpt2": ("GPT2Config", _GPT),
    "falcon-7b": ("FalconConfig", {**_FALCON, "multi_query": True, "bias": False}),
    "falcon-40b": ("FalconConfig", {**_FALCON, "new_decoder_architecture": True, "num_kv_heads": 2, "bias": False}),
    "falcon-11b": (
        "FalconConfig",
        {**_FALCON, "new_decoder_architecture": True, "num_kv_heads": 3, "num_ln_in_parallel_attn": 1, "bias": False},
    ),
    "falcon-sequential": (
        "FalconConfig",
        {**_FALCON, "multi_query": False, "parallel_attn": False, "bias": True},
    ),
    "bloom": (
        "BloomConfig",
        {
            "vocab_size": VOCAB,
            "hidden_size": 48,
            "n_layer": 3,
            "n_head": 6,
            "seq_length": 64,
            "layer_norm_epsilon": _EPS,
        },
    ),
    "mpt": (
        "MptConfig",
        {
            "vocab_size": VOCAB,
            "d_model": 48,
            "n_layers": 3,
            "n_heads": 6,
            "max_seq_len": 64,
            "layer_norm_epsilon": _EPS,
        },
    ),
    "phi": ("PhiConfig", {**_SMALL, "layer_norm_eps": _EPS}),
    "phi3": ("Phi3Config", {**_RMS, "sliding_window": WINDOW, "partial_rotary_factor": 0.5}),
    "phi3-longrope": (
        "Phi3Config",
        {
            **_RMS,
            "original_max_position_embeddings": 16,
            **_rope("longrope", short_factor=[1.0] * 4, long_factor=[1.0, 1.5, 2.0, 4.0]),
        },
    ),
    "gpt-neox": ("GPTNeoXConfig", {**_SMALL, "hidden_size": 96, "layer_norm_eps": _EPS, "rotary_pct": 0.25}),
    "gpt-neox-sequential": (
        "GPTNeoXConfig",
        {**_SMALL, "hidden_size": 96, "layer_norm_eps": _EPS, "rotary_pct": 0.5, "use_parallel_residual": False},
    ),
    "gptj": ("GPTJConfig", {**_GPT, "rotary_dim": 4}),
    "starcoder2": ("Starcoder2Config", {**_GQA, "norm_epsilon": _EPS, "sliding_window": WINDOW}),
    "gpt-bigcode": ("GPTBigCodeConfig", _GPT),
    "gpt-bigcode-mha": ("GPTBigCodeConfig", {**_GPT, "multi_query": False}),
    "opt": (
        "OPTConfig",
        {**_OPT, "ffn_dim": 80, "word_embed_proj_dim": 48},
    ),
    "granite": (
        "GraniteConfig",
        {
            **_RMS,
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.5,
            "logits_scaling": 4.0,
            "attention_multiplier": 0.2,
        },
    ),
    "stablelm": ("StableLmConfig", {**_GQA, "hidden_size": 96, "layer_norm_eps": _EPS, "use_qkv_bias": True}),
    "glm": ("GlmConfig", {**_RMS, "head_dim": 16}),
    "nemotron": ("NemotronConfig", {**_GQA, "norm_eps": _EPS}),
    **EXPERT_CONFIGS,
}


@dataclass(frozen=True)
class Case:
    """A model of transformers' and the program built from its checkpoint."""

    name: str
    folder: Path
    theirs: Any
    program: Any
    ours: nn.Module
    tokens: Tensor
    expected: Tensor


@pytest.fixture(scope="module", params=CONFIGS)
def case(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    build_for: Callable[[Path], Any],
    randomise: Callable[[nn.Module, int], None],
) -> Case:
    config_class, values = CONFIGS[request.param]
    config = getattr(transformers, config_class)(**values)
    theirs = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    randomise(theirs, 1)
    folder = tmp_path_factory.mktemp(request.param)
    theirs.save_pretrained(folder / "hf")
    program = build_for(folder)
    program.import_(folder / "hf", folder / "weights")
    tokens = torch.randint(0, VOCAB, (2, NUM_TOKENS), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = theirs(tokens).logits
    return Case(request.param, folder, theirs, program, program.load(folder / "weights"), tokens, expected)


def test_every_type_that_is_converted_is_compared():
    assert {getattr(transformers, name).model_type for name, _ in CONFIGS.values()} == set(HF_NAMES)


def test_logits_are_those_of_transformers(case: Case):
    with torch.no_grad():
        found = case.ours.logits(case.ours(case.tokens))
    assert case.expected.std() > 0.2  # there is something to compare
    torch.testing.assert_close(found, case.expected, rtol=0, atol=TOLERANCE)


def test_a_round_trip_gives_the_same_bytes(case: Case):
    case.program.export(case.folder / "weights", case.folder / "back")
    back, original = (case.folder / name / "model.safetensors" for name in ("back", "hf"))
    assert back.read_bytes() == original.read_bytes()


def test_transformers_reads_the_export(case: Case):
    case.program.export(case.folder / "weights", case.folder / "read")
    again = transformers.AutoModelForCausalLM.from_pretrained(case.folder / "read", attn_implementation="eager").eval()
    assert type(again) is type(case.theirs)
    assert again.dtype == torch.float32
    assert again.config.eos_token_id == case.theirs.config.eos_token_id
    with torch.no_grad():
        torch.testing.assert_close(again(case.tokens).logits, case.expected, rtol=0, atol=1e-6)


def test_cached_decoding_generates_what_transformers_generates(case: Case):
    prompt, num_new = case.tokens[:1, :20], 12
    case.theirs.generation_config.eos_token_id = None  # on past a chance end
    expected = case.theirs.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        generation_config=transformers.GenerationConfig(max_new_tokens=num_new, do_sample=False, pad_token_id=0),
    )
    found = _generate(case, prompt, num_new=num_new)
    assert found.tolist() == expected.tolist()


def _generate(case: Case, prompt: Tensor, *, num_new: int) -> Tensor:
    """Greedily: the prompt in two chunks, then a token at a time, in blocks that lie in another order."""
    cache = case.program.model.KVCache(5, 16, torch.float32)
    blocks = torch.tensor([[2, 4, 1, 3]])
    tokens, done = prompt, 0
    for end in (13, *range(prompt.shape[1], prompt.shape[1] + num_new)):
        positions = torch.arange(done, end)[None]
        with torch.no_grad():
            hidden = case.ours.decode(tokens[:, done:end], positions, blocks, cache)
            chosen = case.ours.logits(hidden[:, -1]).argmax(-1, keepdim=True)
        done = end
        if end >= prompt.shape[1]:
            tokens = torch.cat((tokens, chosen), dim=1)
    return tokens


def test_sequences_of_different_lengths_decode_side_by_side(case: Case):
    """Blocks of a cache belong to one sequence each; a step may continue several at once."""
    cache = case.program.model.KVCache(4, 16, torch.float32)
    lengths, blocks = (30, 11), torch.tensor([[3, 0], [2, 1]])
    with torch.no_grad():
        for row, length in enumerate(lengths):
            positions = torch.arange(length)[None]
            case.ours.decode(case.tokens[row : row + 1, :length], positions, blocks[row : row + 1], cache)
        step = torch.stack([case.tokens[row, length : length + 1] for row, length in enumerate(lengths)])
        hidden = case.ours.decode(step, torch.tensor(lengths)[:, None], blocks, cache)
        found = case.ours.logits(hidden[:, 0])
    expected = torch.stack([case.expected[row, length] for row, length in enumerate(lengths)])
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)


def test_the_generated_converter_is_formatted_and_runs(case: Case):
    script = case.program.folder / "convert.py"
    style = subprocess.run(
        [sys.executable, "-m", "ruff", "format", "--check", "--line-length=120", script], capture_output=True, text=True
    )
    assert style.returncode == 0, style.stdout + style.stderr
    assert len(script.read_text(encoding="utf-8").splitlines()) < 60
