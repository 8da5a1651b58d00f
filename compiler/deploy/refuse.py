"""What a deploy target cannot do, told before anything is written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...spec.deploy import Kubernetes, Systemd
from ...spec.diagnostics import diagnose
from ..topology.slices import slices_of
from .autoscaling import can_scale
from .facts import machines_of
from .kubernetes import serve_kind
from .table import LAUNCHES

if TYPE_CHECKING:
    from ...spec.diagnostics import Diagnostic
    from ...spec.document import Spec
    from ...spec.serving import Serve
    from ..planner.plan import Plan


def refuse_deploy(spec: Spec, plan: Plan) -> Iterator[Diagnostic]:
    """Diagnostics of this stage; nothing where the spec has no `deploy`."""
    if spec.deploy is None:
        return
    sections = [name for name in ("train", "serve") if getattr(spec, name) is not None]
    launches = LAUNCHES[spec.deploy.target]
    if sections and not set(sections) & set(launches):
        others = ", ".join(name for name, able in LAUNCHES.items() if set(sections) & set(able))
        message = f"`{spec.deploy.target}` launches `{launches[0]}`, and this spec has only `{sections[0]}`"
        yield diagnose("D101", message, path=("deploy", "target"), notes=(f"targets for `{sections[0]}`: {others}",))
    if spec.train is not None and "train" in launches:
        yield from _slices(spec, spec.deploy.target)
    if spec.serve is not None and spec.hardware.accelerator.kind == "tpu" and spec.deploy.target in _CONTAINERS:
        message = f"`{spec.deploy.target}` for servers on TPUs is not lowered yet: nothing would ask for the chips; `systemd` is"
        yield diagnose("L301", message, path=("deploy", "target"))
    if isinstance(spec.deploy, Systemd) and spec.hardware.accelerator.kind == "tpu":
        yield from _units_on_tpus(plan)
    if spec.serve is not None and spec.deploy.target == "ray":
        yield from _guarded(spec.serve)
    if not isinstance(spec.deploy, Kubernetes) and "serve" in launches and plan.serve is not None:
        nodes = _nodes(spec, plan)
        if nodes > 1:
            message = f"a replica needs {nodes} nodes, and `{spec.deploy.target}` starts each on one"
            note = "`target: kubernetes` makes one replica of several pods (LeaderWorkerSet)"
            yield diagnose("D102", message, path=("deploy", "target"), notes=(note,))
    if isinstance(spec.deploy, Kubernetes) and plan.serve is not None:
        yield from _serving_on_kubernetes(spec, plan, spec.deploy)


def _units_on_tpus(plan: Plan) -> Iterator[Diagnostic]:
    if plan.serve is not None and plan.serve.layout.replicas > 1:
        message = "units of several replicas on TPUs are not lowered yet: nothing would share out the chips; without `deploy`, router.py does"
        yield diagnose("L301", message, path=("deploy", "target"))


_CONTAINERS = ("docker", "kubernetes", "ray")
"""Targets whose servers have the devices that they ask for."""
_FOR_SLICES = ("kubernetes", "queued_resource")


def _slices(spec: Spec, target: str) -> Iterator[Diagnostic]:
    """Other targets start a process a device; on TPUs there is one a host, which takes all chips of it."""
    path = ("deploy", "target")
    if spec.hardware.accelerator.kind != "tpu":
        if target == "queued_resource":
            message = "queued resources are TPUs, and the accelerator is none"
            yield diagnose("D104", message, path=path, notes=("other targets start programs on such machines",))
        return
    if target not in _FOR_SLICES:
        message = f"`{target}` starts a process a device, and a program for TPUs has one a host"
        yield diagnose("D104", message, path=path, notes=(f"targets for TPUs: {', '.join(_FOR_SLICES)}",))
        return
    slices = slices_of(spec.hardware)
    if slices is None:
        message = (
            "launch files for TPUs need to know their generation and the sides of the slice, which `topology` gives"
        )
        yield diagnose("D104", message, path=("hardware", "accelerator"))
    elif target == "queued_resource" and slices.generation.api is None:
        message = f"{slices.device} is rented through GKE, not as a queued resource"
        yield diagnose("D104", message, path=path, notes=("`kubernetes` launches it",))


def _guarded(serve: Serve) -> Iterator[Diagnostic]:
    """Clients speak to Ray's own proxy, which has neither."""
    for field, what in (("keys", "asks for API keys"), ("tls", "speaks HTTPS itself")):
        if getattr(serve.api, field):
            message = (
                f"a server that {what} is not lowered for Ray, whose proxy stands before it; for other targets it is"
            )
            yield diagnose("L301", message, path=("serve", "api", field), part="key")


def _nodes(spec: Spec, plan: Plan) -> int:
    """Of a replica."""
    assert plan.serve is not None
    return machines_of(spec, plan.serve.devices // plan.serve.layout.replicas).nodes


def _serving_on_kubernetes(spec: Spec, plan: Plan, deploy: Kubernetes) -> Iterator[Diagnostic]:
    nodes = _nodes(spec, plan)
    kind = serve_kind(deploy, nodes=nodes)
    if nodes > 1 and kind in ("deployment", "inference_service"):
        message = f"a replica needs {nodes} nodes, and each pod of `{kind}` is a replica of its own on one"
        note = "leader_worker_set and llm_inference_service make one replica of several pods"
        yield diagnose("D102", message, path=("deploy", "serve_as"), notes=(note,))
    if deploy.autoscaler is not None and not can_scale(kind):
        message = f"`{kind}` scales by itself: `{deploy.autoscaler}` would pull its replicas another way"
        yield diagnose("D103", message, path=("deploy", "autoscaler"), part="key")
