"""A run in which a rank stopped: noticed within a bound, told with the rank, the step and the collective, and ended.

Every rank has a thread that looks at the clock while the rank itself may stand in a collective. When no step has ended for
`hang_s`, it writes what the rank has come to and where each of its threads stands into hangs/1-step-…/rank-N.json and .txt,
in the folder of the run that all ranks see. A rank that was stopped or is gone writes nothing. A little later the first of them
compares the files: who has not come to the collective that others wait in is who they wait for. The process then ends with
status 1, so that what started it starts it again from the latest checkpoint.

    error: no step has ended for 300 s; in step 12 all wait for rank 3
    rank 2 (node-1) waits in all_reduce number 41 of group mesh_tp (Float[4096]); rank 3 has not come to it
"""

from __future__ import annotations

import faulthandler
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from .collectives import Collective, entered_collectives, latest_of_groups

FOLDER = "hangs"
SUMMARY = "report.txt"
STATUS = 1


@dataclass(frozen=True)
class Standing:
    """What one rank wrote."""

    rank: int
    host: str
    step: int
    collectives: dict[str, Collective]
    """The last that it entered, by group."""

    @property
    def waits_in(self) -> list[Collective]:
        return [each for each in self.collectives.values() if not each.is_done]


class HangWatch:
    """`beat` before every step. `hang_s`: seconds without a beat that are too many."""

    def __init__(self, run_dir: Path, *, hang_s: float) -> None:
        self.folder, self.hang_s = run_dir / FOLDER, hang_s
        self.grace_s = min(10.0, hang_s)  # ranks notice at slightly different times
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        number = torch.tensor(1 + len(list(self.folder.glob("*-step-*"))))  # a run that is started again may hang again
        dist.broadcast(number, src=0)
        self.number = int(number)
        self._step, self._beat_s = 0, time.monotonic()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="hang watch", daemon=True)

    def start(self) -> None:
        self.beat(self._step)
        self._thread.start()

    def beat(self, step: int) -> None:
        self._step, self._beat_s = step, time.monotonic()
        # Where the interpreter itself stands still, the thread below does as well; this one is not Python's.
        faulthandler.dump_traceback_later(self.hang_s + 3 * self.grace_s, exit=True)

    def stop(self) -> None:
        self._is_over.set()
        faulthandler.cancel_dump_traceback_later()

    def _look(self) -> None:
        while not self._is_over.wait(min(1.0, self.hang_s / 4)):
            if time.monotonic() - self._beat_s > self.hang_s:
                self._end()

    def _end(self) -> None:
        folder = self.folder / f"{self.number}-step-{self._step:08d}"
        try:
            self._write(folder)
            time.sleep(self.grace_s)
            if _is_mine(folder / SUMMARY):
                text = report(read_standings(folder), world_size=self.world_size, hang_s=self.hang_s)
                (folder / SUMMARY).write_text(text, encoding="utf-8")
                print(f"{text}Stacks of all ranks: {folder}", file=sys.stderr, flush=True)
            else:
                time.sleep(self.grace_s / 2)  # whoever ends first ends all
        finally:
            os._exit(STATUS)

    def _write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"rank-{self.rank}.txt").open("w", encoding="utf-8") as stream:
            faulthandler.dump_traceback(stream, all_threads=True)
        latest = latest_of_groups(entered_collectives())
        standing = {
            "host": socket.gethostname(),
            "step": self._step,
            "collectives": [each.as_json() for each in latest.values()],
        }
        work = folder / f".rank-{self.rank}.json"
        work.write_text(json.dumps(standing, indent=1) + "\n", encoding="utf-8")
        work.replace(folder / f"rank-{self.rank}.json")


def _is_mine(path: Path) -> bool:
    """Whether this process is the first to make the file."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def read_standings(folder: Path) -> dict[int, Standing]:
    """What ranks wrote, by rank."""
    found: dict[int, Standing] = {}
    for path in sorted(folder.glob("rank-*.json")):
        rank, told = int(path.stem.partition("-")[2]), json.loads(path.read_text(encoding="utf-8"))
        collectives = [_collective(each) for each in told["collectives"]]
        found[rank] = Standing(rank, told["host"], told["step"], {each.group: each for each in collectives})
    return found


def _collective(told: dict[str, Any]) -> Collective:
    return Collective(**{**told, "ranks": tuple(told["ranks"]), "shapes": tuple(told["shapes"])})


def report(standings: dict[int, Standing], *, world_size: int, hang_s: float) -> str:
    """Who waits in which collective, and for whom."""
    step = max((each.step for each in standings.values()), default=0)
    silent = [rank for rank in range(world_size) if rank not in standings]
    lines, missed = [], set(silent)
    for collective, waiting in _waits(standings).items():
        late = [rank for rank in collective.ranks if not _has_come(standings.get(rank), collective)]
        missed.update(late)
        missing = (
            f"{_ranks(late)} {'has' if len(late) == 1 else 'have'} not come to it" if late else "all have come to it"
        )
        place = f"{collective.words()} ({', '.join(collective.shapes)})"
        lines.append(f"{_named(waiting, standings)} {'waits' if len(waiting) == 1 else 'wait'} in {place}; {missing}")
    idle = [rank for rank, each in standings.items() if not each.waits_in]
    if idle:
        lines.append(f"{_named(idle, standings)}: in no collective; see where the main thread stands")
    if silent:
        lines.append(f"{_ranks(silent)}: no answer; stopped, gone, or cut off")
    causes = sorted(missed - {rank for rank, each in standings.items() if each.waits_in})
    why = f"all wait for {_ranks(causes)}" if causes else "ranks wait for each other, in different collectives"
    head = f"error: no step has ended for {hang_s:g} s; in step {step} {why}"
    return "".join(f"{line}\n" for line in [head, *lines])


def _waits(standings: dict[int, Standing]) -> dict[Collective, list[int]]:
    """Collectives in which somebody waits, and who. Ranks may come with other shapes; the first one's are told."""
    found: dict[tuple[str, int, str], tuple[Collective, list[int]]] = {}
    for rank, standing in standings.items():
        for each in standing.waits_in:
            found.setdefault((each.group, each.sequence, each.op), (each, []))[1].append(rank)
    return dict(found.values())


def _has_come(standing: Standing | None, collective: Collective) -> bool:
    if standing is None or collective.group not in standing.collectives:
        return False
    return standing.collectives[collective.group].sequence >= collective.sequence


def _named(ranks: Sequence[int], standings: dict[int, Standing]) -> str:
    hosts = {standings[rank].host for rank in ranks}
    return f"{_ranks(ranks)} ({', '.join(sorted(hosts)[:4])}{', …' if len(hosts) > 4 else ''})"


def _ranks(ranks: Sequence[int]) -> str:
    shown = ", ".join(str(rank) for rank in ranks[:8])
    return f"rank{'s' if len(ranks) > 1 else ''} {shown}{f' and {len(ranks) - 8} more' if len(ranks) > 8 else ''}"
