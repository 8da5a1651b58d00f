"""Can the program hang? Ranks are played against one another until all have ended, or none can go on.

A collective ends when every rank of its group that takes part in the play has issued it; ranks that are not played are
taken to do as those that are. A message is posted and goes on by itself: messages between two ranks meet in the order in
which each side posted them, a send a recv of the same shape. A rank that waits for a message stands until it has met its
other end. What NCCL does is no stricter: a program that ends here ends there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .record import Event

_MESSAGES = ("send", "recv")


@dataclass
class _Player:
    rank: int
    events: Sequence[Event]
    at: int = 0
    met: set[int] = field(default_factory=set)

    @property
    def current(self) -> Event | None:
        return self.events[self.at] if self.at < len(self.events) else None


def find_hang(sequences: Mapping[int, Sequence[Event]]) -> str | None:
    """None if all ranks end; otherwise who waits for what, in a sentence."""
    return _Play(sequences).run()


class _Play:
    def __init__(self, sequences: Mapping[int, Sequence[Event]]) -> None:
        self.players = {rank: _Player(rank, events) for rank, events in sequences.items()}
        self.posted: dict[tuple[int, int], deque[Event]] = {}  # (whose, towards whom) -> not yet met

    def run(self) -> str | None:
        while True:
            moved = [self._advance(player) for player in self.players.values()]
            if not any(moved):
                break
        fault = self._mismatch()
        if fault is not None:
            return fault
        standing = [player for player in self.players.values() if player.current is not None]
        if standing:
            return self._standstill(standing)
        return self._left_over()

    def _advance(self, player: _Player) -> bool:
        """Whether the rank got any further."""
        start = player.at
        while (event := player.current) is not None:
            if event.kind in _MESSAGES:
                self._post(player, event)
            elif event.kind == "wait":
                if event.message not in player.met:
                    break
            elif not self._all_there(event):
                break
            else:
                self._pass(event)
                continue
            player.at += 1
        return player.at > start

    def _all_there(self, event: Event) -> bool:
        return all(_is_same(self.players[rank].current, event) for rank in event.group if rank in self.players)

    def _pass(self, event: Event) -> None:
        for rank in event.group:
            if rank in self.players:
                self.players[rank].at += 1

    def _post(self, player: _Player, event: Event) -> None:
        assert event.peer is not None
        assert event.message is not None
        if event.peer not in self.players:
            player.met.add(event.message)
            return
        self.posted.setdefault((player.rank, event.peer), deque()).append(event)
        self._meet(player.rank, event.peer)

    def _meet(self, one: int, other: int) -> None:
        """Let the oldest messages of two ranks meet while they fit: sends of each with recvs of the other."""
        for sender, receiver in ((one, other), (other, one)):
            while True:
                sent = _first(self.posted.get((sender, receiver)), "send")
                received = _first(self.posted.get((receiver, sender)), "recv")
                if sent is None or received is None or sent.shapes != received.shapes:
                    break
                for rank, towards, event in ((sender, receiver, sent), (receiver, sender, received)):
                    self.posted[rank, towards].remove(event)
                    assert event.message is not None
                    self.players[rank].met.add(event.message)

    def _mismatch(self) -> str | None:
        for (rank, peer), events in sorted(self.posted.items()):
            sent = _first(events, "send")
            received = _first(self.posted.get((peer, rank)), "recv")
            if sent is not None and received is not None:
                return f"rank {rank} sends {_shapes(sent)} to rank {peer}, which expects {_shapes(received)}"
        return None

    def _left_over(self) -> str | None:
        for (rank, peer), events in sorted(self.posted.items()):
            for event in events:
                if event.kind == "send":
                    return f"rank {rank} sends {_shapes(event)} to rank {peer}, which never receives it"
                return f"rank {rank} is to receive {_shapes(event)} from rank {peer}, which never sends it"
        return None

    def _standstill(self, standing: Sequence[_Player]) -> str:
        """What the first rank that cannot go on waits for."""
        first = standing[0]
        event = first.current
        assert event is not None
        if event.kind == "wait":
            awaited = next(each for each in first.events if each.message == event.message)
            if awaited.kind == "recv":
                return f"rank {first.rank} waits for {_shapes(awaited)} from rank {awaited.peer}, which has not sent it"
            return f"rank {first.rank} waits until rank {awaited.peer} receives {_shapes(awaited)}, which it does not"
        told = f"rank {first.rank} waits in its {_nth(first, event)}"
        missing = next(
            self.players[rank]
            for rank in event.group
            if rank in self.players and not _is_same(self.players[rank].current, event)
        )
        if missing.current is None:
            return f"{told}, which rank {missing.rank} never issues"
        return f"{told}, rank {missing.rank} in its {_nth(missing, missing.current)}"


def _first(events: deque[Event] | None, kind: str) -> Event | None:
    return next((each for each in events or () if each.kind == kind), None)


def _is_same(event: Event | None, other: Event) -> bool:
    return event is not None and (event.kind, event.group, event.shapes) == (other.kind, other.group, other.shapes)


def _shapes(event: Event) -> str:
    return ", ".join(event.shapes)


def _nth(player: _Player, event: Event) -> str:
    if not event.group:
        return event.kind
    count = sum(1 for each in player.events[: player.at] if each.group == event.group)
    return f"collective number {count + 1} of ranks {_few(event.group)}: {event}"


def _few(ranks: Sequence[int]) -> str:
    shown = ", ".join(str(rank) for rank in ranks[:4])
    return f"{shown}, … ({len(ranks)})" if len(ranks) > 4 else shown
