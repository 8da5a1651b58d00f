"""The kernels of a server on a CPU with weights in bf16, int8 or int4.

Of a step for one token much is the calls of separate ops, and the copies of keys and values that they need: beside the linear
layers there are kernels for the attention of running answers, for residual sum and norm, and for the gated activation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .add_norm import AddNorm
from .decode_attention import choose_decode_attention
from .gated_linear import ACTIVATIONS, GatedLinear
from .kernel import Kernel, LeftAlone
from .weight_only_linear import BITS, choose_weight_only

if TYPE_CHECKING:
    from ...spec.document import Spec
    from .kernel import DType


def has_serving_kernels(spec: Spec, *, weights: str, tp: int) -> bool:
    """Whether a server with weights in that format has kernels. Few bits are refused where it cannot (lower/refuse.py);
    with bf16 it is PyTorch's ops then, and so it is in fp32, for a program that trains as well, where keys and values are kept in
    another format than what is computed, and where tp cuts the model."""
    if tp > 1:
        return False
    if weights in BITS:
        return True
    assert spec.serve is not None
    is_plain = spec.model.moe is None and spec.model.attention.kind != "mla"
    is_alone = spec.train is None and spec.hardware.accelerator.kind == "cpu"
    return weights == "bf16" and spec.serve.kv_cache.dtype == "bf16" and is_plain and is_alone


def choose_serving(spec: Spec, *, weights: str, dtype: DType, longest: int) -> tuple[Kernel, ...]:
    """Linear layers come first: those of the blocks, then the head's."""
    others = (
        choose_decode_attention(spec, dtype=dtype, longest=longest),
        _add_norm(spec, dtype=dtype),
        _gated(spec, dtype=dtype),
    )
    linear = choose_weight_only(spec, weights=weights, dtype=dtype)
    return (*linear, *(each for each in others if not isinstance(each, LeftAlone)))


def _add_norm(spec: Spec, *, dtype: DType) -> AddNorm | LeftAlone:
    block, norm = spec.model.block, spec.model.norm
    if norm.kind != "rmsnorm":
        return LeftAlone("there is no LayerNorm in C++")
    if block.kind != "sequential" or block.norms != "pre" or block.residual_scale is not None:
        return LeftAlone("the norms of these blocks do not follow a plain residual sum alone")
    return AddNorm(
        name="add_rms_norm",
        template="add_rms_norm",
        dtype=dtype,
        language="cpp",
        has_backward=False,
        hidden_size=spec.model.hidden_size,
        eps=norm.eps,
        unit_offset=norm.unit_offset,
    )


def _gated(spec: Spec, *, dtype: DType) -> GatedLinear | LeftAlone:
    name = spec.model.mlp.activation
    if name not in ACTIVATIONS:
        return LeftAlone(f"there is no kernel for {name}")
    title, formula, activation = ACTIVATIONS[name]
    return GatedLinear(
        name=name,
        template="gated_linear",
        dtype=dtype,
        language="cpp",
        has_backward=False,
        eager=name,
        size=spec.model.intermediate_size,
        title=title,
        formula=formula,
        activation=activation,
        has_bias=False,
    )
