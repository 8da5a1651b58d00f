"""What this process' collectives have come to, from PyTorch's flight recorder, which gloo and NCCL both write."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import torch.distributed as dist
from torch._C import _distributed_c10d as c10d


@dataclass(frozen=True)
class Collective:
    """One collective as a rank has entered it."""

    op: str
    group: str
    """The process group's name, the same on all of its ranks."""
    group_words: str
    ranks: tuple[int, ...]
    sequence: int
    """Its number among those of the group, from 1."""
    is_done: bool
    shapes: tuple[str, ...] = ()

    def words(self) -> str:
        return f"{self.op} number {self.sequence} of group {self.group_words}"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def recorded() -> list[dict[str, Any]]:
    """The recorder's entries; none where there is no recorder, or where it is off."""
    dump = getattr(c10d, "_dump_fr_trace_json", None)
    return [] if dump is None else json.loads(dump(True, False)).get("entries", [])


def entered_collectives() -> list[Collective]:
    """The latest collectives that this process has entered, in their order."""
    return [_collective(entry) for entry in recorded() if not entry["is_p2p"]]


def latest_of_groups(collectives: list[Collective]) -> dict[str, Collective]:
    """The last one that was entered of each group."""
    return {each.group: each for each in collectives}


def _collective(entry: dict[str, Any]) -> Collective:
    name, described = entry["process_group"]
    sizes = zip(entry["input_dtypes"], entry["input_sizes"], strict=False)
    return Collective(
        op=entry["profiling_name"].rpartition(":")[2],
        group=name,
        group_words=described if described and described != "undefined" else name,
        ranks=_ranks_of(name),
        sequence=entry["collective_seq_id"],
        is_done=bool(entry["retired"]) or entry["state"] == "completed",
        shapes=tuple(f"{dtype}{list(size)}" for dtype, size in sizes),
    )


def _ranks_of(name: str) -> tuple[int, ...]:
    for group, known in dist.distributed_c10d._world.pg_names.items():
        if known == name:
            return tuple(dist.get_process_group_ranks(group))
    return ()
