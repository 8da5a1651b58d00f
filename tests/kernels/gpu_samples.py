"""The Triton kernels that the tests make: every kind, in small and odd sizes."""

from __future__ import annotations

from typing import Any

from llmc.compiler.kernels.adamw import AdamW
from llmc.compiler.kernels.add_norm import AddNorm
from llmc.compiler.kernels.causal_attention import CausalAttention
from llmc.compiler.kernels.chips import CHIPS, Chip
from llmc.compiler.kernels.decode_attention import DecodeAttention
from llmc.compiler.kernels.experts import ChooseExperts, ExpertLinear
from llmc.compiler.kernels.gated_linear import ACTIVATIONS, GatedLinear
from llmc.compiler.kernels.kernel import BYTES, DType
from llmc.compiler.kernels.linear_cross_entropy import LinearCrossEntropy
from llmc.compiler.kernels.sampling import Sampling, choose_sampling
from llmc.compiler.kernels.serving_tiles import expert_tiles, product_tiles, split_tile
from llmc.compiler.kernels.tiles import attention_tiles, long_row, stream, whole_row
from llmc.compiler.kernels.weight_only_linear import Bits, WeightOnlyLinear

A100 = CHIPS["sm_80"]


def add_norm(dtype: DType, *, hidden_size: int, chip: Chip = A100, **changes: Any) -> AddNorm:
    choices: dict[str, Any] = {"unit_offset": False, "is_layer": False, "has_bias": False, "stream_dtype": "fp32"}
    choices |= changes
    return AddNorm(
        name="add_layer_norm" if choices["is_layer"] else "add_rms_norm",
        template="add_norm",
        dtype=dtype,
        language="triton",
        chip=chip.target,
        hidden_size=hidden_size,
        eps=1e-5,
        tiles=whole_row(hidden_size, chip),
        **choices,
    )


def gated(dtype: DType, *, eager: str, size: int, chip: Chip = A100) -> GatedLinear:
    title, formula, activation = ACTIVATIONS[eager]
    return GatedLinear(
        name=eager,
        template="gated",
        dtype=dtype,
        language="triton",
        chip=chip.target,
        eager=eager,
        size=size,
        title=title,
        formula=formula,
        activation=activation,
        has_bias=False,
        tiles=stream(chip),
    )


def causal_attention(dtype: DType, *, chip: Chip = A100, **changes: Any) -> CausalAttention:
    sizes: dict[str, Any] = {"num_heads": 4, "num_kv_heads": 2, "head_dim": 32, "window": None, "softcap": None}
    sizes |= {"has_rope": True, "interleaved": False} | changes
    heads, kv_heads, size = sizes["num_heads"], sizes["num_kv_heads"], sizes["head_dim"]
    rotary = sizes.setdefault("rotary_dims", size if sizes["has_rope"] else 0)
    return CausalAttention(
        name="causal_attention",
        template="causal_attention",
        dtype=dtype,
        language="triton",
        chip=chip.target,
        scale=size**-0.5,
        longest=4096,
        tiles=attention_tiles(
            heads=heads + kv_heads,
            head_dim=size,
            pairs=rotary // 2,
            copied=kv_heads * size if rotary == size else (heads + 2 * kv_heads) * size,
            number_bytes=4 if dtype == "fp32" else 2,
            chip=chip,
        ),
        **sizes,
    )


def linear_cross_entropy(dtype: DType, *, chip: Chip = A100, **changes: Any) -> LinearCrossEntropy:
    sizes: dict[str, Any] = {"hidden_size": 16, "vocab_size": 1003, "chunk": 64, "z_loss": 0.0, "softcap": None}
    sizes |= {"has_bias": False} | changes
    return LinearCrossEntropy(
        name="linear_cross_entropy",
        template="linear_cross_entropy",
        dtype=dtype,
        language="triton",
        chip=chip.target,
        tiles=long_row(sizes["vocab_size"], chip),
        **sizes,
    )


def adamw(grad_dtype: DType = "bf16", *, chip: Chip = A100) -> AdamW:
    return AdamW(
        name="adamw",
        template="adamw",
        dtype="bf16",
        language="triton",
        chip=chip.target,
        betas=(0.9, 0.95),
        eps=1e-8,
        grad_dtype=grad_dtype,
        tiles=stream(chip),
    )


def decode_attention(dtype: DType, *, chip: Chip = A100, **changes: Any) -> DecodeAttention:
    sizes: dict[str, Any] = {"num_heads": 4, "num_kv_heads": 2, "head_dim": 32, "window": None, "has_rope": True}
    sizes |= changes
    size = sizes["head_dim"]
    sizes.setdefault("rotary_dims", size if sizes["has_rope"] else 0)
    return DecodeAttention(
        name="decode_attention",
        template="decode_attention",
        dtype=dtype,
        language="triton",
        chip=chip.target,
        has_backward=False,
        scale=size**-0.5,
        tiles=split_tile(
            kv_heads=sizes["num_kv_heads"],
            group=sizes["num_heads"] // sizes["num_kv_heads"],
            head_dim=size,
            number_bytes=BYTES[dtype],
            chip=chip,
        ),
        **sizes,
    )


def weight_only_linear(
    dtype: DType, *, bits: Bits, group: int, has_offset: bool = False, has_bias: bool = True, chip: Chip = A100
) -> WeightOnlyLinear:
    return WeightOnlyLinear(
        name=f"int{bits}_linear",
        template="weight_only_linear",
        dtype=dtype,
        language="triton",
        chip=chip.target,
        has_backward=False,
        bits=bits,
        group=group,
        has_offset=has_offset,
        has_bias=has_bias,
        tiles=product_tiles(bits=bits, number_bytes=BYTES[dtype], chip=chip),
    )


def sampling(*, vocab_size: int, chip: Chip = A100) -> Sampling:
    return choose_sampling(vocab_size=vocab_size, chip=chip, chip_name=chip.target)


def choose_experts(*, chip: Chip = A100, **changes: Any) -> ChooseExperts:
    sizes: dict[str, Any] = {"num_experts": 10, "per_token": 3, "score": "softmax", "normalize": True, "scale": 1.0}
    sizes |= {"has_bias": False} | changes
    return ChooseExperts(
        name="choose_experts",
        template="choose_experts",
        dtype="fp32",
        language="triton",
        chip=chip.target,
        has_backward=False,
        **sizes,
    )


def expert_linear(dtype: DType, *, num_experts: int = 5, chip: Chip = A100) -> ExpertLinear:
    return ExpertLinear(
        name="expert_linear",
        template="expert_linear",
        dtype=dtype,
        language="triton",
        chip=chip.target,
        has_backward=False,
        num_experts=num_experts,
        tiles=expert_tiles(number_bytes=BYTES[dtype], chip=chip),
    )
