"""What a dry run found, as its JSON says it (runtimes/pytorch/dryrun writes it)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Event:
    """Something that a rank issued, in its order.

    A collective has a group and no peer; a message (send, recv) has a peer and a number that a `wait` names later.
    """

    kind: str
    group: tuple[int, ...] = ()
    """Ranks of the world."""
    num_bytes: int = 0
    shapes: tuple[str, ...] = ()
    peer: int | None = None
    message: int | None = None

    def __str__(self) -> str:
        return f"{self.kind} {', '.join(self.shapes)}".strip()


@dataclass(frozen=True)
class States:
    """Bytes of one rank."""

    parameters: int
    gradients: int
    optimizer: int
    peak: int


@dataclass(frozen=True)
class Record:
    """One rank of the program: what it sent in a step, and what it held."""

    rank: int
    events: tuple[Event, ...]
    states: States | None
    ops: tuple[str, ...] = ()
    """Of the dispatcher."""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Record:
        groups = [tuple(ranks) for ranks in data["groups"]]
        events = tuple(
            Event(
                kind=each["kind"],
                group=groups[each["group"]] if "group" in each else (),
                num_bytes=each.get("num_bytes", 0),
                shapes=tuple(each.get("shapes", ())),
                peer=each.get("peer"),
                message=each.get("message"),
            )
            for each in data["events"]
        )
        states = States(**data["states"]) if data.get("states") else None
        return cls(rank=data["rank"], events=events, states=states, ops=tuple(data.get("ops", ())))
