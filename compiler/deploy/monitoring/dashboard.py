"""The Grafana dashboard: the objectives first, then a panel for every metric of the tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ....runtimes.serving.metrics import METRICS, ROUTER_METRICS, Metric
from ..facts import ROUTER_SUFFIX

if TYPE_CHECKING:
    from ..facts import Server
    from .objectives import Objective

Json = dict[str, Any]

_UNITS = {"seconds": "s", "": "short"}
_QUANTILES = (0.5, 0.9, 0.99)
_WIDTH, _HEIGHT = 8, 7
_SOURCE = {"type": "prometheus", "uid": "${source}"}
_SELECTION = 'job=~"$job",instance=~"$instance"'
_ROUTER_SELECTION = f'job=~"$job{ROUTER_SUFFIX}"'


def dashboard(server: Server, objectives: tuple[Objective, ...], *, has_router: bool) -> Json:
    """The dashboard as Grafana imports it; `has_router` where a router of ours stands before the replicas."""
    first = [_objective_panel(each) for each in objectives]
    rest = [_metric_panel(metric, objectives) for metric in METRICS]
    rows = [*([("Objectives", first)] if first else []), ("Metrics", rest)]
    if has_router:
        rows.append(("Router", [_metric_panel(metric, (), selection=_ROUTER_SELECTION) for metric in ROUTER_METRICS]))
    return {
        "title": f"llmc: {server.name}",
        "uid": f"llmc-{server.object_name}"[:40],
        "tags": ["llmc"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": _choices(server)},
        "panels": _placed(rows),
    }


def _choices(server: Server) -> list[Json]:
    source = {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    job = _label_choice("job", "label_values(llmc_engine_up, job)")
    job["current"] = {"text": server.object_name, "value": server.object_name}
    return [source, job, _label_choice("instance", 'label_values(llmc_engine_up{job=~"$job"}, instance)', has_all=True)]


def _label_choice(name: str, query: str, *, has_all: bool = False) -> Json:
    every: Json = {"includeAll": True, "multi": True, "current": {"text": "All", "value": "$__all"}} if has_all else {}
    return {"name": name, "type": "query", "datasource": _SOURCE, "query": query, "refresh": 2, **every}


def _objective_panel(objective: Objective) -> Json:
    metric = objective.metric
    within = f'sum(rate({metric}_bucket{{{_SELECTION},le="{objective.le}"}}[$__rate_interval]))'
    expression = f"{within} / sum(rate({metric}_count{{{_SELECTION}}}[$__rate_interval]))"
    title = f"{objective.words} within {objective.bound_s:g} s: objective {objective.share:.0%}"
    return _panel(title, [(expression, "share within")], unit="percentunit", line=objective.share, is_floor=True)


def _metric_panel(metric: Metric, objectives: Sequence[Objective], *, selection: str = _SELECTION) -> Json:
    unit = _UNITS.get(metric.unit, "short")
    bound = next((each.bound_s for each in objectives if each.metric == metric.name), None)
    legend = " ".join(f"{{{{{label}}}}}" for label in metric.labels) or "{{instance}}"
    if metric.kind == "gauge":
        return _panel(_title(metric), [(f"{metric.name}{{{selection}}}", legend)], unit=unit)
    if metric.kind == "counter":
        by = ", ".join(metric.labels) or "instance"
        expression = f"sum by ({by}) (rate({metric.name}{{{selection}}}[$__rate_interval]))"
        return _panel(f"{_title(metric)} a second", [(expression, legend)], unit=unit)
    queries = [
        (
            f"histogram_quantile({quantile}, sum by (le) (rate({metric.name}_bucket{{{selection}}}[$__rate_interval])))",
            f"p{quantile * 100:g}",
        )
        for quantile in _QUANTILES
    ]
    return _panel(_title(metric), queries, unit=unit, line=bound)


def _title(metric: Metric) -> str:
    return metric.name.removeprefix("llmc_").removesuffix("_total").removesuffix("_seconds").replace("_", " ")


def _panel(
    title: str, queries: list[tuple[str, str]], *, unit: str, line: float | None = None, is_floor: bool = False
) -> Json:
    """A time series; `line` is an objective, drawn across."""
    defaults: Json = {"unit": unit, "min": 0}
    if line is not None:
        colours = ("red", "green") if is_floor else ("green", "red")
        steps = [{"color": colours[0], "value": None}, {"color": colours[1], "value": line}]
        defaults |= {"thresholds": {"mode": "absolute", "steps": steps}}
        defaults |= {"custom": {"thresholdsStyle": {"mode": "line"}}}
    targets = [
        {"refId": chr(ord("A") + index), "datasource": _SOURCE, "expr": expression, "legendFormat": legend}
        for index, (expression, legend) in enumerate(queries)
    ]
    return {
        "type": "timeseries",
        "title": title,
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": targets,
    }


def _placed(rows: list[tuple[str, list[Json]]]) -> list[Json]:
    """Three panels abreast under each heading."""
    placed: list[Json] = []
    y = 0
    for title, panels in rows:
        placed.append({"type": "row", "title": title, "collapsed": False, "gridPos": _grid(0, y, 24, 1), "panels": []})
        y += 1
        for index, panel in enumerate(panels):
            column, line = index % 3, index // 3
            placed.append({**panel, "gridPos": _grid(column * _WIDTH, y + line * _HEIGHT, _WIDTH, _HEIGHT)})
        y += -(-len(panels) // 3) * _HEIGHT
    return [{"id": number, **panel} for number, panel in enumerate(placed, start=1)]


def _grid(x: int, y: int, width: int, height: int) -> Json:
    return {"x": x, "y": y, "w": width, "h": height}
