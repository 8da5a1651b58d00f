"""The loss and the gradients of training programs are those of transformers.

A program that trains computes with other code than one that serves: fused kernels take the place of what a reader of the
architecture would write. Gradients are compared under Hugging Face's names, by the table of convert.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from expert_configs import EXPERT_CONFIGS
from torch import nn

from llmc.runtimes.pytorch.huggingface.sources import each_layer

TRAIN = """
data: {sources: [{source: python-stdlib}], tokenizer: {train: bpe}}
train: {objective: causal_lm, steps: 2, seq_len: 40, global_batch: 2, precision: fp32}
"""
SIZES = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
MHA = {key: value for key, value in SIZES.items() if key != "num_key_value_heads"}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {**SIZES, "rms_norm_eps": 0.02}),
    "mistral": ("MistralConfig", {**SIZES, "sliding_window": 7}),
    "qwen2": ("Qwen2Config", {**SIZES, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", {**SIZES, "head_dim": 16}),
    "gemma": ("GemmaConfig", {**SIZES, "head_dim": 16}),
    "gemma2": ("Gemma2Config", {**SIZES, "head_dim": 16, "sliding_window": 7, "final_logit_softcapping": 3.0}),
    "gpt2": ("GPT2Config", {"vocab_size": 300, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    "gpt-neox": ("GPTNeoXConfig", MHA),
    "phi": ("PhiConfig", MHA),
    "bloom": ("BloomConfig", {"vocab_size": 300, "hidden_size": 64, "n_layer": 2, "n_head": 4, "seq_length": 64}),
    "granite": ("GraniteConfig", {**SIZES, "residual_multiplier": 0.3, "logits_scaling": 4.0}),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_loss_and_gradients_are_those_of_transformers(
    name: str, tmp_path: Path, build_for: Callable[..., Any], randomise: Callable[[nn.Module, int], None]
):
    config_class, values = CONFIGS[name]
    theirs = transformers.AutoModelForCausalLM.from_config(
        getattr(transformers, config_class)(**values), attn_implementation="eager"
    ).eval()  # no dropout
    randomise(theirs, 1)
    theirs.save_pretrained(tmp_path / "hf")
    program = build_for(tmp_path, TRAIN)
    program.import_(tmp_path / "hf", tmp_path / "weights")
    ours = program.load(tmp_path / "weights")
    tokens, targets = torch.randint(0, 300, (2, 2, 40), generator=torch.Generator().manual_seed(2))

    loss = ours.loss(tokens, targets)
    loss.backward()
    expected = F.cross_entropy(theirs(tokens).logits.flatten(0, 1), targets.flatten(), reduction="sum")
    expected.backward()

    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-3)
    gradients = {key: parameter.grad for key, parameter in ours.named_parameters()}
    for key, source in each_layer(program.convert.TENSORS, num_layers=len(ours.layers)):
        for their_name, part in zip(source.names, source.split(gradients[key]), strict=True):
            known = theirs.get_parameter(their_name.replace("embed_out.", "lm_head.")).grad  # transformers 5 renames it
            assert known.abs().max() > 1e-3, their_name
            worst = (part - known).abs().max() / known.abs().max()
            assert worst < 1e-4, f"{their_name}: {worst:.1e} of the largest gradient"


@pytest.mark.parametrize("name", ["mixtral", "qwen2-moe", "gpt-oss", "deepseek-v2", "deepseek-v3"])
def test_gradients_of_experts_are_those_of_transformers(
    name: str, tmp_path: Path, build_for: Callable[..., Any], randomise: Callable[[nn.Module, int], None]
):
    """Transformers holds experts otherwise than it stores them: its gradients are stored, and read as a checkpoint."""
    config_class, values = EXPERT_CONFIGS[name]
    config = getattr(transformers, config_class)(**{**values, "vocab_size": 300})
    theirs = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    randomise(theirs, 1)
    theirs.save_pretrained(tmp_path / "hf")
    program = build_for(tmp_path, TRAIN)
    program.import_(tmp_path / "hf", tmp_path / "weights")
    ours = program.load(tmp_path / "weights")  # eval: without the routers' part
    tokens, targets = torch.randint(0, 300, (2, 2, 40), generator=torch.Generator().manual_seed(2))

    loss = ours.loss(tokens, targets)
    loss.backward()
    expected = F.cross_entropy(theirs(tokens).logits.flatten(0, 1), targets.flatten(), reduction="sum")
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-3)

    with torch.no_grad():
        for parameter in theirs.parameters():
            assert parameter.grad is not None
            parameter.copy_(parameter.grad)
    theirs.save_pretrained(tmp_path / "gradients")
    program.import_(tmp_path / "gradients", tmp_path / "known")
    known = dict(program.load(tmp_path / "known").named_parameters())
    for key, parameter in ours.named_parameters():
        assert parameter.grad is not None
        assert known[key].abs().max() > 1e-3, key
        worst = (parameter.grad - known[key]).abs().max() / known[key].abs().max()
        assert worst < 1e-4, f"{key}: {worst:.1e} of the largest gradient"
