"""What a layer needs while it runs backward: what it saved and built again, gradients on their way, and what they are made of.

The ops of a block are gone through from the last to the first, as autograd does: each takes the gradient of its result, makes
those of its inputs and parameters, and lets go of what it had saved. What attention computes again comes when the backward pass
reaches attention, where the feed-forward part is done with what it had saved.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

from ..ir.facts import Saved
from ..ir.ops import Op
from .sharding import TENSOR_DIMS, Degrees

Size = Callable[[Saved], float]
"""Bytes of a tensor for one sequence on one device."""

_PASSES_ON = frozenset({"add", "stream_add"})
"""Ops that give their gradient to their inputs as it is."""


class Working(NamedTuple):
    """At the moment of a layer's backward pass that needs most."""

    activations: float
    """Bytes a sequence: saved tensors of the layer that are still there, and gradients."""
    weights: float
    """Parameters whose gradients are there."""
    middle: float = 0.0
    """Bytes a sequence when its experts are done."""


@dataclass(frozen=True)
class Setting:
    """What changes the working set beside the ops."""

    degrees: Degrees
    is_batched: bool = True
    """Several sequences: then tokens of the ranks of tp are put in order by copying them."""
    has_gate_kernel: bool = True
    """Whether the gated activation is one kernel, also backward."""
    ring: float = 0.0
    """How many times wider than values the sums of a ring's gradients are; 0: there is no ring."""
    multiplies_in_fp8: bool = False
    """Whether products take copies of their factors in fp8, which last for a product (runtimes/pytorch/fp8.py)."""
    beside: float = 0.0
    """Bytes that a layer that is computed again holds beside its input: what was yet to be added to that."""


def working_of(
    ops: Sequence[Op],
    saved: Mapping[str, Sequence[Saved]],
    *,
    size_of: Size,
    again: Iterable[str],
    setting: Setting,
) -> Working:
    """The most that a layer of these ops (as a device sees them) needs. `saved` is by op, `again` are keys of what is rebuilt."""
    return _Backward(ops, saved, size_of, frozenset(again), setting).run()


class _Backward:
    def __init__(
        self,
        ops: Sequence[Op],
        saved: Mapping[str, Sequence[Saved]],
        size_of: Size,
        again: frozenset[str],
        setting: Setting,
    ) -> None:
        self.ops, self.saved, self.size_of, self.setting = ops, saved, size_of, setting
        self.by_id = {op.id: op for op in ops}
        self.last_use: dict[str, str] = {}  # key -> the op after whose backward pass a tensor is let go
        for op in reversed(ops):
            self.last_use |= {each.key: op.id for each in saved[op.id]}
        sizes = {each.key: size_of(each) for op in ops for each in saved[op.id]}
        self.live = {key: size for key, size in sizes.items() if key not in again}
        self.rebuilt = {key: size for key, size in sizes.items() if key in again}
        self.gradients: dict[str, int] = {}  # op -> buffer of the gradient of its result
        self.buffers: dict[int, float] = {}
        self.readers: Counter[int] = Counter()
        self.numbers = count()
        self.weights = 0.0
        self.most = Working(0.0, 0.0)
        self.middle = 0.0

    def run(self) -> Working:
        last = self.ops[-1]
        self._give(last.id, self._bytes_of(last))
        for op in reversed(self.ops):
            if self.rebuilt and any(each.key in self.rebuilt for each in self.saved[op.id]):
                self.live |= self.rebuilt
                self.rebuilt = {}
            self._step(op)
            for each in self.saved[op.id]:
                if self.last_use.get(each.key) == op.id:
                    self.live.pop(each.key, None)
        return self.most._replace(middle=self.middle)

    def _step(self, op: Op) -> None:
        buffer = self.gradients.pop(op.id, None)
        if buffer is None or op.group == "input":
            return
        if op.kind in _PASSES_ON:
            for source in op.inputs:
                self._share(source, buffer)
            self._drop(buffer)
            return
        made = [
            (source, self._input_bytes(op, index))
            for index, source in enumerate(op.inputs)
            if self._has_gradient(op, index)
        ]
        inputs, passing = sum(size for _, size in made), self._passing(op)
        if op.group == "matmul":
            made_narrow, narrow = self._copies_in_fp8(op)
            self._look(inputs + passing + made_narrow)  # before the gradients of its own weights
            passing = narrow
        self.weights += sum(term.size(op.sizes) for param, term in op.param_terms if param.is_trained)
        self._look(inputs + passing)
        for source, size in made:
            self._give(source, size)
        self._drop(buffer)
        if op.kind == "dispatch":
            self.middle = self._there

    def _has_gradient(self, op: Op, index: int) -> bool:
        source = self.by_id.get(op.inputs[index])
        return source is not None and not (op.kind == "dispatch" and index == 1)

    # Bytes.

    def _bytes_of(self, op: Op) -> float:
        return self.size_of(Saved(key=op.id, term=op.line.output, sizes=op.sizes, dtype=None))

    def _input_bytes(self, op: Op, index: int) -> float:
        source = self.by_id[op.inputs[index]]
        if source.group == "view":
            return self.size_of(Saved(key=source.id, term=op.line.inputs[index], sizes=op.sizes, dtype=None))
        return self._bytes_of(source)

    def _passing(self, op: Op) -> float:
        """What an op's backward pass makes beside gradients, and lets go of."""
        if op.kind == "fused_gated_activation" and not self.setting.has_gate_kernel:
            return self._bytes_of(op)  # op by op: gradients of gate and up, before they are one
        if op.kind == "dispatch" and self.setting.degrees.ep > 1:
            return self._bytes_of(op)  # rows on their way back
        if op.kind == "combine" and self.setting.degrees.ep > 1:
            return self._input_bytes(op, 0)
        if op.group == "matmul" and self.setting.degrees.tp > 1:
            return self._crossing(op)
        if op.group == "attention" and self.setting.ring:
            return self._passed_on(op)
        return 0.0

    def _copies_in_fp8(self, op: Op) -> tuple[float, float]:
        """Of the factors of the weight's gradient: while they are made, each from a scaled copy, and when both are there."""
        if not self.setting.multiplies_in_fp8:
            return 0.0, 0.0
        x, g = self._input_bytes(op, 0), self._bytes_of(op)
        if self.setting.degrees.sequence_parallel:  # what is not cut has the tokens of all ranks by now
            is_cut = [any(dim in TENSOR_DIMS for dim in term.dims) for term in (op.line.inputs[0], op.line.output)]
            x, g = (size * (1 if cut else self.setting.degrees.tp) for size, cut in zip((x, g), is_cut, strict=True))
        return max(1.5 * g, 0.5 * g + 1.5 * x), 0.5 * (g + x)

    def _passed_on(self, op: Op) -> float:
        """In the first step of a ring: keys and values at hand and coming, sums of gradients for queries, for a rank's own keys and
        values and for those at hand, and what a block gives; narrow values with zeros beside them, as are gradient and result."""
        heads, of_key, out = op.sizes["H"], op.sizes["C"], self._bytes_of(op)
        q, share = out * of_key / op.sizes.get("U", of_key), op.sizes.get("K", heads) / heads
        k, v = q * share, out * share
        sums = self.setting.ring * (q + 2 * (k + v))
        widened = k + 2 * q + (k - v) if v < k else 0.0
        return sums + 2 * (k + v) + out + widened

    def _crossing(self, op: Op) -> float:
        """What crosses between a rank's tokens and a cut layer: in full, once as it travels and, if copied, once more in order."""
        is_cut = [any(dim in TENSOR_DIMS for dim in term.dims) for term in (op.line.inputs[0], op.line.output)]
        if is_cut[0] == is_cut[1]:
            return 0.0
        own = self._bytes_of(op) if is_cut[0] else self._input_bytes(op, 0)
        if not self.setting.degrees.sequence_parallel:
            return own
        whole, copies = own * self.setting.degrees.tp, 2 if self.setting.is_batched else 1
        return copies * whole if is_cut[0] else (1 + copies) * whole - own

    # Gradients.

    @property
    def _there(self) -> float:
        return sum(self.live.values()) + sum(self.buffers.values()) + self.setting.beside

    def _look(self, more: float) -> None:
        there = self._there + more
        if there > self.most.activations:
            self.most = Working(there, self.weights)

    def _give(self, op_id: str, size: float) -> None:
        """A new gradient; a second one is added to the first."""
        if op_id in self.gradients:
            return
        number = next(self.numbers)
        self.buffers[number], self.gradients[op_id] = size, number
        self.readers[number] += 1

    def _share(self, op_id: str, buffer: int) -> None:
        if op_id not in self.by_id:
            return
        if op_id not in self.gradients:
            self.gradients[op_id] = buffer
            self.readers[buffer] += 1

    def _drop(self, buffer: int) -> None:
        self.readers[buffer] -= 1
        if not self.readers[buffer]:
            del self.buffers[buffer]
