"""Replicas are killed, suspended and told to stop under load: what had not begun is never lost, and nothing wrong is served.

The servers are processes of ours with steps of a stated time in place of a model; their tokens follow from the prompt alone, so
that every answer can be checked.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from under_load import NUM_REQUESTS, PROBE_S, ROUTER, SERVE, Router, Seen, load, started, under_load

from llmc.runtimes.serving.router.probes import ANSWER_S, MISSES


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    with started(tmp_path_factory.mktemp("router")) as found:
        yield found


def test_answers_are_what_they_must_be_without_faults(router: Router):
    seen = under_load(router, lambda: None, num_requests=60)
    assert (seen.wrong, seen.broken, seen.whole) == ([], 0, 60)


def test_a_replica_that_is_killed_loses_nothing_that_had_not_begun_and_comes_back(router: Router):
    router.wait_for(ready=2)
    before = {each.pid for each in router.replicas}
    victim = router.replicas[0]
    seen = under_load(router, victim.kill)
    assert seen.wrong == []
    assert seen.broken <= 6, (
        "no more than half of those in flight stream, and half of these are elsewhere or have not begun"
    )
    assert seen.whole + seen.broken == NUM_REQUESTS
    router.wait_for(ready=2)
    assert len({each.pid for each in router.replicas} - before) == 1


def test_a_suspended_replica_is_left_out_within_the_bound_and_its_requests_go_elsewhere(router: Router):
    router.wait_for(ready=2)
    victim = router.replicas[0]
    seen, took_s = Seen(), [0.0]

    def suspend() -> None:
        victim.suspend()
        took_s[0] = router.wait_for(stuck=1, ready=1)

    try:
        seen = under_load(router, suspend)
    finally:
        victim.resume()
    assert took_s[0] <= MISSES * (PROBE_S + ANSWER_S) + 2.0  # of a busy machine
    assert seen.wrong == []
    assert seen.whole + seen.broken == NUM_REQUESTS
    router.wait_for(ready=2)
    after = under_load(router, lambda: None, num_requests=40)
    assert (after.wrong, after.whole) == ([], 40)


def test_a_replica_that_drains_finishes_what_it_has_and_gets_nothing_new(router: Router):
    router.wait_for(ready=2)
    seen = under_load(router, router.replicas[0].terminate)
    assert (seen.wrong, seen.broken, seen.whole) == ([], 0, NUM_REQUESTS)
    router.wait_for(ready=2)


def test_sigterm_under_load_loses_no_accepted_request(tmp_path: Path):
    """Those that were accepted are answered, later ones find nobody, and nothing is left."""
    with started(tmp_path) as router:
        replicas = router.replicas
        seen = under_load(router, lambda: router.process.send_signal(signal.SIGTERM))
        assert router.process.wait(30) == 0
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines() if line.startswith('{"id"')]
    of_router = [line["status"] for line in lines if "prompt_tokens" not in line]
    assert of_router == [200] * seen.whole, "whoever was heard has an answer"
    assert all("Error" in text for text in seen.wrong), "the others found nobody"
    assert seen.broken == 0
    assert seen.whole > NUM_REQUESTS // 10
    assert not any(each.is_running() for each in replicas)
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_router_whose_replica_cannot_start_ends_with_its_reason(tmp_path: Path):
    (tmp_path / "serve.py").write_text("import sys; sys.exit('error: there is no checkpoint')")
    (tmp_path / "router.py").write_text(ROUTER)
    done = subprocess.run(
        [sys.executable, "router.py", "--port", "0"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "there is no checkpoint" in done.stderr
    assert "replica 0 ended with status 1 before it was ready" in done.stderr or "replica 1 ended" in done.stderr
    assert "Traceback" not in done.stderr


def test_replicas_do_not_outlive_a_router_that_is_killed(tmp_path: Path):
    with started(tmp_path) as router:
        replicas = router.replicas
        os.kill(router.process.pid, signal.SIGKILL)
        router.process.wait(10)
        gone, alive = psutil.wait_procs(replicas, timeout=10)
        assert (len(gone), alive) == (2, [])


def test_a_full_disk_under_the_log_changes_no_answer(tmp_path: Path):
    (tmp_path / "serve.py").write_text(SERVE)
    with Path("/dev/full").open("w") as full:
        process = subprocess.Popen(
            [sys.executable, "serve.py"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=full, text=True
        )
        assert process.stdout is not None
        seen = Seen()
        url = process.stdout.readline().removeprefix("serving on ").strip()
        asyncio.run(load(url, num_requests=30, in_flight=6, seen=seen))
        process.terminate()
        assert process.wait(20) == 0
    assert (seen.wrong, seen.broken, seen.whole) == ([], 0, 30)


def test_a_server_that_cannot_say_that_it_is_ready_ends_with_its_reason(tmp_path: Path):
    (tmp_path / "serve.py").write_text(SERVE)
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "serve.py"], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert done.returncode != 0
    assert "error: cannot write to standard output: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
