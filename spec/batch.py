"""Batch arithmetic: tokens, steps, global batch, micro batch and accumulation, from any of them that suffice.

    global_batch = micro_batch * grad_accumulation * dp          sequences an optimizer step
    steps        = ceil(tokens / (global_batch * seq_len))       the last step is a whole one

What is given twice must agree; what does not divide is answered with the nearest numbers that do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from .base import Path
from .diagnostics import Diagnostic, Edit, Fix, Label, SpecError, diagnose
from .parallel import Parallel
from .training import Train


@dataclass(frozen=True)
class Batch:
    """A consistent solution. What only the layout can tell is None until `dp` is known."""

    tokens: int
    """Tokens that the steps really read: steps * global_batch * seq_len, at least what was asked for."""
    steps: int
    seq_len: int
    global_batch: int
    micro_batch: int | None
    grad_accumulation: int | None


def solve_batch(train: Train, parallel: Parallel, dp: int | None = None) -> Batch:
    """The batch of a training stage on `dp` data-parallel ranks (None: not decided yet). Raises SpecError."""
    solver = _Solver(train, parallel, dp)
    faults = list(solver.faults())
    if faults:
        raise SpecError(faults)
    return solver.solution()


def fixed_dp(parallel: Parallel) -> int | None:
    """Data-parallel ranks where the spec alone decides them. Without `rest: auto` what is not given is 1."""
    if parallel.is_auto and (parallel.dp_replicate is None or parallel.dp_shard is None):
        return None
    return (parallel.dp_replicate or 1) * (parallel.dp_shard or 1)


class _Solver:
    def __init__(self, train: Train, parallel: Parallel, dp: int | None) -> None:
        self.stage: Path = train._path or ("train", 0)
        self.layout: Path = parallel._path or ("parallel",)
        self.tokens, self.steps, self.seq_len = train.tokens, train.steps, train.seq_len
        self.micro, self.accumulation, self.dp = parallel.micro_batch, parallel.grad_accumulation, dp
        self.given_batch = train.global_batch
        self.layout_batch = _product_or_none(self.micro, self.accumulation, dp)

    def faults(self) -> Iterator[Diagnostic]:
        if self.tokens is None and self.steps is None:
            message = "training has neither `tokens` nor `steps`, so it has no end"
            yield diagnose("S303", message, path=self.stage, part="key")
        batch = self.given_batch or self.layout_batch
        if batch is not None:
            yield from self._tokens_against_steps(batch)
            yield from self._parts_of_batch(batch)
        elif self.tokens is None or self.steps is None:
            yield self._no_batch()
        elif self.tokens % (self.steps * self.seq_len):
            yield self._no_whole_batch(self.tokens, self.steps)
        else:
            yield from self._parts_of_batch(self.tokens // (self.steps * self.seq_len))

    def solution(self) -> Batch:
        """Only meaningful without faults."""
        batch = self.given_batch or self.layout_batch or (self.tokens or 0) // ((self.steps or 1) * self.seq_len)
        steps = self.steps or -(-(self.tokens or 0) // (batch * self.seq_len))
        micro, accumulation = self.micro, self.accumulation
        if self.dp is not None and (micro is None) != (accumulation is None):
            rest = batch // (self.dp * (micro or accumulation or 1))
            micro, accumulation = micro or rest, accumulation or rest
        return Batch(steps * batch * self.seq_len, steps, self.seq_len, batch, micro, accumulation)

    def _no_batch(self) -> Diagnostic:
        known = {"micro_batch": self.micro, "grad_accumulation": self.accumulation, "data-parallel ranks": self.dp}
        notes = []
        if self.micro is not None or self.accumulation is not None:
            open_ones = " and ".join(name for name, value in known.items() if value is None)
            notes = [f"micro_batch x grad_accumulation x data-parallel ranks would give it, but {open_ones} is open"]
        message = "`global_batch` is not given and does not follow from the rest"
        return diagnose("S303", message, path=self.stage, part="key", notes=notes)

    def _no_whole_batch(self, tokens: int, steps: int) -> Diagnostic:
        """global_batch = tokens / (steps * seq_len) must be whole."""
        per_sequence = steps * self.seq_len
        below, above = tokens // per_sequence * per_sequence, -(-tokens // per_sequence) * per_sequence
        path = (*self.stage, "tokens")
        return diagnose(
            "S302",
            f"{tokens:,} tokens in {steps:,} steps of {self.seq_len:,}-token sequences make "
            f"{tokens / per_sequence:.4g} sequences a step, not a whole number",
            path=path,
            labels=[Label(f"{steps:,} steps", (*self.stage, "steps"))],
            fixes=[
                _set(path, near, f"`tokens: {near}` makes {near // per_sequence:,} sequences a step")
                for near in _nearest(tokens, below, above)
            ],
        )

    def _tokens_against_steps(self, batch: int) -> Iterator[Diagnostic]:
        """Given both, steps must be tokens / (global_batch * seq_len), rounded up."""
        if self.tokens is None or self.steps is None:
            return
        per_step = batch * self.seq_len
        steps = -(-self.tokens // per_step)
        if steps == self.steps:
            return
        yield diagnose(
            "S301",
            f"{self.tokens:,} tokens at {batch:,} x {self.seq_len:,} a step are {steps:,} steps, "
            f"`steps` says {self.steps:,}",
            path=(*self.stage, "steps"),
            labels=[Label(f"{self.tokens:,} tokens", (*self.stage, "tokens"))],
            fixes=[
                Fix(f"leave out `steps`: {steps:,} follow from `tokens`", (Edit("remove", (*self.stage, "steps")),)),
                Fix(
                    f"leave out `tokens`: {self.steps * per_step:,} follow", (Edit("remove", (*self.stage, "tokens")),)
                ),
            ],
        )

    def _parts_of_batch(self, batch: int) -> Iterator[Diagnostic]:
        """micro_batch * grad_accumulation * dp must be, or at least divide, the global batch."""
        parts = {
            "`micro_batch`": self.micro,
            "`grad_accumulation`": self.accumulation,
            "data-parallel ranks": self.dp,
        }
        known = {name: value for name, value in parts.items() if value is not None}
        product = prod(known.values())
        words = " x ".join(
            f"{value:,} {name}" if name[0] != "`" else f"{name} {value:,}" for name, value in known.items()
        )
        if len(known) == len(parts) and product != batch:
            yield self._product_differs(batch, product, words)
        elif product > 1 and batch % product:
            yield self._does_not_divide(batch, product, words)

    def _product_differs(self, batch: int, product: int, words: str) -> Diagnostic:
        at, labels = self._batch_place()
        fixes = [_set((*self.stage, "global_batch"), product, f"`global_batch: {product}`")]
        ranks = (self.micro or 1) * (self.dp or 1)
        if batch % ranks == 0:
            needed = batch // ranks
            path = (*self.layout, "grad_accumulation")
            fixes.insert(0, _set(path, needed, f"`grad_accumulation: {needed}` makes {batch:,}"))
        return diagnose(
            "S301", f"`global_batch` is {batch:,}, but {words} make {product:,}", path=at, labels=labels, fixes=fixes
        )

    def _does_not_divide(self, batch: int, product: int, words: str) -> Diagnostic:
        at, labels = self._batch_place()
        below, above = batch // product * product, -(-batch // product) * product
        path = (*self.stage, "global_batch")
        return diagnose(
            "S302",
            f"`global_batch` {batch:,} is not divisible by {words}" + (f" = {product:,}" if " x " in words else ""),
            path=at,
            labels=labels,
            fixes=[_set(path, near, f"`global_batch: {near}` is divisible") for near in _nearest(batch, below, above)],
        )

    def _batch_place(self) -> tuple[Path, list[Label]]:
        """Where the global batch stands in the spec, and the parts that were given."""
        labels = [
            Label("", (*self.layout, name))
            for name, value in (("micro_batch", self.micro), ("grad_accumulation", self.accumulation))
            if value is not None
        ]
        return (*self.stage, "global_batch"), labels


def _set(path: Path, value: int, help: str) -> Fix:
    return Fix(help, (Edit("set", path, value),))


def _product_or_none(*factors: int | None) -> int | None:
    known = [factor for factor in factors if factor is not None]
    return prod(known) if len(known) == len(factors) else None


def _nearest(value: int, below: int, above: int) -> list[int]:
    """The two neighbours that divide, the nearer first; never zero."""
    return sorted((near for near in {below, above} if near > 0), key=lambda near: (abs(near - value), -near))
