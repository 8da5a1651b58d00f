"""The generated Ray files on a local Ray: a generated training program of which a rank is killed, and a server behind Ray Serve."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from programs import TINY, build, plan_of, tiny_spec
from real_program import built, copy_of, is_whole
from starts import steps

RAY = Path(__file__).resolve().parents[2] / ".venv/tools/ray/bin"
pytestmark = [
    pytest.mark.skipif(not (RAY / "ray").exists(), reason="Ray is not here: make tools brings it into .venv/tools"),
    pytest.mark.slow,
]
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_IMPORT_WARNING": "1", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}


@contextlib.contextmanager
def local_ray(num_cpus: int) -> Iterator[dict[str, str]]:
    """A cluster of one node; the environment in which programs find it."""
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        environment = {**os.environ, **QUIET, "PATH": f"{RAY}:{os.environ['PATH']}"}
        address = "127.0.0.1:6380"
        command = [str(RAY / "ray"), "start", "--head", "--port=6380", "--node-ip-address=127.0.0.1"]
        command += [f"--num-cpus={num_cpus}", "--include-dashboard=false", f"--temp-dir={folder}"]
        command += ["--object-store-memory=100000000", "--disable-usage-stats", "--block"]
        head = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield environment | {"RAY_ADDRESS": address}
        finally:
            end_all(head)


def end_all(head: subprocess.Popen[bytes]) -> None:
    """The cluster's processes: to end them in good order takes Ray half a minute."""
    started = psutil.Process(head.pid).children(recursive=True)
    for process in [psutil.Process(head.pid), *started]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    head.wait(10)
    psutil.wait_procs(started, timeout=10)


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    with local_ray(4) as environment:
        time.sleep(5)
        yield environment


def test_a_generated_program_goes_on_after_a_rank_was_killed(
    cluster: dict[str, str], prepared: Path, tmp_path: Path
) -> None:
    folder = copy_of(prepared, tmp_path)
    program = built(folder, "ray", storage=str(tmp_path / "ray"))
    log = (tmp_path / "log").open("wb")
    command = [str(RAY / "python"), str(program / "launch/ray_train.py")]
    job = subprocess.Popen(command, cwd=folder, env=cluster, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 500
        while steps(folder / "runs/tiny")[-1] < 4:
            assert job.poll() is None, (tmp_path / "log").read_text()[-6000:]
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()[-6000:]
            time.sleep(0.1)
        rank_of(program, 1).kill()
        assert job.wait(deadline - time.monotonic()) == 0, (tmp_path / "log").read_text()[-6000:]
    finally:
        job.kill()
    is_whole(folder)
    assert "rank 1 ended with status -9" in (tmp_path / "log").read_text()


def rank_of(program: Path, rank: int) -> psutil.Process:
    """The process of a rank."""
    for process in psutil.process_iter(["cmdline"]):
        if str(program / "train.py") in (process.info["cmdline"] or ()) and process.environ()["RANK"] == str(rank):
            return process
    raise AssertionError(f"no rank {rank} runs")


def test_a_server_answers_and_streams_through_ray_serve(cluster: dict[str, str], tmp_path: Path) -> None:
    serve = TINY["serve"] | {"workload": {"input_tokens": 32, "requests_per_s": 2.0}}
    spec = tiny_spec(without=("train", "data"), serve=serve, deploy={"target": "ray"})
    folder = build(spec, tmp_path, plan=plan_of(spec))
    app = folder / "launch/ray_serve.py"
    app.write_text(app.read_text().replace("arguments=()", 'arguments=("--random", "--threads", "1")'))
    environment = cluster | {"PYTHONPATH": str(folder / "launch"), "LLMC_KERNELS": "eager"}
    server = subprocess.Popen(
        [str(RAY / "serve"), "run", "ray_serve:app", "--name", "tiny"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        url = "http://127.0.0.1:8000"
        wait_until_ready(url, server)
        body = {"model": "tiny", "prompt": [1, 2, 3], "max_tokens": 4, "seed": 1}
        answer = json.loads(post(f"{url}/v1/completions", body))
        assert answer["usage"]["completion_tokens"] == 4
        stream = post(f"{url}/v1/completions", body | {"stream": True}).decode()
        assert stream.count("data: ") >= 2
        assert stream.rstrip().endswith("data: [DONE]")
        with pytest.raises(urllib.error.HTTPError) as refused:
            post(f"{url}/v1/completions", {"model": "other", "prompt": [1]})
        assert refused.value.code == 404
    finally:
        server.terminate()
        server.wait(60)


def post(url: str, body: dict[str, object]) -> bytes:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    return urllib.request.urlopen(request, timeout=60).read()


def wait_until_ready(url: str, server: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        assert server.poll() is None, server.stdout.read()[-4000:] if server.stdout else ""
        try:
            urllib.request.urlopen(f"{url}/health/ready", timeout=5)
            return
        except OSError:
            time.sleep(1)
    server.terminate()
    pytest.fail(server.communicate()[0][-4000:])
