"""The view of model.py: one decoder, every choice made."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ...spec.model import ParallelBlock
from ..kernels.linear_cross_entropy import chunk_of
from ..kernels.weight_only_linear import WeightOnlyLinear
from .attention import lower_attention
from .experts import lower_experts
from .latent import LatentView, lower_latent
from .layers import lower_layers
from .model_view import BlockKind, MlpView, ModelView, NormView, PackedView
from .numbers import count, plural
from .position import lower_position

if TYPE_CHECKING:
    from ...spec.document import Spec
    from ...spec.feed_forward import Norm
    from ...spec.model import Model
    from ..kernels.kernel import Kernel
    from .attention import AttentionView
    from .experts import ExpertsView
    from .parallel import ContextView, TensorView
    from .pipeline import PipelineView
    from .position import PositionView
    from .spmd import SpmdView

_OF_OTHERS = frozenset({"adamw", "sampling"})
"""Kernels that train.py and serve.py call; model.py calls the others."""


def lower_model(
    spec: Spec,
    *,
    origin: str,
    num_parameters: int,
    recompute: str,
    kernels: tuple[Kernel, ...],
    recomputes_some: bool = False,
    tp: TensorView | None = None,
    cp: ContextView | None = None,
    pp: PipelineView | None = None,
    ep: int = 1,
    rank_groups: int = 1,
    is_parallel: bool = False,
    spmd: SpmdView | None = None,
) -> ModelView:
    """With `tp` and `ep`, sizes are those of one of their ranks; `rank_groups`: see ExpertsView."""
    model = spec.model
    longest = longest_sequence(spec)
    tp_size = tp.size if tp else 1
    if model.attention.kind == "mla":
        attention = lower_latent(model, model.attention, tp=tp_size)
    else:
        attention = lower_attention(model, model.attention, longest=longest, tp=tp_size)
    position = lower_position(model, longest=longest)
    has_decode = spec.serve is not None
    draws_labels = spec.train is not None and spec.train[0].optimizer.name == "sophia"
    experts = lower_experts(spec, tp=tp_size, ep=ep, rank_groups=rank_groups)
    is_fp8 = spec.train is not None and spec.train[0].precision == "fp8"
    packed = [kernel for kernel in kernels if isinstance(kernel, WeightOnlyLinear)]
    called = tuple(kernel.name for kernel in kernels if kernel not in packed and kernel.name not in _OF_OTHERS)
    return ModelView(
        name=spec.name,
        origin=origin,
        num_parameters=count(num_parameters),
        summary=(*_summary(model, attention, experts), *(_FP8_WORDS if is_fp8 else ())),
        hidden_size=model.hidden_size,
        num_layers=model.num_layers,
        vocab_size=-(-model.vocab_size // tp_size),
        embed_scale=_embed_scale(model),
        embed_norm=model.embedding.norm,
        norm=_norm(model.norm),
        position=position,
        attention=attention,
        mlp=_mlp(model, experts=experts, kernels=called, tp=tp_size),
        experts=experts,
        block=_block_kind(model),
        block_doc=_BLOCK_DOCS[_block_kind(model)],
        layers=lower_layers(
            model,
            attention=attention,
            position=position,
            has_decode=has_decode,
            kernels=called,
            is_stage=pp is not None,
        ),
        tie_embeddings=model.tie_embeddings,
        head_bias=model.head.bias,
        head_softcap=model.head.softcap,
        head_scale=model.head.scale,
        residual_scale=getattr(model.block, "residual_scale", None),
        recompute=recompute,
        recomputes_some=recomputes_some,
        has_loss=spec.train is not None,
        has_decode=has_decode,
        kernels=called,
        has_int8_cache=has_decode and spec.serve is not None and spec.serve.kv_cache.dtype == "int8",
        heads_first=has_decode and spec.hardware.accelerator.kind == "tpu",
        is_fp8=is_fp8,
        packed=_packed(packed) if packed else None,
        tp=tp,
        cp=cp,
        pp=pp,
        is_parallel=is_parallel,
        spmd=spmd,
        has_npu_norm=_has_npu_norm(spec, called),
        has_npu_rotary=_has_npu_rotary(spec, position),
        loss_chunk=chunk_of(-(-model.vocab_size // tp_size), precision=spec.train[0].precision)
        if (tp or draws_labels) and spec.train
        else 0,
        draws_labels=draws_labels,
        z_loss=spec.train[0].z_loss if spec.train else 0.0,
    )


_FP8_WORDS = ("Linear layers of blocks multiply in fp8, all else is in bf16 or wider.",)


def _packed(kernels: list[WeightOnlyLinear]) -> PackedView:
    """The first is of the blocks, the last of the head."""
    return PackedView(
        linear=kernels[0].class_name,
        head=kernels[-1].class_name,
        imports=tuple((each.name, each.class_name) for each in kernels),
        torch_dtype=kernels[0].torch_dtype,
    )


def longest_sequence(spec: Spec) -> int:
    """Tokens of the longest sequence that the program will see."""
    lengths = [stage.seq_len for stage in spec.train or ()]
    if spec.serve is not None:
        lengths.append(spec.serve.max_seq_len)
    return max(lengths, default=spec.model.max_seq_len)


def _has_npu_norm(spec: Spec, kernels: tuple[str, ...]) -> bool:
    """Whether a norm is computed by itself, as torch-npu's op; the kernel for sum and norm takes no more than its weight."""
    norm, is_alone = spec.model.norm, "add_rms_norm" not in kernels or getattr(spec.model.attention, "qk_norm", None)
    is_plain = norm.kind == "rmsnorm" and not norm.unit_offset
    return spec.hardware.accelerator.kind == "npu" and is_plain and bool(is_alone)


def _has_npu_rotary(spec: Spec, position: PositionView) -> bool:
    """In servers alone: a gradient would want the turned numbers in fp32. The op turns whole heads."""
    is_whole = position.kind == "rope" and not position.plain_dims and spec.model.attention.kind != "mla"
    return spec.hardware.accelerator.kind == "npu" and spec.train is None and spec.serve is not None and is_whole


def _embed_scale(model: Model) -> float | None:
    scale = model.embedding.scale
    return math.sqrt(model.hidden_size) if scale == "sqrt_hidden_size" else scale


def _norm(norm: Norm) -> NormView:
    if norm.kind == "rmsnorm":
        return NormView(kind="rmsnorm", eps=norm.eps, bias=False, unit_offset=norm.unit_offset)
    return NormView(kind="layernorm", eps=norm.eps, bias=norm.bias, unit_offset=norm.unit_offset)


_ACTIVATIONS = {
    "gelu": ("F.gelu({x})", "GELU"),
    "gelu_tanh": ('F.gelu({x}, approximate="tanh")', "GELU in its tanh form"),
    "relu": ("F.relu({x})", "ReLU"),
    "relu2": ("F.relu({x}).square()", "squared ReLU (So 2021)"),
    "silu": ("F.silu({x})", "SiLU"),
    "swiglu": ("F.silu({x})", "SwiGLU (Shazeer 2020): the up projection, gated by SiLU"),
    "geglu": ("F.gelu({x})", "GeGLU (Shazeer 2020): the up projection, gated by GELU"),
    "geglu_tanh": (
        'F.gelu({x}, approximate="tanh")',
        "GeGLU (Shazeer 2020): the up projection, gated by tanh-form GELU",
    ),
    "clamped_swiglu": (
        "{x} * torch.sigmoid(1.702 * {x})",
        "SwiGLU within bounds, with one added to the up projection (gpt-oss)",
    ),
}
"""Name -> its expression and what the docstring calls it."""


def _mlp(model: Model, *, experts: ExpertsView | None, kernels: tuple[str, ...], tp: int) -> MlpView:
    mlp = model.mlp
    expression, doc = _ACTIVATIONS[mlp.activation]
    sizes = _sizes(model, experts, tp=tp)
    return MlpView(
        size=sizes[0] if sizes else 0,
        sizes=sizes,
        activation=mlp.activation,
        expression=expression.format(x="gate" if mlp.is_gated else "self.up(x)"),
        doc=f"{doc[0].upper()}{doc[1:]}" if mlp.is_gated else f"Up, {doc}, down",
        is_gated=mlp.is_gated,
        bias=mlp.bias,
        kernel=kernel if (kernel := f"{mlp.activation}_linear") in kernels else None,
        gate_kernel=mlp.activation if mlp.activation in kernels else None,
    )


def _sizes(model: Model, experts: ExpertsView | None, *, tp: int) -> tuple[int, ...]:
    """The widths of dense layers and of shared experts, as far as the model has them."""
    dense = (model.intermediate_size // tp,) if experts is None or experts.layer_condition else ()
    shared = (experts.shared_size,) if experts is not None and experts.shared_size is not None else ()
    return tuple(dict.fromkeys((*dense, *shared)))


_BLOCK_DOCS: dict[BlockKind, str] = {
    "pre": "Attention, then the feed-forward block, each on a normed copy of the residual stream.",
    "post": "Attention, then the feed-forward block, with a norm after each residual sum.",
    "sandwich": "Attention, then the feed-forward block, each between two norms.",
    "parallel_shared": "Attention and the feed-forward block side by side, on the same normed residual stream.",
    "parallel_separate": "Attention and the feed-forward block side by side, each on a normed residual stream of its own.",
}


def _block_kind(model: Model) -> BlockKind:
    if isinstance(model.block, ParallelBlock):
        return "parallel_shared" if model.block.norms == "shared" else "parallel_separate"
    return model.block.norms


_POSITION_WORDS = {
    "rope": "rotary positions",
    "alibi": "ALiBi",
    "learned": "learned positions",
    "sinusoidal": "sinusoidal positions",
    "none": "no position encoding",
}


def _summary(model: Model, attention: AttentionView | LatentView, experts: ExpertsView | None) -> tuple[str, ...]:
    heads = plural(model.num_heads, "query head")
    if isinstance(attention, LatentView):
        heads += f" over a latent of {attention.kv_rank}"
    elif attention.is_grouped:
        heads += f" over {plural(model.num_kv_heads, 'key/value head')}"
    words = [
        plural(model.num_layers, "block"),
        heads,
        _POSITION_WORDS[model.position.kind],
        model.mlp.activation,
        model.norm.kind,
    ]
    if experts is not None:
        words.insert(1, experts.words)
    lines = [", ".join(words) + "."]
    asked = getattr(model.attention, "window", None)
    if asked is not None and attention.window is None:
        lines.append(f"The sliding window of {asked} tokens holds every sequence of this program, so none is applied.")
    return tuple(lines)
