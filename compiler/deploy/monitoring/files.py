"""What goes to launch/monitoring/: how to scrape, rules, and the dashboard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...emit.literals import json_text
from ..target import FOLDER, Files, launch_file
from .dashboard import dashboard
from .rules import alerts, recordings

if TYPE_CHECKING:
    from ..facts import Server
    from .objectives import Objective


@dataclass(frozen=True)
class Scraped:
    """Addresses with metrics."""

    replicas: tuple[str, ...]
    router: str | None = None


def monitoring_files(
    server: Server,
    objectives: tuple[Objective, ...],
    *,
    scraped: Scraped,
    namespace: str | None,
    has_operator: bool,
) -> Files:
    """With `has_operator` (Kubernetes) as objects of the Prometheus operator, else as files of Prometheus' own."""
    is_scaled, has_router = server.is_scaled, scraped.router is not None
    names = {
        "server": server,
        "recordings": recordings(server, objectives),
        "alerts": alerts(server, objectives, is_scaled=is_scaled, has_router=has_router),
        "namespace": namespace,
        "scraped": scraped,
    }
    chosen = ("operator.yaml",) if has_operator else ("rules.yaml", "prometheus.yaml")
    found = Files(tuple(launch_file(f"monitoring/{name}", f"monitoring/{name}.j2", **names) for name in chosen))
    board = json_text(dashboard(server, objectives, has_router=has_router))
    return found + Files(texts={f"{FOLDER}/monitoring/dashboard.json": board})
