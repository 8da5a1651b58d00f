"""What follows from an op's line: parameters, FLOPs, bytes moved, what the backward pass keeps.

`free` binds the dims that the workload decides: {"B": sequences, "T": query tokens, "S": key tokens}.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from .dims import Term, parse_line
from .ops import KINDS, Op, Param
from .types import DType

Free = Mapping[str, float]


def extent(*, batch: int, tokens: int, keys: int | None = None) -> dict[str, int]:
    """The free dims of a forward pass: `batch` sequences of `tokens`, each seeing up to `keys` (default: tokens)."""
    return {"B": batch, "T": tokens, "S": tokens if keys is None else keys}


def num_parameters(op: Op) -> int:
    """Trained parameters of one op; a tied one belongs to the op it is tied to."""
    return sum(term.size(op.sizes) for param, term in op.param_terms if param.is_trained and param.tied_to is None)


def active_parameters(op: Op) -> int:
    """Parameters that one token uses: X of the E experts."""
    total = 0
    for param, term in op.param_terms:
        if not param.is_trained or param.tied_to is not None:
            continue
        size = term.size(op.sizes)
        is_routed = "E" in term.dims and "X" in op.sizes and "E" not in op.line.output.dims
        total += size * op.sizes["X"] // op.sizes["E"] if is_routed else size
    return total


def param_shape(op: Op, param: Param) -> tuple[int, ...]:
    """Sizes of a parameter in the order of its line."""
    term = next(term for each, term in op.param_terms if each == param)
    return tuple(op.sizes[dim] for dim in term.dims)


def visible_pairs(*, tokens: int, keys: int, window: int | None, is_causal: bool = True) -> int:
    """(query, key) pairs that attention computes when `tokens` queries stand at the end of `keys` keys.

    Causal: query i of the last T sees S − T + i keys (i = 1 … T), at most `window` of them.
    """
    if not is_causal:
        return tokens * keys
    before = keys - tokens
    if window is None or window >= keys:
        return tokens * before + tokens * (tokens + 1) // 2
    growing = min(tokens, max(0, window - before))  # queries that still see everything before them
    return growing * before + growing * (growing + 1) // 2 + (tokens - growing) * window


def flops(op: Op, free: Free) -> float:
    """Forward FLOPs; a multiply-add is two.

    A contraction costs 2 · |result| · |summed dims|; attention 2 · B · H · pairs · (query size + value size);
    any other op its kind's `work` an element.
    """
    sizes = {**op.sizes, **free}
    if op.group == "matmul":
        return 2.0 * op.line.output.size(sizes) * math.prod(sizes[dim] for dim in summed_dims(op))
    if op.group == "attention":
        pairs = visible_pairs(tokens=int(sizes["T"]), keys=int(sizes["S"]), window=op.attrs.get("window"))
        query, value = head_dims(op)
        return 2.0 * sizes["B"] * sizes["H"] * pairs * (sizes[query] + sizes[value])
    if op.kind == "linear_cross_entropy":
        return sizes["B"] * sizes["T"] * sizes["V"] * (2.0 * sizes["D"] + KINDS[op.kind].work)
    if not op.inputs:
        return 0.0
    return KINDS[op.kind].work * op.line.inputs[0].size(sizes)


def head_dims(op: Op) -> tuple[str, str]:
    """The dims of a query and of a value head of an attention op."""
    read, written = op.line.inputs[0].dims[-1], op.line.output.dims[-1]
    return (written if read == "W" else read), written


def summed_dims(op: Op) -> tuple[str, ...]:
    """Dims that a value and a parameter share and the result lacks."""
    values, params = op.line.inputs[: len(op.inputs)], op.line.inputs[len(op.inputs) :]
    read = {dim for term in values for dim in term.dims}
    return tuple(
        dict.fromkeys(dim for term in params for dim in term.dims if dim in read and dim not in op.line.output.dims)
    )


def touched_experts(*, num_experts: float, experts_per_token: float, tokens: float) -> float:
    """Experts that at least one of `tokens` visits, when they choose evenly: E (1 − (1 − k/E)^T).

    On a device with E/ep of them, tokens of all ep ranks arrive, so the same holds with its own E as long as k < E.
    """
    return num_experts * (1.0 - (1.0 - min(1.0, experts_per_token / num_experts)) ** tokens)


def bytes_moved(op: Op, free: Free, *, values: DType, weights: DType) -> float:
    """Bytes that one forward execution reads and writes in device memory, each value once."""
    if op.group in ("input", "view"):
        return 0.0
    sizes = {**op.sizes, **free}
    output = op.line.output.size(sizes) * (values.size_bytes + KINDS[op.kind].moves)
    if op.group == "embedding":
        return 2 * output
    read = sum(term.size(sizes) for term in op.line.inputs[: len(op.inputs)]) * values.size_bytes
    return read + output + sum(_param_bytes(op, term, sizes=sizes, weights=weights) for _, term in op.param_terms)


def _param_bytes(op: Op, term: Term, *, sizes: Mapping[str, float], weights: DType) -> float:
    size = term.size(sizes) * weights.size_bytes
    if "E" not in term.dims or "X" not in sizes:
        return size
    touched = touched_experts(num_experts=sizes["E"], experts_per_token=sizes["X"], tokens=sizes["B"] * sizes["T"])
    return size * touched / sizes["E"]


@dataclass(frozen=True)
class Saved:
    """A tensor that stays from the forward to the backward pass. `key` is equal for equal tensors."""

    key: str
    term: Term
    sizes: Mapping[str, int]
    dtype: DType | None
    """None: the format of activations."""

    def size_bytes(self, free: Free, *, values: DType) -> float:
        dtype = self.dtype or values
        return self.term.size({**self.sizes, **free}) * dtype.size_bytes


def saved_tensors(ops: Iterable[Op], *, copies_values: bool = False, copies_heads: bool = False) -> tuple[Saved, ...]:
    """What autograd keeps of these ops, each tensor once however many ops need it.

    A view (a slice of a fused projection) keeps the whole tensor that it looks into. `copies_values`: of a fused projection
    whose queries and keys are rotated copies the values are copied as well, and it is free. `copies_heads`: attention gives one head
    after the other, so what it gave is copied to lie token by token.
    """
    kept: dict[str, Saved] = {}
    for needed in saved_by_op(ops, copies_values=copies_values, copies_heads=copies_heads).values():
        for saved in needed:
            kept.setdefault(saved.key, saved)
    return tuple(kept.values())


def saved_by_op(
    ops: Iterable[Op], *, copies_values: bool = False, copies_heads: bool = False
) -> dict[str, tuple[Saved, ...]]:
    """The same, by the op whose backward pass needs it."""
    ops = tuple(ops)
    by_id = {op.id: op for op in ops}
    return {op.id: tuple(_saved_by(op, by_id, copies_values=copies_values, copies_heads=copies_heads)) for op in ops}


def _saved_by(op: Op, by_id: Mapping[str, Op], *, copies_values: bool, copies_heads: bool) -> Iterator[Saved]:
    for number, what in enumerate(KINDS[op.kind].saves):
        saved = _saved(op, what, number=number, by_id=by_id)
        if copies_values and op.kind == "attention" and what == "x2":
            saved = _copied(op, by_id) or saved
        source = by_id.get(saved.key)
        if copies_heads and source is not None and source.group == "attention" and source is not op:
            saved = replace(saved, key=f"{source.id}#in order")
        yield saved


def _saved(op: Op, what: str, *, number: int, by_id: Mapping[str, Op]) -> Saved:
    name, _, label = what.partition(":")
    dtype = DType.named(label) if label else None
    if name == "out":
        return Saved(key=op.id, term=op.line.output, sizes=op.sizes, dtype=dtype)
    if name == "own":
        return Saved(key=f"{op.id}#{number}", term=op.line.output, sizes=op.sizes, dtype=dtype)
    if name == "rows":
        first = op.line.inputs[0]
        rows = Term(tuple(dim for dim in first.dims if dim not in first.whole))
        return Saved(key=f"{op.id}#{number}", term=rows, sizes=op.sizes, dtype=dtype)
    if name.startswith("x"):
        return _saved_input(op, int(name[1:]), dtype=dtype, by_id=by_id)
    return Saved(key=f"{op.id}#{number}", term=parse_line(f"-> {name}").output, sizes=op.sizes, dtype=dtype)


def _saved_input(op: Op, index: int, *, dtype: DType | None, by_id: Mapping[str, Op]) -> Saved:
    source = by_id.get(op.inputs[index])
    while source is not None and source.group == "view":
        source = by_id.get(source.inputs[0])
    if source is None:
        return Saved(key=op.inputs[index], term=op.line.inputs[index], sizes=op.sizes, dtype=dtype)
    return Saved(key=source.id, term=source.line.output, sizes=source.sizes, dtype=dtype)


def _copied(attention: Op, by_id: Mapping[str, Op]) -> Saved | None:
    """The values by themselves, where queries and keys are rotated and values are a part of a fused projection."""
    queries, values = (by_id.get(attention.inputs[index]) for index in (0, 2))
    if queries is None or queries.kind != "rope" or values is None or values.kind != "split_heads":
        return None
    return Saved(key=values.id, term=values.line.output, sizes=values.sizes, dtype=None)
