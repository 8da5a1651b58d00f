"""The churn of benchmarks/serving_churn.py, shorter: whatever clients do, each gets an answer of its kind, and nothing is left.

How fast the answers come is the benchmark's to say, and the simulation's (test_simulation.py): tests run on busy machines.
"""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).resolve().parents[3] / "benchmarks/serving_churn.py"
NUM_REQUESTS = 250
ANSWERS = {"too long": {400}, "bad json": {400}, "wrong model": {404}}


@pytest.mark.slow
def test_churn_leaves_nothing_behind():
    spec = importlib.util.spec_from_file_location("serving_churn", FILE)
    assert spec is not None
    assert spec.loader is not None
    churning = sys.modules["serving_churn"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(churning)
    server = churning.Server()
    before = server.settled()
    seen = asyncio.run(
        churning.churn(server.url, num_requests=NUM_REQUESTS, rate=3 * churning.CAPACITY, has_trouble=True)
    )
    after = server.settled(30)
    assert server.stop() == 0
    assert seen.wrong == []
    for kind_and_status in seen.statuses:
        kind, _, status = kind_and_status.rpartition(" ")
        assert int(status) in ANSWERS.get(kind, {200, 429}), kind_and_status
    assert sum(seen.statuses.values()) == NUM_REQUESTS
    assert set(churning.TROUBLE) <= {found.rpartition(" ")[0] for found in seen.statuses}
    assert [after[name] for name in ("requests_running", "requests_waiting", "tokens_waiting", "kv_blocks_used")] == [
        0
    ] * 4
    assert after["tasks"] <= before["tasks"]
    assert after["rss"] < before["rss"] + 30 * 2**20
