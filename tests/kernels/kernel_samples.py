"""The kernels that the tests make: every kind, in small and odd sizes."""

from __future__ import annotations

from typing import Any

import torch

from llmc.compiler.kernels.adamw import AdamW
from llmc.compiler.kernels.add_norm import AddNorm
from llmc.compiler.kernels.causal_attention import CausalAttention
from llmc.compiler.kernels.decode_attention import DecodeAttention
from llmc.compiler.kernels.embed import Embed
from llmc.compiler.kernels.gated_linear import ACTIVATIONS, GatedLinear
from llmc.compiler.kernels.kernel import DType
from llmc.compiler.kernels.linear import Linear
from llmc.compiler.kernels.linear_cross_entropy import LinearCrossEntropy
from llmc.compiler.kernels.prefill_attention import PrefillAttention, prefill_beside
from llmc.compiler.kernels.weight_only_linear import Bits, WeightOnlyLinear

DTYPES: tuple[DType, ...] = ("fp32", "bf16")
TORCH = {"fp32": torch.float32, "bf16": torch.bfloat16}


def add_rms_norm(dtype: DType, *, hidden_size: int, unit_offset: bool = False, has_backward: bool = True) -> AddNorm:
    return AddNorm(
        has_backward=has_backward,
        name="add_rms_norm",
        template="add_rms_norm",
        dtype=dtype,
        language="cpp",
        hidden_size=hidden_size,
        eps=1e-5,
        unit_offset=unit_offset,
    )


def gated_linear(
    dtype: DType, *, eager: str, size: int, has_bias: bool = False, has_backward: bool = True
) -> GatedLinear:
    title, formula, activation = ACTIVATIONS[eager]
    return GatedLinear(
        has_backward=has_backward,
        name=f"{eager}_linear" if has_backward else eager,
        template="gated_linear",
        dtype=dtype,
        language="cpp",
        eager=eager,
        size=size,
        title=title,
        formula=formula,
        activation=activation,
        has_bias=has_bias,
    )


def linear(dtype: DType) -> Linear:
    """Sums of more than 64 numbers (32 in fp32) come in parts."""
    return Linear(name="linear", template="linear", dtype=dtype, language="cpp", panel_bytes=1 << 13)


def causal_attention(dtype: DType, **changes: Any) -> CausalAttention:
    sizes: dict[str, Any] = {"num_heads": 4, "num_kv_heads": 2, "head_dim": 32, "window": None, "has_rope": True}
    sizes |= changes
    return CausalAttention(
        name="causal_attention",
        template="causal_attention",
        dtype=dtype,
        language="cpp",
        scale=sizes["head_dim"] ** -0.5,
        **sizes,
    )


def decode_attention(dtype: DType, **changes: Any) -> DecodeAttention:
    sizes: dict[str, Any] = {"num_heads": 4, "num_kv_heads": 2, "head_dim": 32, "window": None, "has_rope": True}
    sizes |= changes
    return DecodeAttention(
        name="decode_attention",
        template="decode_attention",
        dtype=dtype,
        language="cpp",
        has_backward=False,
        scale=sizes["head_dim"] ** -0.5,
        **sizes,
    )


def prefill_attention(dtype: DType, **changes: Any) -> PrefillAttention:
    return prefill_beside(decode_attention(dtype, **changes))


def linear_cross_entropy(dtype: DType, **changes: Any) -> LinearCrossEntropy:
    sizes: dict[str, Any] = {"hidden_size": 48, "vocab_size": 1003, "chunk": 64, "z_loss": 0.0, "softcap": None}
    sizes |= {"has_bias": False, "language": "cpp"} | changes
    return LinearCrossEntropy(name="linear_cross_entropy", template="linear_cross_entropy", dtype=dtype, **sizes)


def embed(*, vocab_size: int, hidden_size: int) -> Embed:
    return Embed(
        name="embed",
        template="embed",
        dtype="bf16",
        language="pytorch",
        vocab_size=vocab_size,
        hidden_size=hidden_size,
    )


def adamw(grad_dtype: DType = "bf16") -> AdamW:
    return AdamW(
        name="adamw",
        template="adamw",
        dtype="bf16",
        language="cpp",
        betas=(0.9, 0.95),
        eps=1e-8,
        grad_dtype=grad_dtype,
    )


def weight_only_linear(
    dtype: DType,
    *,
    bits: Bits,
    group: int | None = 32,
    has_offset: bool = False,
    has_bias: bool = True,
    rounds_inputs: bool = False,
) -> WeightOnlyLinear:
    return WeightOnlyLinear(
        name="bf16_linear" if group is None else f"int{bits}_linear",
        template="integer_linear" if rounds_inputs else "weight_only_linear",
        dtype=dtype,
        language="cpp",
        has_backward=False,
        bits=bits,
        group=group,
        has_offset=has_offset,
        has_bias=has_bias,
    )
