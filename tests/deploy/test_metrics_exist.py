"""Dashboard, rules and autoscaler ask only for metrics and labels that a running generated server, or its router, exposes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from objects import objects
from programs import TINY, build, plan_of, tiny_spec
from prometheus_client.parser import text_string_to_metric_families
from queries import FROM_SCRAPING, grouping, recorded, selectors
from trees import SLO, cpus, launch_texts, serving, with_replicas

from llmc.runtimes.serving.metrics import METRICS, ROUTER_METRICS

Series = dict[str, list[dict[str, str]]]
EVERY = (*METRICS, *ROUTER_METRICS)

DEPLOYS = {
    "keda": {"target": "kubernetes", "image": "registry.example/tiny", "autoscaler": "keda"},
    "hpa": {"target": "kubernetes", "image": "registry.example/tiny", "autoscaler": "hpa"},
    "docker": {"target": "docker"},
    "systemd": {"target": "systemd", "folder": "/srv/tiny"},
}
WITH_ROUTER = ("docker", "systemd")


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Series]:
    """Series of a generated server and the router before it, after two requests: name -> the labels of each."""
    serve = TINY["serve"] | {"slo": SLO}
    spec = tiny_spec(without=("train", "data"), serve=serve)
    folder = build(spec, tmp_path_factory.mktemp("server"), plan=with_replicas(plan_of(spec), 2))
    with (
        running(folder, "serve.py", "--random", "--threads", "1") as url,
        running(folder, "router.py", "--replica", url) as router,
    ):
        for max_tokens in (2, 3):
            body = {"model": "tiny", "prompt": [1, 2, 3], "max_tokens": max_tokens}
            headers = {"content-type": "application/json"}
            request = urllib.request.Request(f"{router}/v1/completions", json.dumps(body).encode(), headers)
            urllib.request.urlopen(request, timeout=60).read()
        for probe in ("live", "ready", "progress"):
            assert urllib.request.urlopen(f"{url}/health/{probe}", timeout=10).status == 200
        texts = (urllib.request.urlopen(f"{each}/metrics", timeout=10).read().decode() for each in (url, router))
        yield _series("".join(texts))


@contextmanager
def running(folder: Path, *command: str) -> Iterator[str]:
    """A program of a build on a free port; its address."""
    process = subprocess.Popen(
        [sys.executable, *command, "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**os.environ, "LLMC_KERNELS": "eager"},
    )
    try:
        assert process.stdout is not None
        yield next(line.split()[-1] for line in process.stdout if line.startswith("serving on "))
    finally:
        process.terminate()
        process.wait(60)


def _series(text: str) -> Series:
    found: Series = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(dict(sample.labels))
    return found


def expressions(texts: dict[str, str]) -> Iterator[str]:
    """Every query of the launch files."""
    for path, text in texts.items():
        if path.endswith("dashboard.json"):
            yield from _of_dashboard(json.loads(text))
        elif path.endswith(".yaml"):
            for each in objects(text):
                yield from _of_object(each)


def _of_dashboard(dashboard: dict[str, Any]) -> Iterator[str]:
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))
    for choice in dashboard["templating"]["list"]:
        if "label_values" in choice["query"]:
            yield choice["query"]


def _of_object(found: Any) -> Iterator[str]:
    """Values of the keys that hold PromQL, and names of metrics that an autoscaler wants, wherever they stand."""
    if isinstance(found, dict):
        for key, value in found.items():
            if key in ("expr", "query", "seriesQuery") and isinstance(value, str):
                yield value
            elif key == "metric" and isinstance(value, dict):
                yield value["name"]
            else:
                yield from _of_object(value)
    elif isinstance(found, list):
        for each in found:
            yield from _of_object(each)


@pytest.mark.parametrize("deploy", DEPLOYS)
def test_every_query_finds_its_series(deploy: str, scraped: Series) -> None:
    queries = list(expressions(launch_texts(*serving(DEPLOYS[deploy], cpus(1), replicas=2))))
    asked = {selector.metric for query in queries for selector in selectors(query)}
    assert {"llmc_requests_running", "llmc_requests_waiting", "llmc_engine_up"} <= asked
    assert any(name.startswith("llmc_router_") for name in asked) == (deploy in WITH_ROUTER)
    assert asked <= scraped.keys()
    for query in queries:
        for selector in selectors(query):
            wanted = {name: value for name, kind, value in selector.labels if name not in FROM_SCRAPING and kind == "="}
            assert any(wanted.items() <= labels.items() for labels in scraped[selector.metric]), query
        names = {name for selector in selectors(query) for labels in scraped[selector.metric] for name in labels}
        assert grouping(query) <= names | FROM_SCRAPING, query


def test_the_dashboard_shows_every_metric(scraped: Series) -> None:
    texts = launch_texts(*serving(DEPLOYS["docker"], cpus(1), replicas=2))
    dashboard = json.loads(texts["launch/monitoring/dashboard.json"])
    shown = {selector.metric for query in _of_dashboard(dashboard) for selector in selectors(query)}
    assert {metric.name + ("_bucket" if metric.kind == "histogram" else "") for metric in EVERY} <= shown


def test_the_table_is_what_is_exposed(scraped: Series) -> None:
    names = {name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum") for name in scraped}
    assert names == {metric.name for metric in EVERY}
    for metric in EVERY:
        labels = {
            name for each in scraped[metric.name + ("_sum" if metric.kind == "histogram" else "")] for name in each
        }
        assert labels == set(metric.labels), metric.name


def test_every_recorded_series_that_an_alert_reads_is_recorded() -> None:
    (rules,) = objects(launch_texts(*serving(DEPLOYS["docker"], cpus(1)))["launch/monitoring/rules.yaml"])
    every = [rule for group in rules["groups"] for rule in group["rules"]]
    read = set().union(*(recorded(rule["expr"]) for rule in every if "alert" in rule))
    assert read == {rule["record"] for rule in every if "record" in rule}
    assert read


def test_a_query_for_what_nobody_emits_is_noticed(scraped: Series) -> None:
    assert [each.metric for each in selectors("rate(llmc_tokens_made_total[5m])")] == ["llmc_tokens_made_total"]
    assert "llmc_tokens_made_total" not in scraped


@pytest.mark.parametrize("metric", EVERY, ids=lambda metric: metric.name)
def test_names_tell_their_unit(metric: Any) -> None:
    """Prometheus' rules for names: base units, `_total` for counters and for nothing else."""
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert metric.name.removesuffix("_total").endswith("_seconds") == (metric.unit == "seconds")
    assert bool(metric.buckets) == (metric.kind == "histogram")
    assert metric.help.endswith(".")
