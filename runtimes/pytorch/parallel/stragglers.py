"""Which rank holds the others up: seconds of its own work in a step, that is without those in which it waits for other ranks.

A step takes all ranks equally long, since they wait for each other; what differs is who waits. On the CPU the waits of gloo's
works are timed as they happen. On a GPU collectives wait in kernels, whose times NCCL's flight recorder has
(mesh.py, times_collectives); of kernels that run beside computation the whole time counts as waiting, so ratios there are
rather too large, in their right order.
"""

from __future__ import annotations

import functools
import socket
import statistics
import threading
import time
from typing import Any

import torch
import torch.distributed as dist
from torch._C import _distributed_c10d as c10d

from .collectives import recorded

_NAME_BYTES = 64


class Stragglers:
    """`begin` before a step and `report` after every `every`-th, on all ranks: numbers of 8 bytes a rank travel, by gloo."""

    def __init__(self, *, every: int) -> None:
        self.every = every
        self._waits_in_kernels = "nccl" in str(dist.distributed_c10d.get_backend_config())
        self._waits = _Waits()
        self._hosts = _gathered_names(socket.gethostname())
        self._started_s = self._waited_s = 0.0
        self._started_ns = 0

    def begin(self) -> None:
        self._started_s, self._waited_s = time.perf_counter(), self._waits.seconds
        self._started_ns = time.time_ns()

    def own_seconds(self) -> float:
        """Since `begin`, without waits."""
        waited_s = self._waits.seconds - self._waited_s
        if self._waits_in_kernels:
            waited_s = _seconds_in_kernels(since_ns=self._started_ns)
        return max(0.0, time.perf_counter() - self._started_s - waited_s)

    def report(self, step: int) -> dict[str, Any] | None:
        """After every `every`-th step, on each rank the same; None after others."""
        if step % self.every:
            return None
        gathered = torch.zeros(dist.get_world_size(), dtype=torch.float64)
        dist.all_gather_single(gathered, torch.tensor([self.own_seconds()], dtype=torch.float64))
        seconds = gathered.tolist()
        slowest = max(range(len(seconds)), key=seconds.__getitem__)
        median = statistics.median_low(seconds)
        return {
            "step": step,
            "rank": slowest,
            "host": self._hosts[slowest],
            "slowest_s": seconds[slowest],
            "median_s": median,
            "slowest_ratio": seconds[slowest] / max(median, 1e-9),
        }

    def stop(self) -> None:
        self._waits.stop()


def words(report: dict[str, Any]) -> str:
    return (
        f"step {report['step']}: rank {report['rank']} on {report['host']} is the slowest,"
        f" {report['slowest_ratio']:.2f} times the median of all ranks ({report['slowest_s']:.3g} s of its own work, {report['median_s']:.3g} s)"
    )


class _Waits:
    """Seconds that this process' main thread has spent in Work.wait, by which Python waits for all of gloo's collectives."""

    def __init__(self) -> None:
        self.seconds = 0.0
        main = threading.get_ident()  # others write checkpoints meanwhile
        self._original = wait = c10d.Work.wait

        @functools.wraps(wait)
        def timed(work: Any, *args: Any, **kwargs: Any) -> Any:
            started_s = time.perf_counter()
            try:
                return wait(work, *args, **kwargs)
            finally:
                if threading.get_ident() == main:
                    self.seconds += time.perf_counter() - started_s

        setattr(c10d.Work, "wait", timed)  # noqa: B010 (a class of C++)

    def stop(self) -> None:
        setattr(c10d.Work, "wait", self._original)  # noqa: B010


def _seconds_in_kernels(*, since_ns: int) -> float:
    return sum(each.get("duration_ms", 0.0) for each in recorded() if each["time_created_ns"] >= since_ns) / 1e3


def _gathered_names(name: str) -> list[str]:
    """The hosts of all ranks."""
    own = torch.zeros(_NAME_BYTES, dtype=torch.uint8)
    encoded = name.encode()[:_NAME_BYTES]
    own[: len(encoded)] = torch.tensor(list(encoded), dtype=torch.uint8)
    names = torch.zeros(dist.get_world_size() * _NAME_BYTES, dtype=torch.uint8)
    dist.all_gather_single(names, own)
    return [bytes(row).rstrip(b"\0").decode(errors="replace") for row in names.view(-1, _NAME_BYTES).tolist()]
