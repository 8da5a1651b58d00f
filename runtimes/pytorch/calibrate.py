"""What this machine's processor does: bandwidth, matrix products and the time of a small op, as the cost model means them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from .cpu import use_threads

WEIGHT_SIZE = 1536
MANY_WEIGHTS = 16
"""Of products of many rows, which compute."""
SMALL_BYTES = 2**20
MANY_ROWS = 128
LAUNCH_SIZE = 64
"""Of a weight that is in the caches and has next to nothing to compute, and is large enough for the library's own kernels."""
READ_BYTES = 256 * 2**20
"""Well beyond the caches."""
PRODUCT_SIZE = 1024
SMALL = 16
"""Elements of an op that does nothing but start and end."""
TRIED_S = 2.0
"""For each figure."""


@dataclass(frozen=True)
class Calibration:
    threads: int
    read_bytes_per_s: float
    copied_bytes_per_s: float
    """Read and written, half of it each."""
    flops_per_s: dict[str, float]
    """By format; those that torch cannot multiply here are not there."""
    products: dict[str, ProductTimes]
    """By format, of those that weights are served in."""
    op_s: float


@dataclass(frozen=True)
class ProductTimes:
    """Products with a weight [N, N] each, as a model has them: one after the other, none twice in a row."""

    launch_s: float
    """With nothing to compute."""
    one_row_s: float
    many_rows_s: float


def calibrate(threads: int | None = None, *, tried_s: float = TRIED_S) -> Calibration:
    """Rates are those of the fastest twentieth of the turns, a small op's time is the median: others use the machine too."""
    chosen = use_threads(threads)
    large, other = torch.ones(READ_BYTES // 4), torch.empty(READ_BYTES // 4)
    read_s = quickest(large.sum, tried_s)
    copied_s = quickest(lambda: other.copy_(large), tried_s)
    flops = {
        name: 2 * PRODUCT_SIZE**3 / found for name, work in _products().items() if (found := quickest(work, tried_s))
    }
    small = torch.ones(SMALL)
    return Calibration(
        threads=chosen,
        read_bytes_per_s=READ_BYTES / read_s,
        copied_bytes_per_s=2 * READ_BYTES / copied_s,
        flops_per_s=flops,
        products={name: _times(dtype, tried_s) for name, dtype in SERVED.items()},
        op_s=middle(lambda: small.add_(1), tried_s / 4),
    )


SERVED = {"fp32": torch.float32, "bf16": torch.bfloat16}


def _times(dtype: torch.dtype, tried_s: float) -> ProductTimes:
    def layers(size: int) -> list[Layer]:
        weights = [torch.ones(size, size, dtype=dtype) for _ in range(num_weights(size**2 * dtype.itemsize))]
        return [partial(_linear, weight) for weight in weights]

    return product_times(layers(WEIGHT_SIZE), layers(LAUNCH_SIZE), dtype, tried_s, turn_s=quickest)


def num_weights(size_bytes: int) -> int:
    """Of this size, how many no cache holds together; of small ones, which are to be in a cache, MANY_WEIGHTS."""
    return MANY_WEIGHTS if size_bytes < SMALL_BYTES else max(MANY_WEIGHTS, READ_BYTES // size_bytes)


def _linear(weight: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.linear(given, weight)


Layer = Callable[[torch.Tensor], torch.Tensor]
"""A product with a square weight."""


def product_times(
    layers: Sequence[Layer],
    small: Sequence[Layer],
    dtype: torch.dtype,
    tried_s: float,
    *,
    turn_s: Callable[[Callable[[], object], float], float],
) -> ProductTimes:
    """Of `layers` with weights of WEIGHT_SIZE, and `small` ones of LAUNCH_SIZE; `turn_s` is `quickest` or `middle`."""

    def product_s(rows: int, size: int, of: Sequence[Layer]) -> float:
        given = torch.ones(rows, size, dtype=dtype)

        def all_of_them() -> None:
            for layer in of:
                layer(given)

        return turn_s(all_of_them, tried_s / 2) / len(of)

    return ProductTimes(
        launch_s=product_s(1, LAUNCH_SIZE, small),
        one_row_s=product_s(1, WEIGHT_SIZE, layers),
        many_rows_s=product_s(MANY_ROWS, WEIGHT_SIZE, layers[:MANY_WEIGHTS]),
    )


def _products() -> dict[str, Callable[[], object]]:
    size = (PRODUCT_SIZE, PRODUCT_SIZE)
    fp32, bf16 = torch.ones(size), torch.ones(size, dtype=torch.bfloat16)
    int8 = torch.ones(size, dtype=torch.int8)
    found = {
        "fp32": lambda: torch.mm(fp32, fp32),
        "bf16": lambda: torch.mm(bf16, bf16),
        "int8": lambda: torch.ops.aten._int_mm(int8, int8),
    }
    return {name: work for name, work in found.items() if _works(work)}


def _works(work: Callable[[], object]) -> bool:
    try:
        work()
    except RuntimeError:  # torch has no kernel for it here
        return False
    return True


def quickest(work: Callable[[], object], tried_s: float) -> float:
    """Seconds of a turn, the fifth percentile of all."""
    taken = sorted(_turns(work, tried_s))
    return taken[len(taken) // 20]


def middle(work: Callable[[], object], tried_s: float) -> float:
    """The median."""
    taken = sorted(_turns(work, tried_s))
    return taken[len(taken) // 2]


def _turns(work: Callable[[], object], tried_s: float) -> list[float]:
    work()  # the first one prepares
    taken = []
    end_s = time.perf_counter() + tried_s
    while not taken or time.perf_counter() < end_s:
        began_s = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began_s)
    return taken
