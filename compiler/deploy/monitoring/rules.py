"""Recording and alert rules for Prometheus: burn rates of the objectives, and what an operator must know besides.

Series are told apart by `job`, which the generated scrape configuration sets to the server's name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .objectives import Objective, windows_of

if TYPE_CHECKING:
    from ..facts import Server

REFUSED_SHARE = 0.05
ERROR_SHARE = 0.01


@dataclass(frozen=True)
class Recording:
    record: str
    expr: str


@dataclass(frozen=True)
class Alert:
    """`for_` is how long the condition must hold."""

    alert: str
    expr: str
    for_: str
    severity: str
    summary: str
    description: str
    window: str | None = None


def recordings(server: Server, objectives: tuple[Objective, ...]) -> tuple[Recording, ...]:
    """The share of requests beyond each bound, over each window that an alert looks at."""
    found = []
    for objective in objectives:
        spans = {span: None for window in windows_of(objective) for span in (window.short, window.long)}
        for span in sorted(spans, key=_minutes):
            found.append(Recording(_recorded(objective, span), _beyond(server, objective, span)))
    return tuple(found)


def alerts(
    server: Server, objectives: tuple[Objective, ...], *, is_scaled: bool, has_router: bool
) -> tuple[Alert, ...]:
    burning = (alert for objective in objectives for alert in _burning(server, objective))
    routing = _routing(server) if has_router else ()
    return (*burning, *_operating(server, is_scaled=is_scaled), *routing)


def _beyond(server: Server, objective: Objective, span: str) -> str:
    job, metric = _job(server), objective.metric
    within = f'sum by (job) (rate({metric}_bucket{{{job},le="{objective.le}"}}[{span}]))'
    return f"1 - {within} / sum by (job) (rate({metric}_count{{{job}}}[{span}]))"


def _recorded(objective: Objective, span: str) -> str:
    return f"job:llmc_{objective.name}_beyond:ratio_rate{span}"


def _burning(server: Server, objective: Objective) -> Iterator[Alert]:
    percent = f"{objective.share:.0%}"
    for window in windows_of(objective):
        limit = f"({window.factor:g} * {objective.budget:g})"
        both = (f"{_recorded(objective, span)}{{{_job(server)}}} > {limit}" for span in (window.long, window.short))
        yield Alert(
            alert=f"LlmcBudgetBurns{_camel(objective.name)}",
            expr=" and ".join(both),
            for_="0m" if window.severity == "page" else "5m",
            severity=window.severity,
            summary=f"{objective.words}: the error budget goes {window.factor:g} times too fast",
            description=(
                f"Objective: {percent} of requests within {objective.bound_s:g} s. Over {window.long} and still over"
                f" {window.short} the share beyond is more than {window.factor:g} times {objective.budget:g}:"
                f" {window.used} of a month's budget."
            ),
            window=window.long,
        )


def _operating(server: Server, *, is_scaled: bool) -> Iterator[Alert]:
    job = _job(server)
    yield Alert(
        "LlmcEngineStuck",
        f"llmc_engine_up{{{job}}} == 0",
        "1m",
        "page",
        "an engine makes no progress",
        "Its replica answers and computes nothing: whoever started it should have started it anew by now.",
    )
    yield Alert(
        "LlmcServerGone",
        f"absent(llmc_engine_up{{{job}}})",
        "5m",
        "page",
        "no replica can be scraped",
        "Either none runs, or Prometheus does not find them.",
    )
    if not is_scaled and server.replicas > 1:
        yield Alert(
            "LlmcReplicasMissing",
            f"sum(llmc_engine_up{{{job}}}) < {server.replicas}",
            "10m",
            "ticket",
            f"fewer than the planned {server.replicas} replicas",
            "The plan needs all of them to keep the objectives under the expected load.",
        )
    refused, ended = (f"sum by (job) (rate({name}{{{job}}}[5m]))" for name in _REFUSED_AND_ENDED)
    yield Alert(
        "LlmcRefuses",
        f"{refused} / ({refused} + {ended}) > {REFUSED_SHARE:g}",
        "10m",
        "ticket",
        "requests are refused with 429",
        "The load is above what the plan can keep the objectives under: more replicas, or a smaller load.",
    )
    failed = f'sum by (job) (rate(llmc_requests_total{{{job},reason="error"}}[5m]))'
    yield Alert(
        "LlmcRequestsFail",
        f"{failed} / {ended} > {ERROR_SHARE:g}",
        "5m",
        "page",
        "requests end with an error",
        "The servers' logs name the requests and the reason.",
    )


def _routing(server: Server) -> Iterator[Alert]:
    """What the router sees, and the replicas cannot tell of themselves."""
    job = f'job="{server.router_job}"'
    yield Alert(
        "LlmcRouterGone",
        f"absent(llmc_router_replica_ready{{{job}}})",
        "2m",
        "page",
        "the router cannot be scraped",
        "Either it does not run, and then nobody is served, or Prometheus does not find it.",
    )
    yield Alert(
        "LlmcReplicaLeftOut",
        f"llmc_router_replica_ready{{{job}}} == 0",
        "5m",
        "ticket",
        "the router sends a replica nothing",
        "Its probe is red or does not come back: it starts, drains, is stuck, or cannot be reached from the router.",
    )
    broken, answered = (
        f"sum by (job) (rate({name}{{{job}}}[5m]))"
        for name in ("llmc_router_broken_total", "llmc_router_responses_total")
    )
    yield Alert(
        "LlmcAnswersBreakOff",
        f"{broken} / {answered} > {ERROR_SHARE:g}",
        "5m",
        "page",
        "answers end in the middle",
        "Replicas are lost while they answer: their logs, or those of whoever starts them, tell why.",
    )


_REFUSED_AND_ENDED = ("llmc_requests_refused_total", "llmc_requests_total")


def _job(server: Server) -> str:
    return f'job="{server.object_name}"'


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def _minutes(span: str) -> int:
    return int(span[:-1]) * {"m": 1, "h": 60, "d": 1440}[span[-1]]
