"""The view of a program for TPUs: one model with its whole shapes, and which axes of the mesh cut which dim of what.

What pytorch's parallel programs write out as collectives, torch-xla's compiler derives from these tables (SPMD), so model.py is
that of one device. compiler/verify/tpu.py asks the compiler what it made of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...spec.units import GIB
from ..cost.memory import loss_pieces
from ..planner.layout import ORDER
from ..topology.slices import generation_of, torus_words

if TYPE_CHECKING:
    from ...spec.document import Spec
    from ...spec.feed_forward import Moe
    from ...spec.serving import Serve
    from ..planner.layout import Layout

Spread = tuple[str | tuple[str, ...] | None, ...]


@dataclass(frozen=True)
class WeightView:
    """A line of the table of weights."""

    name: str
    spread: str
    """As source: `("tp", None)`."""
    comment: str


@dataclass(frozen=True)
class SectionsView:
    name: str
    sizes: tuple[int, ...]
    comment: str


@dataclass(frozen=True)
class SpmdView:
    """What templates/xla/parallel.py.j2 needs, under the name `s`; model.py and train.py read some of it."""

    name: str
    origin: str
    device: str
    """What the chips are called."""
    axes: tuple[tuple[str, int], ...]
    """Names and degrees, outermost first; one of degree 1 where there is one device."""
    torus: tuple[int, ...] | None
    data_axes: tuple[str, ...]
    rows: int
    """Sequences of a micro-batch, of all devices."""
    tp: int
    weights: tuple[WeightView, ...]
    sections: tuple[SectionsView, ...]
    """Rows that lie rank by rank, with tp."""
    tokens: str
    hidden: str
    """Of hidden states [B, T, D] between blocks."""
    gathered: str
    """Of hidden states whose tokens are gathered from tp; empty where tp does not cut them."""
    features: str
    """Of what matrices that tp cuts by rows give: [B, T, F], [B, T, V]."""
    experts: str
    """Which axis has some of the experts each; `None`: all devices have all."""
    has_dense: bool
    """Whether layers have a feed-forward part without experts."""
    heads: str
    """In attention: [B, H, T, C]."""
    cache: str
    """Of a server's keys and values [K, rows, C]."""
    loss_pieces: int
    """Into how many the loss cuts the tokens that a device has of a sequence."""
    tables: tuple[str, ...]
    """Modules of the model that look things up."""
    up: str
    """The first matrix of the feed-forward part."""
    summary: tuple[str, ...]
    torus_words: str
    topology: str
    """What the TPU compiler calls the slice: `v5p:4x4x8`; empty where the spec gives no torus."""
    slices: int
    """How many of it the data centre's network joins."""
    num_layers: int
    hbm_bytes: int
    """Of a device."""
    matrix_bytes: int
    """Of the matrices of a layer, as they travel: whole, or what a rank of tp has of them."""

    @property
    def world_size(self) -> int:
        return math.prod(size for _, size in self.axes)

    @property
    def mesh_words(self) -> str:
        return " x ".join(f"{name} {size}" for name, size in self.axes)

    @property
    def sections_of(self) -> dict[str, tuple[int, ...]]:
        return {each.name: each.sizes for each in self.sections}


def lower_spmd(spec: Spec, layout: Layout, *, origin: str) -> SpmdView:
    """The view of a program for TPUs, of one device or of many."""
    accelerator = spec.hardware.accelerator
    axes = mesh_axes(layout) or (("dp_shard", 1),)
    cut = _Axes(spec, layout, names=tuple(name for name, size in axes if size > 1))
    topology = spec.hardware.topology
    torus = tuple(int(side) for side in topology.split("x")) if topology is not None else None
    if spec.train is None and layout.devices < spec.hardware.num_devices:
        torus = None  # a replica is told its chips, wherever these are
    generation = generation_of(accelerator)
    return SpmdView(
        name=spec.name,
        origin=origin,
        device=accelerator.name or accelerator.like or "TPU",
        axes=axes,
        torus=torus,
        data_axes=cut.data,
        rows=layout.micro_batch * layout.data_parallel,
        tp=layout.tp,
        weights=tuple(_weights(spec, cut)),
        sections=tuple(_sections(spec)) if layout.tp > 1 else (),
        tokens=as_source((cut.data, cut.of("cp"))),
        hidden=as_source((cut.data, cut.of("cp", "tp") if layout.sequence_parallel else cut.of("cp"), None)),
        gathered=as_source((cut.data, cut.of("cp"), None)) if layout.sequence_parallel and cut.tp else "",
        features=as_source((cut.data, cut.of("cp"), cut.tp)),
        loss_pieces=_loss_pieces(spec, layout),
        tables=("embed", "positions") if spec.model.position.kind == "learned" else ("embed",),
        up="gate_up" if spec.model.mlp.is_gated else "up",
        heads=as_source((cut.data, cut.of("tp", "cp"), None, None)),
        cache=as_source((cut.tp, None, None)),
        experts=as_source((cut.ep,))[1:-2],
        has_dense=spec.model.moe is None or any(not spec.model.is_moe_layer(n) for n in range(spec.model.num_layers)),
        summary=tuple(_summary(layout, cut)),
        torus_words=torus_words(axes, torus, slices=spec.hardware.slices),
        topology=f"{generation.compiler}:{topology}" if topology is not None and generation is not None else "",
        slices=spec.hardware.slices,
        num_layers=spec.model.num_layers,
        hbm_bytes=round(accelerator.memory_gib * GIB),
        matrix_bytes=_matrix_bytes(spec, layout),
    )


def mesh_axes(layout: Layout) -> tuple[tuple[str, int], ...]:
    """Axes of more than one device, outermost first; those of dp_shard that divide the experts are an axis of their own."""
    found = []
    for name in reversed(layout.order or ORDER):
        if name == "dp_shard":
            found += [(name, layout.dp_shard // layout.ep), ("ep", layout.ep)]
        else:
            found.append((name, getattr(layout, name)))
    return tuple((name, size) for name, size in found if size > 1)


def _loss_pieces(spec: Spec, layout: Layout) -> int:
    if not spec.train:
        return 1
    run = spec.train[0].seq_len // layout.cp
    number_bytes = 2 if spec.train[0].precision == "bf16" else 4
    logits = layout.micro_batch * run * -(-spec.model.vocab_size // layout.tp) * number_bytes
    return loss_pieces(logits, run=run)


def _matrix_bytes(spec: Spec, layout: Layout) -> int:
    model, train = spec.model, spec.train
    kv_heads = 1 if model.attention.kind == "mqa" else model.num_kv_heads
    attention = (2 * model.num_heads + 2 * kv_heads) * model.head_dim
    matrices = 3 if model.mlp.is_gated else 2
    feed_forward, moe = matrices * model.intermediate_size, model.moe
    if moe is not None:
        width = moe.intermediate_size or model.intermediate_size
        shared = moe.shared_intermediate_size or moe.shared_experts * width
        feed_forward = matrices * (moe.num_experts // layout.ep * width + shared)
    number_bytes = 2 if train and train[0].precision == "bf16" else 4
    return (attention + feed_forward) * model.hidden_size * number_bytes // layout.tp


class _Axes:
    """The axes of a layout by what they cut."""

    def __init__(self, spec: Spec, layout: Layout, *, names: tuple[str, ...]) -> None:
        self.names = names
        self.data = self.of("dp_replicate", "dp_shard", "ep")
        self.shards = self.of("dp_shard", "ep", "cp") if layout.zero == 3 else ()
        self.expert_shards = self.of("dp_shard") if layout.zero == 3 else ()
        self.tp, self.ep = self.of("tp"), self.of("ep")
        self.is_tied = spec.model.tie_embeddings

    def of(self, *names: str) -> tuple[str, ...]:
        return tuple(name for name in names if name in self.names)


def _weights(spec: Spec, cut: _Axes) -> Iterator[WeightView]:
    """In the order of the modules. Rows are cut, as FSDP cuts them: a gather of rows needs no copies."""
    model = spec.model
    rows = (*cut.tp, *cut.shards)
    if not rows:
        return
    up = "gate_up" if model.mlp.is_gated else "up"
    if cut.is_tied:
        yield WeightView("embed.weight", as_source((rows, None)), "of the vocabulary; it is the head too")
    else:
        yield WeightView("embed.weight", as_source((None, rows)), "a lookup moves numbers of its tokens, not the table")
    yield WeightView("attn.qkv.weight", as_source((rows, None)), "heads" if cut.tp else "")
    yield WeightView("attn.out.weight", as_source((cut.shards, cut.tp)), "")
    if model.moe is None or model.moe.every > 1 or model.moe.first_dense_layers:
        yield WeightView(f"mlp.{up}.weight", as_source((rows, None)), "")
        yield WeightView("mlp.down.weight", as_source((cut.shards, cut.tp)), "")
    if model.moe is not None:
        experts = as_source((cut.ep, cut.expert_shards, None))
        yield WeightView(f"mlp.experts.{up}", experts, "whole experts a device" if cut.ep else "rows of each expert")
        yield WeightView("mlp.experts.down", experts, "")
        if model.moe.shared_experts:
            yield WeightView(f"mlp.shared.{up}.weight", as_source((rows, None)), "")
            yield WeightView("mlp.shared.down.weight", as_source((cut.shards, None)), "")
    if not cut.is_tied:
        yield WeightView("head.weight", as_source((rows, None)), "of the vocabulary")
    if cut.tp:
        biases = {"attn.qkv.bias": model.attention.qkv_bias, f"mlp.{up}.bias": model.mlp.bias}
        biases["head.bias"] = model.head.bias
        for name, is_there in biases.items():
            if is_there:
                yield WeightView(name, as_source((cut.tp,)), "")


def _sections(spec: Spec) -> Iterator[SectionsView]:
    model = spec.model
    kv_heads = 1 if model.attention.kind == "mqa" else model.num_kv_heads
    q, kv = model.num_heads * model.head_dim, kv_heads * model.head_dim
    yield SectionsView("attn.qkv", (q, kv, kv), "queries, keys, values")
    if model.mlp.is_gated:
        yield SectionsView("mlp.gate_up", (model.intermediate_size, model.intermediate_size), "gate, up")


def as_source(spread: tuple[str | tuple[str, ...] | None, ...]) -> str:
    """A spread as a program writes it: an empty tuple is None, one of a single axis is its name."""

    def one(each: str | tuple[str, ...] | None) -> str:
        names = (each,) if isinstance(each, str) else each or ()
        quoted = [f'"{name}"' for name in names]
        return "None" if not quoted else quoted[0] if len(quoted) == 1 else f"({', '.join(quoted)})"

    parts = [one(each) for each in spread]
    return f"({parts[0]},)" if len(parts) == 1 else f"({', '.join(parts)})"


def _summary(layout: Layout, cut: _Axes) -> Iterator[str]:
    """A line a strategy."""
    if layout.tp > 1:
        norms = "; between them each has a run of the tokens" if layout.sequence_parallel else ""
        yield f"tp: heads, feed-forward and vocabulary are cut over {layout.tp} devices{norms}."
    if layout.cp > 1:
        yield f"cp: every sequence is cut over {layout.cp} devices; attention swaps tokens for heads."
    if layout.ep > 1:
        yield f"ep: experts are divided among {layout.ep} devices; tokens go to them and back."
    if cut.shards:
        yield f"Weights, gradients and optimizer state are cut over {' and '.join(cut.shards)} (ZeRO-3), weights gathered where they are used."
    elif cut.data:
        yield "Every device holds all weights; gradients are summed."
    if cut.shards and layout.dp_replicate > 1:
        yield f"There are {layout.dp_replicate} replicas of these, whose gradients are summed (HSDP)."


# ------------------------------------------------------------------------------------------------ what is not lowered yet


def spmd_layout_faults(spec: Spec, layout: Layout) -> Iterator[tuple[str, str]]:
    """(field of `parallel`, message) of layouts that programs for TPUs do not have yet."""
    if layout.pp > 1:
        yield "pp", f"pipelines (pp {layout.pp}) on TPUs are not lowered yet; tensor, context and data parallelism are"
    if layout.zero in (1, 2):
        yield (
            "zero",
            f"zero {layout.zero} on TPUs is not lowered: the compiler gathers weights where they are used (zero: 3), or each device has all (zero: 0)",
        )
    if layout.cp > 1 and layout.cp_kind == "ring":
        yield "cp_kind", "ring attention on TPUs is not lowered yet; `cp_kind: ulysses` is"
    if layout.recompute == "mixed":
        yield (
            "recompute",
            "recompute that differs from layer to layer is not lowered on TPUs yet; none, selective and full are",
        )
    if spec.model.moe is not None:
        yield from _expert_layout_faults(spec.model.moe, layout)
    kv_heads = 1 if spec.model.attention.kind == "mqa" else spec.model.num_kv_heads
    if layout.tp > 1 and kv_heads % layout.tp:
        yield (
            "tp",
            f"tp {layout.tp} on TPUs needs it to divide the {kv_heads} key/value heads; degrees that do are lowered",
        )


def _expert_layout_faults(moe: Moe, layout: Layout) -> Iterator[tuple[str, str]]:
    for name in ("tp", "cp"):
        if getattr(layout, name) > 1:
            yield name, f"{name} {getattr(layout, name)} beside experts on TPUs is not lowered yet; dp and ep are"
    weights = (moe.router.aux_loss_weight if moe.router.balance == "aux_loss" else 0.0, moe.router.z_loss_weight)
    if layout.recompute == "full" and any(weights):
        message = (
            "full recompute of layers whose routers have a loss is not lowered on TPUs yet; none and selective are"
        )
        yield "recompute", message


def _expert_faults(moe: Moe) -> Iterator[tuple[tuple[str, ...], str]]:
    if moe.capacity_factor is None:
        message = "experts that take any number of tokens have shapes that a TPU program cannot have; `capacity_factor` bounds them"
        yield ("model", "moe"), message
    if moe.router.balance == "bias":
        message = "experts balanced by a bias on TPUs are not lowered yet; `balance: aux_loss` is"
        yield ("model", "moe", "router"), message
    if moe.bias:
        yield ("model", "moe", "bias"), "experts with biases on TPUs are not lowered yet; those without are"


def _serve_faults(spec: Spec, serve: Serve) -> Iterator[tuple[tuple[str, ...], str]]:
    if spec.train is not None:
        yield (
            ("serve",),
            "a program that trains on TPUs serves nothing; a spec with `serve` alone, of its weights, does",
        )
    elif serve.shapes != "fixed":
        yield ("serve",), "a server on TPUs compiles each shape, so shapes have to be `fixed`: `shapes: fixed`"
    if spec.model.moe is not None:
        yield ("model", "moe"), "serving experts on TPUs is not lowered yet; dense models are"


def spmd_faults(spec: Spec) -> Iterator[tuple[tuple[str, ...], str]]:
    """(place in the spec, message) of models and sections that programs for TPUs do not have yet."""
    model = spec.model
    attention = model.attention
    if attention.kind == "mla":
        yield ("model", "attention", "kind"), "latent attention (mla) on TPUs is not lowered yet; mha, mqa and gqa are"
    if spec.serve is not None:
        yield from _serve_faults(spec, spec.serve)
    if spec.train is None:
        return
    if model.moe is not None:
        yield from _expert_faults(model.moe)
    if getattr(attention, "sinks", None):
        message = "attention with `sinks` on TPUs is not lowered yet; causal attention, with windows and caps too, is"
        yield ("model", "attention", "sinks"), message
    if getattr(attention, "window", None) and getattr(attention, "global_every", None):
        message = "windows that differ from layer to layer on TPUs are not lowered yet; one for all layers is"
        yield ("model", "attention", "window"), message
    if model.position.kind == "alibi":
        yield ("model", "position"), "ALiBi on TPUs is not lowered yet; rotary, learned and sinusoidal positions are"
    if spec.train is not None and spec.hardware.num_devices > 1 and spec.hardware.topology is None:
        yield ("hardware",), "a slice of TPUs needs its sides, which `topology` gives, such as 2x4"
