"""The Pallas kernels that the tests make: every kind, in small and odd sizes."""

from __future__ import annotations

from typing import Any

from llmc.compiler.kernels.add_norm import AddNorm, norm_block
from llmc.compiler.kernels.causal_attention import CausalAttention
from llmc.compiler.kernels.decode_attention import DecodeAttention
from llmc.compiler.kernels.kernel import BYTES, DType
from llmc.compiler.kernels.tpus import TPUS, Tpu, tpu_attention_tiles, tpu_pages

V5E = TPUS["v5e"]


def add_norm(dtype: DType, *, hidden_size: int, tpu: Tpu = V5E, **changes: Any) -> AddNorm:
    choices: dict[str, Any] = {"unit_offset": False, "is_layer": False, "has_bias": False} | changes
    return AddNorm(
        name="add_layer_norm" if choices["is_layer"] else "add_rms_norm",
        template="add_norm",
        dtype=dtype,
        language="pallas",
        chip=tpu.target,
        hidden_size=hidden_size,
        eps=1e-5,
        stream_dtype=dtype,
        tiles=norm_block(hidden_size, number_bytes=BYTES[dtype], tpu=tpu),
        **choices,
    )


def causal_attention(dtype: DType, *, tpu: Tpu = V5E, longest: int = 150, **changes: Any) -> CausalAttention:
    sizes: dict[str, Any] = {
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 32,
        "window": None,
        "softcap": None,
    } | changes
    size = sizes["head_dim"]
    return CausalAttention(
        name="causal_attention",
        template="causal_attention",
        dtype=dtype,
        language="pallas",
        chip=tpu.target,
        scale=size**-0.5,
        has_rope=True,
        longest=longest,
        tiles=tpu_attention_tiles(size, longest=longest, number_bytes=BYTES[dtype], tpu=tpu),
        **sizes,
    )


def decode_attention(dtype: DType, *, tpu: Tpu = V5E, longest: int = 150, **changes: Any) -> DecodeAttention:
    """Blocks of a tile each."""
    sizes: dict[str, Any] = {
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 32,
        "window": None,
        "softcap": None,
    } | changes
    size, kv_heads = sizes["head_dim"], sizes["num_kv_heads"]
    return DecodeAttention(
        name="decode_attention",
        template="decode_attention",
        dtype=dtype,
        language="pallas",
        chip=tpu.target,
        has_backward=False,
        scale=size**-0.5,
        has_rope=True,
        tiles=tpu_pages(
            kv_heads=kv_heads,
            group=sizes["num_heads"] // kv_heads,
            head_dim=size,
            block_tokens=32 // BYTES[dtype],
            longest=longest,
            number_bytes=BYTES[dtype],
            tpu=tpu,
        ),
        **sizes,
    )
