"""`llmc run bench`: what is sent follows from the options, and else from the spec."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from llmc.cli.benching import _parser, load_of
from llmc.compiler.pipeline import plan_specs
from llmc.compiler.planner.serve_simulation import played_load
from llmc.runtimes.serving.arrivals import Arrival, ClosedLoop
from llmc.spec.serving import Workload

OPEN = Workload(input_tokens=10, output_tokens=5, requests_per_s=4.0)
CLOSED = Workload(input_tokens=10, output_tokens=5, concurrency=3)


def load(workload: Workload | None, *args: str, folder: Path = Path()):
    return load_of(workload, _parser().parse_args(["--requests", "8", *args]), longest=64, folder=folder)


def test_the_specs_workload_is_sent():
    sent = load(OPEN)
    assert [(arrival.input_tokens, arrival.output_tokens) for arrival in sent] == [(10, 5)] * 8
    assert load(CLOSED) == ClosedLoop(3, [(10, 5)] * 8)
    assert load(None) == ClosedLoop(1, [(64, 64)] * 8)


def test_options_come_before_the_spec(tmp_path: Path):
    assert load(OPEN, "--concurrency", "2", "--input-tokens", "7") == ClosedLoop(2, [(7, 5)] * 8)
    assert len({arrival.time_s for arrival in load(CLOSED, "--rate", "9", "--burst", "4")}) == 2
    assert len({arrival.input_tokens for arrival in load(OPEN, "--spread")}) > 1
    (tmp_path / "t.jsonl").write_text('{"time_s": 1, "input_tokens": 5, "output_tokens": 2}\n')
    assert load(OPEN, "--trace", str(tmp_path / "t.jsonl")) == [Arrival(1.0, 5, 2)]
    traced = Workload(trace="t.jsonl")
    assert load(traced, folder=tmp_path) == [Arrival(1.0, 5, 2)], "relative to the spec"
    assert len(load(traced, "--rate", "2", folder=tmp_path)) == 8


def test_a_server_that_is_not_there_is_a_failure_beside_the_plan(llmc):
    ran = llmc("run", "bench", str(EXAMPLE), "--url", "http://127.0.0.1:9", "--requests", "1", "--json")
    found = json.loads(ran.out)
    assert ran.status == 1
    assert found["errors"] == {"ConnectError": 1}
    assert found["ttft_p50_ms"] is None
    assert found["predicted"]["ttft_p50_ms"] > 0
    assert found["slo"]["ttft_p99_ms"] == 500


EXAMPLE = Path(__file__).resolve().parents[2] / "examples/tiny-code.yaml"


@pytest.mark.parametrize("args", [["--requests", "0"], ["--rate", "2", "--concurrency", "2"]])
def test_wrong_options_end_it(args):
    with pytest.raises(SystemExit):
        _parser().parse_args(args)


def test_the_plan_is_of_the_requests_that_are_sent():
    (entry,) = plan_specs([EXAMPLE], [])
    assert entry.spec is not None
    assert entry.spec.serve is not None
    assert entry.serve is not None
    chosen, serve = entry.serve.found.good[0], entry.spec.serve
    few = played_load(chosen, serve, load(OPEN, "--rate", "0.01"))
    many = played_load(chosen, serve, load(OPEN, "--concurrency", "8"))
    shared = played_load(replace(chosen, replicas=4), serve, load(OPEN, "--concurrency", "8"))
    assert few["ttft_p99_ms"] == pytest.approx(few["ttft_p50_ms"]), "each is alone"
    assert few["tpot_p50_ms"] < shared["tpot_p50_ms"] < many["tpot_p50_ms"]
    assert few["output_tokens_per_s"] < many["output_tokens_per_s"] < shared["output_tokens_per_s"]
