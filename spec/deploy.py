"""Where the program runs and what happens around it: launch files, compression, evaluation.

One target a spec: another one is `--set deploy.target=…`, or a spec that `extends` this one. Names that reach a launch file
are held to what their systems allow, so that none of them can end a line or a quote there; free values are quoted.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from .base import Node
from .units import Count, CountOrZero, Flag, GiB, Hours, Seconds

_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$"
_DNS_LABEL = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
_LABEL_KEY = r"^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$"
_IMAGE = r"^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,254}$"
_FULL_PATH = r"^/[A-Za-z0-9._/+-]{0,1023}$"
_DEVICES = r"^[=^]?[A-Za-z0-9_][A-Za-z0-9_.:-]{0,63}(,[A-Za-z0-9_][A-Za-z0-9_.:-]{0,63}){0,31}$"


def _check_line(value: str) -> str:
    if not value.isprintable():
        raise PydanticCustomError("one_line", "one line of text, without control characters")
    return value


Name = Annotated[str, Field(pattern=_NAME)]
DnsLabel = Annotated[str, Field(pattern=_DNS_LABEL)]
LabelKey = Annotated[str, Field(pattern=_LABEL_KEY)]
Image = Annotated[str, Field(pattern=_IMAGE)]
FullPath = Annotated[str, Field(pattern=_FULL_PATH)]
Devices = Annotated[str, Field(pattern=_DEVICES)]
OneLine = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_check_line)]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]
Port = Annotated[Count, Field(lt=2**16)]


class Network(Node):
    """What the machines' own set-up decides and no plan can know; what is null is left to NCCL and gloo to find."""

    interface: Devices | None = Field(
        default=None,
        description="Interface of the first contact and of plain sockets, such as eth0 (NCCL_SOCKET_IFNAME).",
    )
    hca: Devices | None = Field(
        default=None, description="InfiniBand or RoCE devices, such as mlx5_0,mlx5_1 (NCCL_IB_HCA)."
    )
    gid_index: CountOrZero | None = Field(
        default=None, description="Entry of the RoCE address table to use (NCCL_IB_GID_INDEX)."
    )


class _Target(Node):
    """What every target takes."""

    environment: dict[VariableName, OneLine] = Field(
        default_factory=dict, description="Environment variables, set after those that the plan calls for."
    )


class _Training(_Target):
    network: Network = Field(default_factory=Network, description="Names of network devices.")
    max_restarts: CountOrZero = Field(
        default=3, description="Times that a failed run is started again, from its latest checkpoint, without progress."
    )


class _Serving(_Target):
    port: Port = Field(default=8000, description="Port of the server.")
    weights: OneLine | None = Field(
        default=None, description="Folder of the weights where the server runs; null: the run's latest checkpoint."
    )


class Torchrun(_Training):
    """A script around torchrun: the same one on every node."""

    target: Literal["torchrun"] = Field(description="A script around torchrun: the same one on every node.")
    python: OneLine = Field(default="python", description="The interpreter, on every node.")
    rendezvous_port: Port = Field(default=29500, description="Port on the first node at which the nodes meet.")


class Slurm(_Training):
    """A Slurm batch job."""

    target: Literal["slurm"] = Field(description="A Slurm batch job.")
    python: OneLine = Field(default="python", description="The interpreter, on every node or in the container.")
    partition: Name | None = Field(default=None, description="The partition to submit to.")
    account: Name | None = Field(default=None, description="The account to charge.")
    qos: Name | None = Field(default=None, description="The quality of service.")
    constraint: Annotated[str, Field(pattern=r"^[A-Za-z0-9_(\[][A-Za-z0-9_.&|*()\[\]-]{0,127}$")] | None = Field(
        default=None, description="Features that the nodes must have."
    )
    time_limit_h: Hours | None = Field(
        default=None, description="Time limit of one start of the job; null: the partition's."
    )
    signal_s: Seconds | None = Field(
        default=None,
        description="Time before the limit at which ranks are told to save and stop; null: from the plan's step time.",
    )
    requeue: Flag = Field(
        default=True, description="Queue the job again after preemption, a failure, or the time limit; it resumes."
    )
    nodes_per_switch: Count | None = Field(
        default=None, description="Nodes below one leaf switch: the job asks for as few switches as its nodes need."
    )
    container: Image | None = Field(default=None, description="Image that ranks run in, by the pyxis plugin.")


class Kubernetes(_Training, _Serving):
    """Kubernetes objects."""

    target: Literal["kubernetes"] = Field(description="Kubernetes objects.")
    image: Image = Field(description="The container image, such as the one that the generated Dockerfile makes.")
    namespace: DnsLabel | None = Field(default=None, description="The namespace; null: the one of the context.")
    train_as: Literal["jobset", "pytorchjob"] = Field(default="jobset", description="Kind of the training object.")
    serve_as: Literal["deployment", "leader_worker_set", "inference_service", "llm_inference_service"] | None = Field(
        default=None,
        description="Kind of the serving object; null: a Deployment, or a LeaderWorkerSet if a replica needs several nodes.",
    )
    claim: DnsLabel | None = Field(
        default=None, description="PersistentVolumeClaim with the folder runs/, the same for all pods."
    )
    cpus: Count | None = Field(default=None, description="CPU cores of a pod; null: what the node's pods share.")
    memory_gib: GiB | None = Field(default=None, description="Memory of a pod; null: from the weights.")
    rdma_resource: LabelKey | None = Field(
        default=None,
        description="Resource by which pods get the network's RDMA devices; null: the usual one of the network.",
    )
    queue: DnsLabel | None = Field(default=None, description="Kueue's local queue that admits the job.")
    topology_level: LabelKey | None = Field(
        default=None, description="Node label of a rack or block that should hold all pods of a job (Kueue)."
    )
    autoscaler: Literal["hpa", "keda"] | None = Field(
        default=None, description="What adds and removes replicas by their load; null: the planned number stays."
    )
    max_replicas: Count | None = Field(default=None, description="Most replicas; null: twice the planned number.")
    prometheus: Annotated[str, Field(pattern=r"^https?://[A-Za-z0-9._:/-]{1,240}$")] = Field(
        default="http://prometheus-operated.monitoring.svc:9090", description="Where KEDA asks for metrics."
    )


class QueuedResource(_Target):
    """A queued resource of Cloud TPU, and what its hosts run."""

    target: Literal["queued_resource"] = Field(description="A queued resource of Cloud TPU, and what its hosts run.")
    project: Name = Field(description="The project that pays.")
    zone: Name = Field(description="The zone of the chips.")
    run_dir: FullPath = Field(
        description="Folder of the run on the hosts; several hosts share it, by Filestore or a mounted bucket."
    )
    spot: Flag = Field(default=False, description="Take chips that may be taken back, for less.")
    reservation: Name | None = Field(default=None, description="Reservation that the chips come from.")
    runtime: Name | None = Field(default=None, description="Image of the hosts; null: the plain one of the generation.")
    python: OneLine = Field(default="python3", description="The interpreter, on every host.")
    max_restarts: CountOrZero = Field(
        default=3, description="Times that a failed run is started again, from its latest checkpoint."
    )


class Ray(_Training, _Serving):
    """A Ray job."""

    target: Literal["ray"] = Field(description="A Ray job.")
    storage: OneLine | None = Field(
        default=None, description="Folder or URL for Ray's own state of the job; null: Ray's default."
    )


class Docker(_Serving):
    """A Dockerfile and a compose file."""

    target: Literal["docker"] = Field(description="A Dockerfile, and a compose file with nginx before the replicas.")
    image: Image | None = Field(default=None, description="Name of the image to build; null: the spec's name.")


class Systemd(_Serving):
    """Units of systemd, and nginx before the replicas."""

    target: Literal["systemd"] = Field(description="Units of systemd, and nginx before the replicas.")
    folder: FullPath = Field(description="Where the program lies on the machine.")
    python: FullPath = Field(default="/usr/bin/python3", description="The interpreter, with its full path.")
    user: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")] = Field(
        default="llmc", description="The user that the server runs as."
    )


Deploy = Annotated[
    Torchrun | Slurm | Kubernetes | QueuedResource | Ray | Docker | Systemd, Field(discriminator="target")
]


class Compress(Node):
    """Compression of a trained model."""

    weights: Literal["int8", "int4", "fp8"] = Field(description="Number format of the compressed weights.")


class Eval(Node):
    """Evaluation of a trained model."""

    tasks: tuple[str, ...] = Field(min_length=1, description="Names of the tasks.")
