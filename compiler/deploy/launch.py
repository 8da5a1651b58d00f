"""Spec and plan -> launch files: the one way into this folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .facts import Server, server, train_job
from .monitoring.files import Scraped, monitoring_files
from .monitoring.objectives import objectives_of
from .systemd import at_port
from .table import LAUNCHES, target_of
from .target import Files

if TYPE_CHECKING:
    from ...spec.deploy import Deploy
    from ...spec.document import Spec
    from ..lower.serving import ServeView
    from ..planner.plan import Plan


def lower_deploy(spec: Spec, plan: Plan, *, steps: int | None, serve: ServeView | None, origin: str) -> Files:
    """Nothing where the spec has no `deploy`. `steps` and `serve` are of the programs; None for one that is not there."""
    deploy = spec.deploy
    if deploy is None:
        return Files()
    launches = LAUNCHES[deploy.target]
    job = None
    if steps is not None and "train" in launches:
        job = train_job(spec, plan, origin=origin, steps=steps)
    replicas = None
    if serve is not None and "serve" in launches:
        port, is_scaled = getattr(deploy, "port", 8000), getattr(deploy, "autoscaler", None) is not None
        replicas = server(spec, plan, view=serve, origin=origin, port=port, is_scaled=is_scaled)
    found = target_of(deploy.target)(deploy, job, replicas)
    return found if replicas is None else found + _monitoring(spec, deploy, replicas)


def _monitoring(spec: Spec, deploy: Deploy, replicas: Server) -> Files:
    assert spec.serve is not None
    return monitoring_files(
        replicas,
        objectives_of(spec.serve.slo),
        scraped=_SCRAPED.get(deploy.target, _one)(replicas),
        namespace=getattr(deploy, "namespace", None),
        has_operator=deploy.target == "kubernetes",
    )


def _one(server: Server) -> Scraped:
    return Scraped((f"localhost:{server.probe_port or server.port}",))


def _services(server: Server) -> Scraped:
    port = server.probe_port or server.port
    replicas = tuple(f"server-{number}:{port}" for number in range(server.replicas))
    return Scraped(replicas, f"router:{port}" if server.replicas > 1 else None)


def _units(server: Server) -> Scraped:
    behind = [at_port(server, number) for number in range(server.replicas + 1)]
    found = [f"127.0.0.1:{each.probe_port or each.port}" for each in behind]
    return Scraped(tuple(found[:-1]), found[-1] if server.replicas > 1 else None)


_SCRAPED = {"docker": _services, "systemd": _units}
"""Target -> where Prometheus finds each replica, and the router."""
