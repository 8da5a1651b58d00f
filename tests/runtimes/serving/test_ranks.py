"""Replicas of several ranks: all compute each step, drain together, and end together when one of them dies.

Servers are those of under_load.py with a second rank; a folder stands in for torch's store, so that nothing imports torch.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from under_load import NUM_REQUESTS, SERVE, Router, started, under_load

from llmc.runtimes.common.errors import RunError
from llmc.runtimes.launch import ranks as launch
from llmc.runtimes.serving.ranks import GRACE_S, pack, unpack
from llmc.runtimes.serving.work import Chunk

RANKS = 2
STUCK = "stuck"
"""A file of this name has steps of rank 0 wait forever where the other rank is gone, as a collective of NCCL does."""
JOIN = f"""
import os
from pathlib import Path
from llmc.runtimes.launch.ranks import take_place
from llmc.runtimes.serving.ranks import Ranks

class Folder:
    def __init__(self, path):
        self.path = path
    def set(self, key, value):
        (self.path / "new").write_text(value)
        (self.path / "new").rename(self.path / key)
    def get(self, key):
        while not (self.path / key).exists():
            time.sleep(0.01)
        return (self.path / key).read_bytes()

ranks = Ranks(take_place({RANKS}), size={RANKS})
ranks.connect(Folder(Path(os.environ["LLMC_MEETING"])))
runner = Runner()
if ranks.rank > 0:
    ranks.follow(runner)
    ranks.end()
    sys.exit()
if Path("{STUCK}").exists():
    other = ranks._place.others[1]
    whole = runner.step
    def step(work):
        while other.poll() is not None:
            time.sleep(1)
        return whole(work)
    runner.step = step
"""
TWO = (
    SERVE.replace("import argparse, time", "import argparse, sys, time")
    .replace("scheduler = Scheduler", f"{JOIN}\nscheduler = Scheduler")
    .replace("engine = Engine(Runner()", "engine = Engine(ranks.leading(runner)")
    .replace("service = Service", "ranks.on_loss = engine.fail\nservice = Service")
    + "ranks.end()\nassert 'torch' not in sys.modules\n"
)
BODY = {"model": "tiny", "prompt": [5] * 20, "max_tokens": 200, "ignore_eos": True}


@dataclass
class Replica(Router):
    """One replica, without a router."""

    @property
    def ranks(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()


@contextmanager
def replica(folder: Path) -> Iterator[Replica]:
    (folder / "serve.py").write_text(TWO)
    log = (folder / "log").open("w")
    process = subprocess.Popen(
        [sys.executable, "serve.py"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(folder)},  # what a killed server leaves
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("serving on "), (folder / "log").read_text()
        yield Replica(process, line.removeprefix("serving on ").strip())
    finally:
        process.kill()
        process.wait(30)


CHUNKS = st.builds(
    Chunk,
    blocks=st.lists(st.integers(0, 2**31 - 1), max_size=5),
    start=st.integers(0, 2**31 - 1),
    tokens=st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=5),
    needs_logits=st.booleans(),
)


@given(st.lists(CHUNKS, max_size=6))
def test_a_step_arrives_as_it_was_planned(work: list[Chunk]):
    assert unpack(pack(work)) == work


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    """Two replicas of two ranks."""
    with started(tmp_path_factory.mktemp("router"), TWO) as found:
        yield found


def test_a_dead_rank_ends_its_replica_and_what_had_not_begun_is_answered_by_another(router: Router):
    router.wait_for(ready=2)
    first = router.replicas[0]
    (other,) = first.children()
    seen = under_load(router, other.kill)
    assert seen.wrong == []
    assert seen.whole + seen.broken == NUM_REQUESTS
    router.wait_for(ready=2)
    assert not first.is_running()
    assert [len(each.children()) for each in router.replicas] == [1, 1], "it is back, with both ranks"


def test_a_replica_that_drains_finishes_what_it_has(router: Router):
    router.wait_for(ready=2)
    first = router.replicas[0]
    (other,) = first.children()
    seen = under_load(router, other.terminate)  # telling any rank drains them all
    assert (seen.wrong, seen.broken, seen.whole) == ([], 0, NUM_REQUESTS)
    assert psutil.wait_procs([first, other], timeout=10)[1] == []
    router.wait_for(ready=2)


def ctrl_c(process: subprocess.Popen[str]) -> None:
    """A terminal tells all of its processes."""
    os.killpg(process.pid, signal.SIGINT)


@pytest.mark.parametrize("tell", [subprocess.Popen.terminate, ctrl_c])
def test_a_server_told_to_stop_under_load_drains_all_ranks(tell: Callable[[Any], None], tmp_path: Path):
    with replica(tmp_path) as server:
        (other,) = server.ranks
        seen = under_load(server, lambda: tell(server.process))
        assert server.process.wait(30) == 0
        assert not other.is_running()
    assert seen.broken == 0
    assert all("Error" in text for text in seen.wrong), "those who came later found nobody"
    assert "error" not in (tmp_path / "log").read_text()


def test_ranks_do_not_outlive_a_server_that_is_killed(tmp_path: Path):
    with replica(tmp_path) as server:
        others = server.ranks
        os.kill(server.process.pid, signal.SIGKILL)
        assert psutil.wait_procs(others, timeout=10)[1] == []


def test_a_dead_rank_ends_a_server_whose_step_never_returns(tmp_path: Path):
    """Clients are told, and the status is 1."""
    (tmp_path / STUCK).touch()
    with replica(tmp_path) as server:
        (other,) = server.ranks
        asked = {**BODY, "stream": True}
        with httpx.stream("POST", f"{server.url}/v1/completions", json=asked, timeout=30) as response:
            lines = response.iter_lines()
            next(lines)
            began_s = time.monotonic()
            other.kill()
            last = [line for line in lines if line][-1]
        assert '"code":"generation_failed"' in last.replace(" ", "")
        assert server.process.wait(30) == 1
        assert time.monotonic() - began_s < GRACE_S + 5  # of a busy machine
    assert "rank 1 of this replica has ended" in (tmp_path / "log").read_text()


def test_a_rank_that_cannot_start_ends_the_replica_with_its_reason(tmp_path: Path):
    text = TWO.replace("ranks.connect(", "if ranks.rank: sys.exit('error: no such device')\nranks.connect(")
    (tmp_path / "serve.py").write_text(text)
    done = subprocess.run([sys.executable, "serve.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "no such device" in done.stderr
    assert "rank 1 of this replica has ended with status 1" in done.stderr


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "0", "WORLD_SIZE": "4"}, "this program is for 2 processes, and WORLD_SIZE is 4"),
        ({"NNODES": "3"}, "2 processes cannot be spread over NNODES=3 machines"),
        ({"NNODES": "2", "NODE_RANK": "0"}, "several machines need MASTER_ADDR"),
        ({"NNODES": "two"}, "NNODES=two is not a number"),
    ],
)
def test_a_launcher_that_starts_something_else_is_told(environment: dict[str, str], message: str, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "NNODES", "NODE_RANK", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RunError, match=message):
        launch.take_place(RANKS)


def test_several_machines_meet_at_the_first_one(tmp_path: Path):
    """Two starts of one command, as two pods of a replica are, with a token that only they know."""
    text = TWO.replace('Path(os.environ["LLMC_MEETING"])', 'Path("meeting")')
    (tmp_path / "serve.py").write_text(text)
    (tmp_path / "meeting").mkdir()
    both = {**os.environ, "NNODES": "2", "MASTER_ADDR": "127.0.0.1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "serve.py"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**both, "NODE_RANK": str(node)},
        )
        for node in range(2)
    ]
    first, second = processes
    assert first.stdout is not None
    url = first.stdout.readline().removeprefix("serving on ").strip()
    assert httpx.post(f"{url}/v1/completions", json={**BODY, "max_tokens": 5}, timeout=30).status_code == 200
    second.terminate()  # a pod of a replica that is taken away
    for process in processes:
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 0, errors
