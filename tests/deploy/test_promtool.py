"""promtool on the generated rules: they are right in form, and they fire when the objectives break and not before."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from objects import objects
from ruamel.yaml import YAML
from slurm_cluster import tool
from trees import cpus, launch_texts, serving

pytestmark = pytest.mark.skipif(
    tool("promtool") is None,
    reason="promtool is not here: make tools unpacks Debian's package prometheus into .venv/tools",
)


def promtool(*arguments: str, cwd: Path) -> str:
    found = subprocess.run([str(tool("promtool")), *arguments], cwd=cwd, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout + found.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("rules")
    texts = launch_texts(*serving({"target": "docker"}, cpus(1), replicas=2))
    for name in ("rules.yaml", "prometheus.yaml"):
        (where / name).write_text(texts[f"launch/monitoring/{name}"], encoding="utf-8")
    return where


def test_the_rules_and_the_scrape_configuration_are_right_in_form(folder: Path) -> None:
    assert "SUCCESS" in promtool("check", "rules", "--lint-fatal", "rules.yaml", cwd=folder)
    assert "SUCCESS" in promtool("check", "config", "prometheus.yaml", cwd=folder)


def test_the_operators_object_has_the_same_rules(folder: Path) -> None:
    deploy = {"target": "kubernetes", "image": "registry.example/tiny"}
    texts = launch_texts(*serving(deploy, cpus(1), replicas=2))
    rule = next(each for each in objects(texts["launch/monitoring/operator.yaml"]) if each["kind"] == "PrometheusRule")
    expected = objects((folder / "rules.yaml").read_text(encoding="utf-8"))[0]
    for group in expected["groups"]:  # Kubernetes has no router of ours
        group["rules"] = [each for each in group["rules"] if "llmc_router_" not in each["expr"]]
    assert rule["spec"] == expected


BURNS = "LlmcBudgetBurnsTtftP99"
Series = list[dict[str, str]]


def rising(per_minute: float, minutes: int = 200) -> str:
    return f"0+{per_minute:g}x{minutes}"


def first_tokens(*, within: float, total: float) -> Series:
    """A histogram into which so many observations go each minute, `within` of them at most at the bound."""
    name = "llmc_time_to_first_token_seconds"
    return [
        {"series": f'{name}_bucket{{job="tiny",instance="a",le="0.4"}}', "values": rising(within)},
        {"series": f'{name}_count{{job="tiny",instance="a"}}', "values": rising(total)},
    ]


def up(*replicas: int) -> Series:
    """Engines; their router has all of them."""
    names = zip("ab", replicas, strict=False)
    return routed(1, 1) + [
        {"series": f'llmc_engine_up{{job="tiny",instance="{name}"}}', "values": f"{up}x200"} for name, up in names
    ]


def routed(*ready: int, broken: float = 0) -> Series:
    """What the router has, and how many of its 100 answers a minute break off."""
    job = 'job="tiny-router",instance="r"'
    replicas = (
        {"series": f'llmc_router_replica_ready{{{job},replica="{number}"}}', "values": f"{each}x200"}
        for number, each in enumerate(ready)
    )
    return [
        *replicas,
        {"series": f"llmc_router_responses_total{{{job}}}", "values": rising(100)},
        {"series": f"llmc_router_broken_total{{{job}}}", "values": rising(broken)},
    ]


def ended(**per_minute: float) -> Series:
    """Requests by how they ended, and those that were refused."""
    refused = {"series": 'llmc_requests_refused_total{job="tiny"}', "values": rising(per_minute.pop("refused", 0))}
    series = ((f'llmc_requests_total{{job="tiny",reason="{reason}"}}', rate) for reason, rate in per_minute.items())
    return [refused, *({"series": name, "values": rising(rate)} for name, rate in series)]


CASES: dict[str, tuple[Series, set[tuple[str, str]]]] = {
    "all well": ([*first_tokens(within=100, total=100), *ended(stop=100), *up(1, 1)], set()),
    "one in a thousand late": ([*first_tokens(within=999, total=1000), *up(1, 1)], set()),
    "one in twelve late, 8 times the budget": (
        [*first_tokens(within=92, total=100), *up(1, 1)],
        {(BURNS, "6h"), (BURNS, "1d"), (BURNS, "3d")},
    ),
    "one in five late, 20 times the budget": (
        [*first_tokens(within=80, total=100), *up(1, 1)],
        {(BURNS, "1h"), (BURNS, "6h"), (BURNS, "1d"), (BURNS, "3d")},
    ),
    "no traffic": (up(1, 1), set()),
    "one engine stuck": (up(0, 1), {("LlmcEngineStuck", ""), ("LlmcReplicasMissing", "")}),
    "one replica short": (up(1), {("LlmcReplicasMissing", "")}),
    "all gone": ([], {("LlmcServerGone", ""), ("LlmcRouterGone", "")}),
    "the router gone": (up(1, 1)[4:], {("LlmcRouterGone", "")}),
    "a replica the router cannot reach": ([*up(1, 1)[4:], *routed(1, 0)], {("LlmcReplicaLeftOut", "")}),
    "one answer in fifty breaks off": ([*up(1, 1)[4:], *routed(1, 1, broken=2)], {("LlmcAnswersBreakOff", "")}),
    "one in ten refused": ([*ended(stop=90, refused=10), *up(1, 1)], {("LlmcRefuses", "")}),
    "one in twenty failed": ([*ended(stop=95, error=5), *up(1, 1)], {("LlmcRequestsFail", "")}),
}
"""What Prometheus sees for three hours -> the alerts that then fire, with the window of those that have one."""


@pytest.mark.parametrize("name", CASES)
def test_alerts_fire_when_they_should_and_only_then(name: str, folder: Path, tmp_path: Path) -> None:
    series, expected = CASES[name]
    rules = objects((folder / "rules.yaml").read_text(encoding="utf-8"))[0]
    alerts = [rule for group in rules["groups"] for rule in group["rules"] if "alert" in rule]
    due = [rule for rule in alerts if (rule["alert"], rule["labels"].get("window", "")) in expected]
    assert len(due) == len(expected)
    checks = [
        {
            "eval_time": "3h",
            "alertname": alert,
            "exp_alerts": [fired(rule) for rule in due if rule["alert"] == alert],
        }
        for alert in dict.fromkeys(rule["alert"] for rule in alerts)
    ]
    case = {
        "rule_files": [str(folder / "rules.yaml")],
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": series, "alert_rule_test": checks}],
    }
    with (tmp_path / "case.yaml").open("w", encoding="utf-8") as stream:
        YAML().dump(case, stream)
    assert "SUCCESS" in promtool("test", "rules", "case.yaml", cwd=tmp_path)


def fired(rule: dict[str, Any]) -> dict[str, Any]:
    """As promtool writes an alert: the labels of the rule and of the series, and the annotations."""
    router = {"job": "tiny-router"}
    series = {
        "LlmcReplicasMissing": {},
        "LlmcEngineStuck": {"job": "tiny", "instance": "a"},
        "LlmcRouterGone": router,
        "LlmcReplicaLeftOut": router | {"instance": "r", "replica": "1"},
        "LlmcAnswersBreakOff": router,
    }
    labels = rule["labels"] | series.get(rule["alert"], {"job": "tiny"})
    return {"exp_labels": labels, "exp_annotations": rule["annotations"]}
