"""The view of parallel.py: the mesh, what is cut over it, and what is applied to the model, in order."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..cost.stored import cuts_rows_of_experts
from ..planner.layout import ORDER
from .expert_cuts import CutView, expert_cuts
from .latent import LatentView
from .train import TORCH_DTYPES, number_format

if TYPE_CHECKING:
    from ...spec.document import Spec
    from ..planner.layout import CpKind, Layout
    from .experts import ExpertsView
    from .model_view import ModelView
    from .pipeline import PipelineView
    from .train import NumberFormat


@dataclass(frozen=True)
class TensorView:
    """What a tensor-parallel model.py needs beside its local sizes."""

    size: int
    sequence_parallel: bool
    num_heads: int
    """Of the whole model; ModelView has those of a rank."""
    num_kv_heads: int
    kv_copies: int
    """Ranks that hold the same key/value head."""
    vocab_size: int
    """Of the whole model, without padding."""


@dataclass(frozen=True)
class ContextView:
    size: int
    kind: CpKind


@dataclass(frozen=True)
class ParallelView:
    """What templates/pytorch/parallel/parallel.py.j2 needs, under the name `p`."""

    name: str
    origin: str
    device: str
    world_size: int
    axes: tuple[tuple[str, int], ...]
    """Names and degrees above 1, outermost first."""
    zero: int | None
    """None: there is one data-parallel rank, so nothing of it is applied."""
    data_axes: tuple[str, ...]
    """Axes whose ranks see different sequences."""
    is_replicated: bool
    """Whether shards have replicas (HSDP)."""
    number_format: NumberFormat
    is_mixed: bool
    """Whether FSDP keeps fp32 weights and computes with narrow ones."""
    tp: TensorView | None
    cp: ContextView | None
    pp: PipelineView | None
    ep: int
    """Ranks that share the experts, neighbours within dp_shard x cp; 1: every rank has all."""
    experts: ExpertsView | None
    shards_rows_of_experts: bool
    """Whether ZeRO cuts the matrices of experts: there are fewer of them than ranks, or they do not come out even."""
    cuts: tuple[CutView, ...]
    has_validation: bool
    accumulates: bool
    """Whether a step has several micro-batches."""
    summary: tuple[str, ...]
    model_comment: tuple[str, ...]
    data_comment: tuple[str, ...]
    shared_comment: tuple[str, ...]

    @property
    def data_size(self) -> int:
        """Ranks that see different sequences."""
        return math.prod(size for name, size in self.axes if name in self.data_axes)

    @property
    def shard_size(self) -> int:
        return dict(self.axes).get("dp_shard", 1)

    @property
    def joined_name(self) -> str:
        return "replicas" if self.zero == 0 else "shards"

    @property
    def asks_bf16(self) -> bool:
        """Whether the number format is found out when the program starts."""
        return self.is_mixed and self.number_format == "bf16" and self.device == "cpu"

    @property
    def torch_dtype(self) -> str:
        return TORCH_DTYPES[self.number_format]

    @property
    def padded_vocab(self) -> int:
        assert self.tp is not None
        return -(-self.tp.vocab_size // self.tp.size) * self.tp.size

    @property
    def pads_vocabulary(self) -> bool:
        return self.tp is not None and self.padded_vocab != self.tp.vocab_size

    @property
    def travels(self) -> bool:
        """Whether what travels depends on the micro-batch; in a pipeline its stages see to that."""
        return self.pp is None and self.zero is not None and self.accumulates and (self.zero < 3 or self.is_replicated)

    @property
    def data_calls(self) -> tuple[str, ...]:
        """What train.py calls of runtimes/pytorch/parallel/data.py."""
        validates = ["reshard"] if self.zero is not None and self.has_validation else []
        return tuple([*validates, "set_travel"] if self.travels else validates)

    @property
    def sums_whole(self) -> bool:
        """Whether gradients of whole parameters are summed over tp."""
        return self.tp is not None and (
            self.tp.sequence_parallel
            or self.tp.kv_copies == self.tp.size
            or any("is_shared" in cut.cut for cut in self.cuts)
        )

    @property
    def sums_shared(self) -> bool:
        return self.tp is not None and (self.sums_whole or self.tp.kv_copies > 1)

    @property
    def model_args(self) -> str:
        return ", ".join(f"place.{name}" for name in self.model_axes)

    @property
    def model_axes(self) -> tuple[str, ...]:
        """Axes that the model communicates along."""
        names = [name for name in ("tp", "cp") if getattr(self, name) is not None]
        return tuple([*names, "ep"] if self.ep > 1 else names)

    @property
    def expert_axes(self) -> tuple[tuple[str, int], ...]:
        """The mesh of experts: ep in the place of dp_shard and cp, and those that have the same experts."""
        shards = math.prod(size for name, size in self.axes if name in ("dp_shard", "cp"))
        degrees = {name: size for name, size in self.axes if name not in ("dp_shard", "cp")}
        found = []
        for name in ("pp", "dp_replicate", "same_experts", "ep", "tp"):
            size = {"same_experts": shards // self.ep, "ep": self.ep}.get(name, degrees.get(name, 1))
            if size > 1 or name == "same_experts":
                found.append((name, size))
        return tuple(found)

    @property
    def expert_names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.expert_axes)

    @property
    def expert_sizes(self) -> tuple[int, ...]:
        return tuple(size for _, size in self.expert_axes)

    @property
    def expert_comment(self) -> str:
        """Where the weights of experts travel."""
        size = math.prod(size for name, size in self.expert_axes if name in self.expert_shards)
        where = f"{size} ranks have the same experts, and share them" if size > 1 else "no other rank has these experts"
        return f"ep: {where}; their weights travel apart from the rest of a layer."

    @property
    def expert_shards(self) -> tuple[str, ...]:
        """Axes of that mesh whose ranks have the same experts: their weights are sharded or replicated over them."""
        return tuple(name for name, _ in self.expert_axes if name in ("dp_replicate", "same_experts"))

    @property
    def fsdp_imports(self) -> tuple[str, ...]:
        names = ["MixedPrecisionPolicy"] if self.is_mixed else []
        return tuple([*names, "fully_shard"] if self.zero else names)

    @property
    def mesh_imports(self) -> tuple[str, ...]:
        names = ["Axis", "axis"] if self.model_axes or self.pp else []
        if self.zero is not None and len(self.shard_axes) > 1:
            names.append("joined")
        return tuple([*names, "split"] if self.tp and self.tp.kv_copies > 1 else names)

    @property
    def mesh_words(self) -> str:
        return " x ".join(f"{name} {size}" for name, size in self.axes)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.axes)

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(size for _, size in self.axes)

    @property
    def shard_axes(self) -> tuple[str, ...]:
        """Axes that weights are sharded over, or replicated where nothing is sharded."""
        wanted = ("dp_replicate", "dp_shard", "cp") if self.zero == 0 else ("dp_shard", "cp")
        return tuple(name for name in self.names if name in wanted)

    @property
    def cut_kinds(self) -> tuple[str, ...]:
        """The cuts that the table uses."""
        used = {cut.cut.partition("(")[0] for cut in self.cuts}
        inner = {kind for cut in self.cuts for kind in re.findall(r"[A-Z]\w+(?=\()", cut.cut)}
        return tuple(sorted(used | inner | {"Cuts", "Whole"}))


def tensor_of(spec: Spec, layout: Layout) -> TensorView | None:
    if layout.tp == 1:
        return None
    model = spec.model
    kv_heads = {"mqa": 1, "mla": model.num_heads}.get(model.attention.kind, model.num_kv_heads)
    return TensorView(
        size=layout.tp,
        sequence_parallel=layout.sequence_parallel,
        num_heads=model.num_heads,
        num_kv_heads=kv_heads,
        kv_copies=max(1, layout.tp // kv_heads),
        vocab_size=model.vocab_size,
    )


def context_of(layout: Layout) -> ContextView | None:
    return ContextView(size=layout.cp, kind=layout.cp_kind or "ring") if layout.cp > 1 else None


def lower_parallel(spec: Spec, layout: Layout, *, origin: str, device: str, model: ModelView) -> ParallelView | None:
    """None for one device."""
    if layout.devices == 1:
        return None
    assert spec.train is not None
    degrees = {name: getattr(layout, name) for name in reversed(layout.order or ORDER)}
    axes = tuple((name, size) for name, size in degrees.items() if size > 1)
    has_data = layout.data_parallel * layout.cp > 1
    zero = (layout.zero if layout.shards > 1 else 0) if has_data else None
    return ParallelView(
        name=spec.name,
        origin=origin,
        device=device,
        world_size=layout.devices,
        axes=axes,
        zero=zero,
        data_axes=tuple(name for name, _ in axes if name.startswith("dp_")),
        is_replicated=bool(zero) and layout.dp_replicate > 1,
        number_format=number_format(spec.train[0]),
        is_mixed=has_data and spec.train[0].precision != "fp32",
        tp=model.tp,
        cp=model.cp,
        pp=model.pp,
        ep=layout.ep,
        experts=model.experts,
        shards_rows_of_experts=bool(zero) and _shards_rows(model, sharing=layout.shards // layout.ep),
        cuts=tuple(cuts_of(spec, model)),
        has_validation=spec.data is not None and spec.data.split.valid > 0,
        accumulates=layout.grad_accumulation > 1,
        summary=tuple(_summary(layout, model, zero=zero)),
        model_comment=tuple(_model_comment(model)),
        data_comment=_data_comment(layout, zero=zero),
        shared_comment=tuple(_shared_comment(model)),
    )


def _shards_rows(model: ModelView, *, sharing: int) -> bool:
    experts = model.experts
    if experts is None:
        return False
    rows = experts.size * (2 if model.mlp.is_gated else 1)
    return cuts_rows_of_experts(experts.num_experts, sharing=sharing, rows=rows, hidden_size=model.hidden_size)


_ZERO = {
    0: "Every rank holds all weights; gradients are summed over {over}.",
    1: "Optimizer state is sharded over {over} (ZeRO-1).",
    2: "Gradients and optimizer state are sharded over {over} (ZeRO-2).",
    3: "Weights, gradients and optimizer state are sharded over {over} (ZeRO-3).",
}


def _summary(layout: Layout, model: ModelView, *, zero: int | None) -> Iterator[str]:
    """A line a strategy."""
    if model.pp is not None:
        yield f"pp: layers are cut into {model.pp.num_stages} stages over {layout.pp} ranks; {model.pp.words}."
    if layout.tp > 1:
        norms = "; between them each has a run of the tokens" if layout.sequence_parallel else ""
        yield f"tp: heads, feed-forward and vocabulary are cut over {layout.tp} ranks{norms}."
    if layout.cp > 1:
        how = "keys and values go round a ring" if layout.cp_kind == "ring" else "attention swaps tokens for heads"
        yield f"cp: every sequence is cut over {layout.cp} ranks; {how}."
    if zero is not None:
        yield _ZERO[zero].format(over=_over(layout, zero=zero))
    if layout.offload is not None:
        yield "Moments of the optimizer are in the memory of the host, whose cores compute the update."
    if layout.ep > 1:
        yield f"ep: the experts of a layer are spread over {layout.ep} ranks of those; tokens travel to them and back."
    if zero and layout.dp_replicate > 1:
        yield f"There are {layout.dp_replicate} replicas of the shards, whose gradients are summed (HSDP)."


def _over(layout: Layout, *, zero: int) -> str:
    names = ("dp_replicate", "dp_shard", "cp") if zero == 0 else ("dp_shard", "cp")
    return " and ".join(name for name in names if getattr(layout, name) > 1)


def _model_comment(model: ModelView) -> Iterator[str]:
    if model.pp is not None:
        yield "pp: of the model, the layers of this stage."
    strategies = [name for name in ("tp", "cp") if getattr(model, name) is not None]
    if strategies:
        yield f"{' and '.join(strategies)}: model.py has the sizes of a rank and says where it communicates."
    if model.recompute == "full":
        yield "Recompute: a block keeps its input alone (model.py, Model.forward)."
    if model.recompute == "selective":
        yield "Recompute: attention keeps its input alone (model.py, Block.forward)."


def _data_comment(layout: Layout, *, zero: int | None) -> tuple[str, ...]:
    if zero is None:
        return ()
    if zero == 0:
        return ("Data parallel: gradients of a layer are summed while those of the layers below are computed.",)
    if zero == 3:
        return ("ZeRO-3: a layer's weights are gathered before each use and freed after it.",)
    keeps = "between steps; in between, gradients are whole as well" if zero == 1 else "between steps"
    return (f"ZeRO-{zero}: weights are gathered once a step and sharded {keeps}.",)


def _shared_comment(model: ModelView) -> Iterator[str]:
    tp = model.tp
    if tp is None:
        return
    if model.experts is not None:
        yield "A rank of tp has the gradient that its part of the experts gives their router: the whole one is the sum."
    if tp.sequence_parallel:
        yield "A rank of tp has the gradient that its tokens give norms and biases: the whole one is the sum."
    elif getattr(model.attention, "qk_norm", None) == "head":
        yield "A rank of tp has the gradient that its heads give their norms: the whole one is the sum."
    if tp.kv_copies > 1:
        yield "So it is with key and value heads that several ranks have."


def cuts_of(spec: Spec, model: ModelView) -> list[CutView]:
    """Parameters of model.py that tp and ep cut, and those that each rank sees a share of, in the order of its modules."""
    tp = model.tp
    if tp is None:
        return list(expert_cuts(spec, model)) if model.ep else []
    cuts = [CutView("embed.weight", f"Rows({tp.vocab_size})", "of the vocabulary")]
    cuts += _latent_cuts(model.attention, tp) if isinstance(model.attention, LatentView) else _head_cuts(spec, tp)
    cuts.append(CutView("attn.out.weight", "Columns()", "heads"))
    cuts += expert_cuts(spec, model)
    if model.experts is None or model.experts.layer_condition:  # some layers are dense
        cuts += _dense_cuts(spec)
    if not spec.model.tie_embeddings:
        cuts.append(CutView("head.weight", f"Rows({tp.vocab_size})", "of the vocabulary"))
    if spec.model.head.bias:
        cuts.append(CutView("head.bias", f"Rows({tp.vocab_size})", ""))
    return cuts


def _head_cuts(spec: Spec, tp: TensorView) -> Iterator[CutView]:
    attention, head_dim = spec.model.attention, spec.model.head_dim
    assert attention.kind != "mla"
    q_size, kv_size, copies = tp.num_heads * head_dim, tp.num_kv_heads * head_dim, tp.kv_copies
    qkv = f"Sections(({q_size}, {kv_size}, {kv_size}), copies=(1, {copies}, {copies}))"
    yield from (CutView(f"attn.qkv.{kind}", qkv, "queries, keys, values: heads") for kind in _kinds(attention.qkv_bias))
    if attention.qk_norm == "head":
        yield from (
            CutView(f"attn.{name}", "Whole(is_shared=True)", "sees the rank's heads") for name in _qk_norms(spec)
        )
    if attention.sinks:
        yield CutView("attn.sinks", f"Rows({tp.num_heads})", "a head each")


def _dense_cuts(spec: Spec) -> Iterator[CutView]:
    """Of a feed-forward block that every token goes through."""
    size, mlp = spec.model.intermediate_size, spec.model.mlp
    if mlp.is_gated:
        up = f"Sections(({size}, {size}), copies=(1, 1))"
        yield from (CutView(f"mlp.gate_up.{kind}", up, "gate, up") for kind in _kinds(mlp.bias))
    else:
        yield from (CutView(f"mlp.up.{kind}", f"Rows({size})", "") for kind in _kinds(mlp.bias))
    yield CutView("mlp.down.weight", "Columns()", "")


def _latent_cuts(attention: LatentView, tp: TensorView) -> Iterator[CutView]:
    """What comes from latents; what makes them is whole."""
    queries = "attn.q_up.weight" if attention.q_rank else "attn.q.weight"
    yield CutView(queries, f"Rows({tp.num_heads * attention.head_dim})", "heads")
    keys = tp.num_heads * (attention.nope + attention.v_head_dim)
    yield CutView("attn.kv_up.weight", f"Rows({keys})", "keys and values: heads")


def _kinds(has_bias: bool) -> tuple[str, ...]:
    return ("weight", "bias") if has_bias else ("weight",)


def _qk_norms(spec: Spec) -> list[str]:
    has_bias = spec.model.norm.kind == "layernorm" and spec.model.norm.bias
    return [f"{name}.{kind}" for name in ("q_norm", "k_norm") for kind in _kinds(has_bias)]
