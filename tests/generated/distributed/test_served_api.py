"""Replicas in stages, and with experts spread over ranks, through their API: the answers of one device, and an end in order."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
from architectures import ARCHITECTURES
from programs import imported
from served import greedy, runner_of, save_tokenizer
from test_served import save_random, served

from llmc.runtimes.pytorch.weights import load_weights

SHARED = [7, 90, 200, 33] * 9
"""Two blocks of a prefix cache, and more."""
PROMPTS = [[1, 2, 3], [*SHARED, 5], [*SHARED, 6], list(range(20, 95)), [9], [255, 254]]
"""The fourth is longer than a chunk."""
NUM_NEW = 16
CASES = {
    "experts spread, and stages that tp cuts": ("deepseek-v3", {"tp": 2, "ep": 2, "pp": 2}),
    "stages": ("llama", {"pp": 2}),
}


@dataclass
class Server:
    process: subprocess.Popen[str]
    url: str
    log: Path

    def ask(self, prompt: list[int], *, num_new: int = NUM_NEW) -> str:
        asked = {"model": "tiny", "prompt": prompt, "max_tokens": num_new, "temperature": 0, "ignore_eos": True}
        answer = httpx.post(f"{self.url}/v1/completions", json=asked, timeout=120)
        assert answer.status_code == 200, answer.text
        return answer.json()["choices"][0]["text"]


@contextmanager
def started(build: Path, weights: Path) -> Iterator[Server]:
    log = build.parent / "log"
    flags = ["--weights", str(weights), "--port", "0", "--threads", "1"]
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "serve.py", *flags], cwd=build, stdout=subprocess.PIPE, stderr=errors, text=True
        )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().removeprefix("serving on ").strip()
        assert url, log.read_text()
        yield Server(process, url, log)
    finally:
        process.kill()
        process.wait(60)


@pytest.fixture(scope="module", params=CASES)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, list[str]]]:
    """A server, and what one device answers to the prompts."""
    name, degrees = CASES[request.param]
    changes, folder = ARCHITECTURES[name] | {"vocab_size": 256}, tmp_path_factory.mktemp("api")
    serve = {"kv_cache": {"dtype": "fp32", "prefix_cache": True}}
    alone = served(changes, folder / "alone")
    model = save_random(alone, folder / "weights")
    save_tokenizer(folder / "weights")
    load_weights(model, folder / "weights")
    expected = []
    with imported(alone, "serve") as (program,):
        for prompt in PROMPTS:
            ((sequence,), _) = greedy(runner_of(program, model), [prompt], num_new=NUM_NEW)
            expected.append(bytes(sequence[len(prompt) :]).decode(errors="replace"))
    build = served(changes, folder / "build", serve=serve, **degrees)
    program = (build / "serve.py").read_text()
    assert "\nDRAIN_S = 5 " in program
    (build / "serve.py").write_text(program.replace("\nDRAIN_S = 5 ", "\nDRAIN_S = 60 "))  # of a busy machine
    with started(build, folder / "weights") as found:
        yield found, expected


def test_answers_are_those_of_one_device(server: tuple[Server, list[str]]) -> None:
    """One after the other, then all at once, the beginnings of some in the cache by then."""
    found, expected = server
    assert [found.ask(prompt) for prompt in PROMPTS] == expected
    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        assert list(pool.map(found.ask, PROMPTS)) == expected
    metrics = httpx.get(f"{found.url}/metrics").text
    assert "llmc_kv_blocks_used 0" in metrics
    assert httpx.get(f"{found.url}/health/progress").status_code == 200


def test_a_replica_told_to_stop_finishes_and_one_that_lost_a_rank_ends(server: tuple[Server, list[str]]) -> None:
    """The replica of four is told while it answers, by any of its ranks; of the replica of two one is killed."""
    found, _ = server
    others = [each for each in psutil.Process(found.process.pid).children() if "serve.py" in each.cmdline()]
    is_killed = len(others) == 1
    asked = {"model": "tiny", "prompt": [1, 2], "max_tokens": 120, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", f"{found.url}/v1/completions", json=asked, timeout=120) as response:
        lines = response.iter_lines()
        next(lines)
        others[-1].send_signal(signal.SIGKILL if is_killed else signal.SIGTERM)
        last = [line for line in lines if line][-1]
    assert last == "data: [DONE]" or (is_killed and "generation_failed" in last), "it may have been about to end"
    assert found.process.wait(60) == int(is_killed)
    assert ("error on rank 0" in found.log.read_text()) == is_killed, (
        "rank 1 has ended, or the step that it was in has failed"
    )
    assert psutil.wait_procs(others, timeout=30)[1] == []
