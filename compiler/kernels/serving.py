"""The kernels of a server: on a CPU with weights in bf16, int8 or int4, on a GPU, and on TPUs.

Of a step for one token much is the calls of separate ops, and the copies of keys and values that they need: beside the linear
layers there are kernels for the attention of running answers, and on CPUs for that of prompts, residual sum and norm, and the gated activation.
GPUs have products of their own for bf16 and fp32; there it is weights in few bits, the attention of running answers, drawing tokens, and experts.
On Ascend it is ops of torch-npu in bf16: attention of running answers, residual sum and norm, the gate.
TPUs have the attention of running answers: their compiler would gather all keys that a sequence may have, also on several chips.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .add_norm import AddNorm
from .chips import chip_name, chip_of
from .decode_attention import choose_decode_attention
from .experts import choose_experts
from .gated_linear import ACTIVATIONS, GatedLinear
from .kernel import Kernel, LeftAlone
from .paged_attention import choose_paged_attention
from .prefill_attention import prefill_beside
from .sampling import choose_sampling
from .tpus import tpu_name, tpu_of
from .weight_only_linear import BITS, choose_weight_only

if TYPE_CHECKING:
    from ...spec.document import Spec
    from .kernel import DType, Language


def has_serving_kernels(spec: Spec, *, weights: str, devices: int) -> bool:
    """Whether a server with weights in that format has kernels. Few bits are refused where it cannot (lower/refuse.py);
    with bf16 it is PyTorch's ops then, and so it is in fp32, for a program that trains as well, where keys and values are kept in
    another format than what is computed (but for int8), and where a replica has several devices that are no TPUs."""
    assert spec.serve is not None
    kept = spec.serve.kv_cache.dtype
    if spec.hardware.accelerator.kind == "tpu":
        return spec.train is None and kept == weights and weights in ("bf16", "fp32")
    if devices > 1:
        return False
    if weights in BITS:
        return True
    is_alone = spec.train is None and (kept == weights or (kept == "int8" and weights == "bf16"))
    if spec.hardware.accelerator.kind != "cpu":
        return is_alone and weights in ("bf16", "fp32") and serves_on_gpu(spec)
    is_plain = spec.model.moe is None and spec.model.attention.kind != "mla"
    return is_alone and weights == "bf16" and is_plain


def has_packed_weights(spec: Spec, *, weights: str, devices: int) -> bool:
    """Whether linear layers are kernels, which keep weights in an order of their own."""
    is_ours = weights in BITS or spec.hardware.accelerator.kind == "cpu"
    return is_ours and has_serving_kernels(spec, weights=weights, devices=devices)


def serves_on_gpu(spec: Spec) -> bool:
    """Whether there is Triton for the device."""
    return spec.hardware.accelerator.kind == "gpu" and chip_of(spec.hardware.accelerator) is not None


def serves_on_npu(spec: Spec, *, weights: str, stages: int) -> bool:
    """Whether torch-npu has ops for the device, in the format of weights, keys and values: its attention knows no fp32."""
    accelerator = spec.hardware.accelerator
    assert spec.serve is not None
    is_bf16 = weights == "bf16" and spec.serve.kv_cache.dtype == "bf16"
    is_ascend = accelerator.kind == "npu" and chip_of(accelerator) is not None
    return is_ascend and is_bf16 and spec.train is None and stages == 1


def choose_on_npu(spec: Spec, *, longest: int, tp: int) -> tuple[Kernel, ...]:
    """Of one of `tp` ranks."""
    found = (
        choose_paged_attention(spec, dtype="bf16", longest=longest, tp=tp),
        _add_norm(spec, dtype="bf16", language="npu"),
        _gated(spec, dtype="bf16", language="npu", tp=tp),
    )
    return tuple(each for each in found if not isinstance(each, LeftAlone))


def choose_serving(spec: Spec, *, weights: str, dtype: DType, longest: int, tp: int = 1) -> tuple[Kernel, ...]:
    """Linear layers come first: those of the blocks, then the head's. With `tp` a device has a part of the heads."""
    if spec.hardware.accelerator.kind == "tpu":
        return _on_tpus(spec, dtype=dtype, longest=longest, tp=tp)
    if spec.hardware.accelerator.kind != "cpu":
        return _on_gpu(spec, weights=weights, dtype=dtype, longest=longest)
    attention = choose_decode_attention(spec, dtype=dtype, longest=longest)
    others = (
        attention,
        attention if isinstance(attention, LeftAlone) else prefill_beside(attention),
        _add_norm(spec, dtype=dtype),
        _gated(spec, dtype=dtype),
    )
    linear = choose_weight_only(spec, weights=weights, dtype=dtype)
    return (*linear, *(each for each in others if not isinstance(each, LeftAlone)))


def _on_tpus(spec: Spec, *, dtype: DType, longest: int, tp: int) -> tuple[Kernel, ...]:
    tpu, name = tpu_of(spec.hardware.accelerator), tpu_name(spec.hardware.accelerator)
    assert tpu is not None
    found = choose_decode_attention(spec, dtype=dtype, longest=longest, tpu=tpu, chip_name=name, tp=tp)
    return () if isinstance(found, LeftAlone) else (found,)


def _on_gpu(spec: Spec, *, weights: str, dtype: DType, longest: int) -> tuple[Kernel, ...]:
    chip, name = chip_of(spec.hardware.accelerator), chip_name(spec.hardware.accelerator)
    assert chip is not None
    linear = choose_weight_only(spec, weights=weights, dtype=dtype, chip=chip, chip_name=name)
    attention = choose_decode_attention(spec, dtype=dtype, longest=longest, chip=chip, chip_name=name)
    sampling = choose_sampling(vocab_size=spec.model.vocab_size, chip=chip, chip_name=name)
    moe = spec.model.moe
    experts = () if moe is None else choose_experts(moe, dtype=dtype, chip=chip, chip_name=name)
    found = (*linear, attention, sampling, *experts)
    return tuple(each for each in found if not isinstance(each, LeftAlone))


def _add_norm(spec: Spec, *, dtype: DType, language: Language = "cpp") -> AddNorm | LeftAlone:
    block, norm = spec.model.block, spec.model.norm
    if norm.kind != "rmsnorm":
        return LeftAlone("there is no LayerNorm in C++, and none in torch-npu that adds")
    if norm.unit_offset and language == "npu":
        return LeftAlone("torch-npu's op multiplies with the weight as it is")
    if block.kind != "sequential" or block.norms != "pre" or block.residual_scale is not None:
        return LeftAlone("the norms of these blocks do not follow a plain residual sum alone")
    return AddNorm(
        name="add_rms_norm",
        template="add_rms_norm",
        dtype=dtype,
        language=language,
        has_backward=False,
        hidden_size=spec.model.hidden_size,
        eps=norm.eps,
        unit_offset=norm.unit_offset,
    )


def _gated(spec: Spec, *, dtype: DType, language: Language = "cpp", tp: int = 1) -> GatedLinear | LeftAlone:
    name = spec.model.mlp.activation
    if name not in (ACTIVATIONS if language == "cpp" else ("swiglu",)):
        return LeftAlone(f"there is no kernel for {name}")
    if language == "npu" and spec.model.moe is not None:
        return LeftAlone("experts and layers without them differ in width")
    title, formula, activation = ACTIVATIONS[name]
    return GatedLinear(
        name=name,
        template="gated_linear",
        dtype=dtype,
        language=language,
        has_backward=False,
        eager=name,
        size=spec.model.intermediate_size // tp,
        title=title,
        formula=formula,
        activation=activation,
        has_bias=False,
    )
