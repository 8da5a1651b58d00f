"""Kinds of ops. Each states its dims once; shapes, FLOPs, bytes, saved activations and legal splits follow (facts.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

from .dims import Line, Split, Term, parse_line

Group = Literal["input", "view", "embedding", "matmul", "attention", "norm", "pointwise", "routing", "loss"]
"""What law times an op: matrix units, attention kernels, or memory bandwidth."""


@dataclass(frozen=True)
class OpKind:
    """One kind of op.

    `saves` lists what the backward pass keeps: `x0`, `x1` … are the values read, `out` the value written, `own` one more
    tensor of its size, `rows` one figure a row that a norm runs over, and a term such as `B T:fp32` a tensor of its own. `work` is the FLOPs an element of the first value costs in ops
    that are not contractions (an estimate: these ops are bound by memory).
    """

    name: str
    line: str
    group: Group
    saves: tuple[str, ...] = ()
    work: float = 0.0
    moves: float = 0.0

    def __post_init__(self) -> None:
        KINDS[self.name] = self


KINDS: dict[str, OpKind] = {}
"""Name -> kind, filled as the kinds below are made."""

TOKENS = OpKind("tokens", "-> B T", "input")
TARGETS = OpKind("targets", "-> B T", "input")
BLOCK_INPUT = OpKind("block_input", "-> B T D", "input")
LAYERS = OpKind("layers", "B T D -> B T D", "input")

EMBEDDING = OpKind("embedding", "B T, V D -> B T D", "embedding", saves=("x0:int64",))
ADD_POSITIONS = OpKind("add_positions", "B T D, P D -> B T D", "embedding")
ADD_SINUSOIDS = OpKind("add_sinusoids", "B T D -> B T D", "pointwise", work=1)

RMS_NORM = OpKind("rms_norm", "B T D!, D -> B T D", "norm", saves=("x0", "rows:fp32"), work=5)
LAYER_NORM = OpKind("layer_norm", "B T D!, D, D -> B T D", "norm", saves=("x0", "rows:fp32", "rows:fp32"), work=8)
ADD = OpKind("add", "B T D, B T D -> B T D", "pointwise", work=1)

LINEAR = OpKind("linear", "B T D, D F -> B T F", "matmul", saves=("x0",))
ROPE = OpKind("rope", "B T H C! -> B T H C", "pointwise", work=3)
CONCAT_KEYS = OpKind("concat_keys", "B T H N, B T R -> B T H C", "pointwise")
ATTENTION = OpKind(
    "attention", "B T H C, B S K C, B S K C -> B T H C", "attention", saves=("x0", "x1", "x2", "out", "B T H:fp32")
)

ACTIVATION = OpKind("activation", "B T F -> B T F", "pointwise", saves=("x0",), work=8)
GATED_ACTIVATION = OpKind("gated_activation", "B T F, B T F -> B T F", "pointwise", saves=("x0", "x1", "own"), work=8)
SIGMOID_GATE = OpKind("sigmoid_gate", "B T D, B T O -> B T D", "pointwise", saves=("x0", "x1"), work=2)

ROUTE = OpKind("route", "B T E! -> B T X", "routing", saves=("B T E:fp32", "B T X:int64"), work=6)
DISPATCH = OpKind("dispatch", "B T D, B T X -> B T X D", "routing", saves=("B T X:int32",))
EXPERT_LINEAR = OpKind("expert_linear", "B T X D, E D F -> B T X F", "matmul", saves=("x0",))
COMBINE = OpKind("combine", "B T X D, B T X -> B T D", "routing", saves=("x0", "x1"), work=2)

SOFTCAP = OpKind("softcap", "B T V -> B T V", "pointwise", saves=("out",), work=10)
CROSS_ENTROPY = OpKind("cross_entropy", "B T V!, B T -> B T", "loss", saves=("x0", "B T V:fp32"), work=6)

# What passes write in place of the above.
EAGER_ATTENTION = OpKind(
    "eager_attention",
    "B T H C, B S K C, B S K C -> B T H C",
    "attention",
    saves=("x0", "x1", "x2", "B H T S", "B H T S"),
)
FUSED_QKV = OpKind("fused_qkv", "B T D, D W -> B T W", "matmul", saves=("x0",))
SPLIT_HEADS = OpKind("split_heads", "B T W -> B T H C", "view")
GATE_UP = OpKind("gate_up", "B T D, D W -> B T W", "matmul", saves=("x0",))
EXPERT_GATE_UP = OpKind("expert_gate_up", "B T X D, E D W -> B T X W", "matmul", saves=("x0",))
FUSED_GATED_ACTIVATION = OpKind("fused_gated_activation", "B T W -> B T F", "pointwise", saves=("x0",), work=8)
LINEAR_CROSS_ENTROPY = OpKind(
    "linear_cross_entropy", "B T D, B T, D V! -> B T", "loss", saves=("x0", "B T:fp32"), work=6
)


# What a program has a kernel of its own for (compiler/kernels/).
ADD_RMS_NORM = OpKind("add_rms_norm", "B T D!, D -> B T D", "norm", saves=("own", "rows:fp32"), work=6, moves=10)
STREAM_ADD = OpKind("stream_add", "B T D, B T D -> B T D", "view")
ROPE_ATTENTION = OpKind("rope_attention", "B T W -> B T H C", "attention", saves=("x0", "out", "B T H:fp32"))


@dataclass(frozen=True)
class Param:
    """A tensor of the state dict. Its dims are the term of the op's line at its place."""

    name: str
    tied_to: str | None = None
    is_trained: bool = True

    def __str__(self) -> str:
        return self.name + (f"={self.tied_to}" if self.tied_to else "") + ("" if self.is_trained else "*")


@dataclass(frozen=True)
class Op:
    """One op of a graph.

    `name` is its place in the state dict: `attn.q` in a block, `embed` outside. `inputs` are ids of ops (`block/name` or
    `name`). `sizes` binds the dims of the line that the model decides; B, T and S stay free.
    """

    name: str
    kind: str
    line: Line
    inputs: tuple[str, ...] = ()
    params: tuple[Param, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    attrs: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    block: str | None = None

    @property
    def id(self) -> str:
        """Unique in a graph."""
        return f"{self.block}/{self.name}" if self.block else self.name

    @property
    def group(self) -> Group:
        return KINDS[self.kind].group

    @property
    def param_terms(self) -> tuple[tuple[Param, Term], ...]:
        """Each parameter with its dims."""
        return tuple(zip(self.params, self.line.inputs[len(self.inputs) :], strict=True))

    def split(self, dim: str) -> Split:
        """What splitting `dim` over devices asks for (see dims.py)."""
        return self.line.split(dim, num_values=len(self.inputs))

    def with_inputs(self, inputs: tuple[str, ...]) -> Op:
        """The same op reading other values."""
        return replace(self, inputs=inputs)


def make_op(
    kind: OpKind,
    name: str,
    *inputs: str,
    sizes: Mapping[str, int],
    line: str | None = None,
    params: tuple[Param, ...] = (),
    block: str | None = None,
    **attrs: Any,
) -> Op:
    """An op of `kind`; `sizes` may bind more dims than the line has, and `line` replaces the kind's own."""
    parsed = parse_line(line or kind.line)
    bound = {dim: sizes[dim] for dim in parsed.dims if dim in sizes}
    return Op(
        name=name,
        kind=kind.name,
        line=parsed,
        inputs=inputs,
        params=params,
        sizes=MappingProxyType(bound),
        attrs=MappingProxyType({key: value for key, value in attrs.items() if value is not None}),
        block=block,
    )
