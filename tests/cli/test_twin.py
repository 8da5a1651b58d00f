"""`llmc run serve --simulate`: the API of a server whose machine is not here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_a_server_on_accelerators_that_are_not_here_answers_and_ends_well(tmp_path: Path):
    llmc = Path(sys.executable).with_name("llmc")
    command = [llmc, "run", "serve", EXAMPLES / "5-serve-slo.yaml", "--simulate", "h100-sxm-80g", "--port", "0"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
    )
    assert process.stdout is not None
    url = process.stdout.readline().removeprefix("serving on ").strip()
    assert url, process.communicate(timeout=30)[1]
    body = {"model": "chat", "prompt": [1] * 64, "max_tokens": 8, "logprobs": 0}
    answer = httpx.post(f"{url}/v1/completions", json=body, timeout=60)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert answer.json()["usage"]["completion_tokens"] == 8
    assert process.returncode == 0, err
    assert "replicas on" in err
    assert "x h100-sxm-80g" in err


def test_a_folder_is_built_for_one_machine(llmc, tmp_path: Path):
    ran = llmc("run", "serve", tmp_path, "--simulate", "h100-sxm-80g")
    assert ran.status == 2
    assert "give the spec" in ran.err
