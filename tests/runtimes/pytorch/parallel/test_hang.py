"""Ranks that stand still are named, with the step and the collective that the others wait in, and the run ends."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from llmc.runtimes.pytorch.parallel.collectives import Collective
from llmc.runtimes.pytorch.parallel.hang import Standing, report

HANGING = Path(__file__).with_name("hanging.py")
BOUND_S = 3 * 1.5 + 5.0
"""hang_s, as long again until others are heard, half of it until the last has gone; and the start."""


def hang(folder: Path, world_size: int, how: str) -> tuple[list[int], str, float]:
    """The ranks' statuses, the report, and how long they lived."""
    started_s = time.monotonic()
    command = [sys.executable, "-W", "ignore", str(HANGING), str(folder), str(world_size), how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    text = (folder / "hangs/1-step-00000003/report.txt").read_text()
    assert text in done.stderr
    return json.loads(done.stdout), text, time.monotonic() - started_s


@pytest.mark.parametrize("how", ["stop", "sleep"])
def test_who_does_not_come_is_named_with_what_others_wait_in(how: str, tmp_path: Path) -> None:
    statuses, text, lived_s = hang(tmp_path, 4, how)
    assert set(statuses) == {1}
    assert len(statuses) == (3 if how == "stop" else 4)
    assert lived_s < BOUND_S + 20  # starting four processes on a busy machine
    assert text.splitlines()[0] == "error: no step has ended for 1.5 s; in step 3 all wait for rank 3"
    assert "waits in all_reduce number 6 of group mesh_tp (Float[3]); rank 3 has not come to it" in text
    assert "wait in all_reduce number 4 of group default_pg (Float[2]); ranks 2, 3 have not come to it" in text
    assert ("rank 3: no answer" if how == "stop" else "in no collective") in text
    folder = tmp_path / "hangs/1-step-00000003"
    stacks = {path.name: path.read_text() for path in folder.glob("rank-*.txt")}
    assert sorted(stacks) == [f"rank-{rank}.txt" for rank in range(len(statuses))]
    assert "in run_rank" in stacks["rank-2.txt"]
    assert how == "stop" or "in stand_still" in stacks["rank-3.txt"]


def test_ranks_that_wait_for_each_other_are_told_apart() -> None:
    """Two collectives, entered in different orders."""
    of_two = Collective("all_reduce", "1", "mesh_tp", (0, 1), 6, is_done=False, shapes=("Float[3]",))
    of_all = Collective("all_gather", "0", "default_pg", (0, 1), 3, is_done=False, shapes=("Float[2]",))
    done_two, done_all = replace(of_two, sequence=5, is_done=True), replace(of_all, sequence=2, is_done=True)
    standings = {
        0: Standing(0, "a", 3, {"1": of_two, "0": done_all}),
        1: Standing(1, "b", 3, {"1": done_two, "0": of_all}),
    }
    assert report(standings, world_size=2, hang_s=9.0).splitlines() == [
        "error: no step has ended for 9 s; in step 3 ranks wait for each other, in different collectives",
        "rank 0 (a) waits in all_reduce number 6 of group mesh_tp (Float[3]); rank 1 has not come to it",
        "rank 1 (b) waits in all_gather number 3 of group default_pg (Float[2]); rank 0 has not come to it",
    ]


def test_many_ranks_make_a_short_report() -> None:
    entered = Collective("all_reduce", "0", "default_pg", tuple(range(64)), 7, is_done=False, shapes=("Float[2]",))
    came = {rank: Standing(rank, f"node-{rank // 8}", 5, {"0": entered}) for rank in range(62)}
    behind = Standing(62, "node-7", 5, {"0": replace(entered, sequence=6, is_done=True)})
    text = report({**came, 62: behind}, world_size=64, hang_s=300.0)
    assert text.splitlines() == [
        "error: no step has ended for 300 s; in step 5 all wait for ranks 62, 63",
        "ranks 0, 1, 2, 3, 4, 5, 6, 7 and 54 more (node-0, node-1, node-2, node-3, …) wait in all_reduce number 7 of group"
        " default_pg (Float[2]); ranks 62, 63 have not come to it",
        "rank 62 (node-7): in no collective; see where the main thread stands",
        "rank 63: no answer; stopped, gone, or cut off",
    ]
