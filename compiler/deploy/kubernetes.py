"""Kubernetes: a JobSet or PyTorchJob for training; a Deployment, LeaderWorkerSet or KServe object for serving; autoscaling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..emit.literals import shell
from .autoscaling import autoscaler_files
from .environment import Variable, variables
from .facts import ENDPOINTS_S, Machines
from .guards import MOUNTED
from .image import dockerfile
from .serving import serve_command
from .target import Files, launch_file

if TYPE_CHECKING:
    from ...spec.deploy import Kubernetes
    from ..topology.slices import Slices
    from .facts import Server, TrainJob

_RDMA = {"infiniband": "rdma/ib", "roce": "rdma/roce", "efa": "vpc.amazonaws.com/efa"}
"""Network -> what its device plugin usually calls a port."""


@dataclass(frozen=True)
class Device:
    """A countable resource of a pod."""

    name: str
    count: int
    reason: str


@dataclass(frozen=True)
class TrainingPod:
    """What templates/deploy/kubernetes/pods.j2 needs for a pod of a training job, under the name `pod`."""

    image: str
    namespace: str | None
    queue: str | None
    topology_level: str | None
    main_address: str | None
    variables: tuple[Variable, ...]
    cpus: int | None
    memory: str | None
    devices: tuple[Device, ...]
    has_rdma: bool
    claim: str | None


@dataclass(frozen=True)
class ServingPod:
    """The same for a pod of a server."""

    image: str
    namespace: str | None
    command: tuple[str, ...]
    variables: tuple[Variable, ...]
    cpus: int | None
    memory: str
    devices: tuple[Device, ...]
    claim: str | None
    endpoints_s: int
    has_rdma: bool
    has_shared_memory: bool
    is_scaled: bool
    max_replicas: int
    model_uri: str
    tp: int
    pp: int


def files(deploy: Kubernetes, train: TrainJob | None, serve: Server | None) -> Files:
    is_xla = train is not None and train.slices is not None
    found = dockerfile(has_train=train is not None, server=serve, is_xla=is_xla)
    if train is not None:
        found += _training(deploy, train)
    if serve is not None:
        found += _serving(deploy, serve)
    return found


def _training(deploy: Kubernetes, job: TrainJob) -> Files:
    if job.slices is not None:
        return _slices(deploy, job, job.slices)
    several = job.machines.nodes > 1
    pod = TrainingPod(
        image=deploy.image,
        namespace=deploy.namespace,
        queue=deploy.queue,
        topology_level=deploy.topology_level,
        main_address=f"{job.object_name}-node-0-0.{job.object_name}"
        if several and deploy.train_as == "jobset"
        else None,
        variables=variables(job.machines, deploy.network, deploy.environment, is_torchrun=True),
        cpus=deploy.cpus,
        memory=_quantity(deploy.memory_gib),
        devices=_devices(job.machines, deploy.rdma_resource),
        has_rdma=job.machines.fabric in _RDMA,
        claim=deploy.claim,
    )
    # the script's own exports are those of the pod's object, where people look for them
    script = launch_file(
        "torchrun.sh",
        "torchrun/torchrun.sh.j2",
        job=job,
        variables=(),
        python=shell("python"),
        max_restarts=deploy.max_restarts,
        rendezvous_port=29500,
    )
    replicas = (("Master", 1), ("Worker", job.machines.nodes - 1)) if several else (("Master", 1),)
    template = f"kubernetes/{deploy.train_as}.yaml.j2"
    names = {"job": job, "pod": pod, "max_restarts": deploy.max_restarts, "replicas": replicas}
    return Files((script, launch_file("train.yaml", template, **names)))


def _slices(deploy: Kubernetes, job: TrainJob, slices: Slices) -> Files:
    """A job a slice, a pod a host, and a process a pod: the program is started as it is."""
    chips = Device("google.com/tpu", slices.chips_of_a_host, f"all chips of a host: {slices.words}")
    pod = TrainingPod(
        image=deploy.image,
        namespace=deploy.namespace,
        queue=deploy.queue,
        topology_level=None,
        main_address=f"{job.object_name}-slice-0-0.{job.object_name}" if slices.count * slices.hosts > 1 else None,
        variables=variables(job.machines, deploy.network, deploy.environment),
        cpus=deploy.cpus,
        memory=_quantity(deploy.memory_gib),
        devices=(chips,),
        has_rdma=False,
        claim=deploy.claim,
    )
    names = {"job": job, "pod": pod, "slices": slices, "max_restarts": deploy.max_restarts}
    return Files((launch_file("train.yaml", "kubernetes/slices.yaml.j2", **names),))


def _serving(deploy: Kubernetes, server: Server) -> Files:
    kind = serve_kind(deploy, nodes=server.machines.nodes)
    most = deploy.max_replicas or 2 * server.replicas
    pod = ServingPod(
        image=deploy.image,
        namespace=deploy.namespace,
        command=serve_command(
            server, deploy.weights, guards=MOUNTED, is_set=kind in ("leader_worker_set", "llm_inference_service")
        ),
        variables=variables(server.machines, deploy.network, deploy.environment),
        cpus=deploy.cpus,
        memory=_quantity(deploy.memory_gib) or f"{server.memory_gib}Gi",
        devices=_devices(server.machines, deploy.rdma_resource),
        claim=deploy.claim,
        endpoints_s=ENDPOINTS_S,
        has_rdma=server.machines.fabric in _RDMA,
        has_shared_memory=server.machines.ranks > 1,
        is_scaled=deploy.autoscaler is not None,
        max_replicas=most,
        model_uri=f"pvc://{deploy.claim}/{server.name}" if deploy.claim else f"file:///program/runs/{server.name}",
        tp=server.tp,
        pp=server.pp,
    )
    found = Files((launch_file("serve.yaml", f"kubernetes/{kind}.yaml.j2", server=server, pod=pod),))
    if deploy.autoscaler is not None:
        found += autoscaler_files(deploy, server, kind=kind, max_replicas=most)
    return found


def serve_kind(deploy: Kubernetes, *, nodes: int) -> str:
    """The kind of the serving object: what the spec says, or what a replica's nodes call for."""
    return deploy.serve_as or ("leader_worker_set" if nodes > 1 else "deployment")


def _devices(machines: Machines, rdma_resource: str | None) -> tuple[Device, ...]:
    found = []
    if machines.resource is not None:
        found.append(Device(machines.resource, machines.per_node, f"{machines.per_node} x {machines.device}"))
    rdma = rdma_resource or _RDMA.get(machines.fabric)
    if rdma is not None and machines.nodes > 1:
        reason = f"{machines.fabric_words}: one port a device" if machines.fabric_words else "one port a device"
        found.append(Device(rdma, machines.per_node, reason))
    return tuple(found)


def _quantity(gib: float | None) -> str | None:
    return None if gib is None else f"{gib:g}Gi"
