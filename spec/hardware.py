"""The machine: accelerators, how many, and how they are wired."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, Strict
from pydantic_core import PydanticCustomError

from .base import Node
from .units import Count, Flag, GBPerSecond, GiB, NotAFlag, Positive, TeraFlops, Usd, Watts

_TOPOLOGY = re.compile(r"[1-9]\d{0,4}(x[1-9]\d{0,4}){1,2}")


def _check_topology(value: str) -> str:
    if _TOPOLOGY.fullmatch(value) is None:
        raise PydanticCustomError("topology", "a torus is written as its sides, such as 16x16 or 4x4x8")
    return value


Topology = Annotated[str, AfterValidator(_check_topology)]


class PeakTflops(Node):
    """Dense peak of the matrix units a number format, TFLOP/s; a format that the device lacks is null."""

    fp32: TeraFlops | None = Field(default=None, description="Peak in fp32 (tf32 units are not counted).")
    bf16: TeraFlops | None = Field(default=None, description="Peak in bf16.")
    fp16: TeraFlops | None = Field(default=None, description="Peak in fp16.")
    fp8: TeraFlops | None = Field(default=None, description="Peak in fp8.")
    int8: TeraFlops | None = Field(default=None, description="Peak in int8, TOP/s.")
    fp4: TeraFlops | None = Field(default=None, description="Peak in fp4.")


class IntraNode(Node):
    """The fast links inside a node or rack."""

    link: str | None = Field(default=None, description="Name of the link, such as NVLink4.")
    gb_s: GBPerSecond | None = Field(default=None, description="Bandwidth a device.")
    domain: Count | None = Field(default=None, description="Devices that the fast links join.")
    is_mesh: Flag = Field(
        default=False, description="Whether each pair of devices has its own wire, and no switch joins them."
    )


class InterNode(Node):
    """The network between nodes."""

    link: str | None = Field(default=None, description="Name of the network, such as InfiniBand NDR.")
    gb_s: GBPerSecond | None = Field(default=None, description="Bandwidth a device.")


class Torus(Node):
    """The wires of a torus."""

    dims: Annotated[Literal[2, 3], NotAFlag] = Field(description="Dimensions of the torus.")
    gb_s: GBPerSecond = Field(description="Bandwidth of one link in one direction; a device has two links an axis.")
    wrap_multiple: Count | None = Field(default=None, description="Sides that are a multiple of this close into rings.")


Share = Annotated[float, Strict(), Field(gt=0, le=2, allow_inf_nan=False)]


class ProductRate(Node):
    """What matrix products of one format reach, measured."""

    launch_us: Positive = Field(description="Time of a product that has nothing to compute.")
    compute: Share = Field(description="Of the peak, at many rows.")
    memory: Share = Field(description="Of the bandwidth, at one row.")


class ProductRates(Node):
    """By the format of the weights; those that are null go by the cost model."""

    fp32: ProductRate | None = Field(default=None, description="Products in fp32.")
    bf16: ProductRate | None = Field(default=None, description="Products in bf16.")


class KernelProductRates(Node):
    """By the format of the weights; those that are null go by the products of PyTorch. `compute` is of what each row takes beside the reading."""

    bf16: ProductRate | None = Field(default=None, description="Products with weights in bf16.")
    int8: ProductRate | None = Field(default=None, description="Products with weights in int8.")
    int4: ProductRate | None = Field(default=None, description="Products with weights in int4.")


class KernelRates(Node):
    """What servers with llmc's kernels take on a processor, measured."""

    step_us: Positive = Field(description="Time of a step beside its layers: scheduling, sampling, preparing inputs.")
    layer_us: Positive = Field(description="Time of a layer that has nothing to compute.")
    request_us: Positive = Field(
        description="Time that a step is longer by for each answer in it: what the host does, with a client on the same machine."
    )
    first_token_us: Positive = Field(
        description="Time from a request to its first token beside the steps, with a client on the same machine."
    )
    attention: Share = Field(description="Of the peak in bf16, in attention of prompts.")
    products: KernelProductRates = Field(description="What matrix products reach.")


class Accelerator(Node):
    """One device as the catalog describes it; a spec may override any figure beside `like:`."""

    name: str | None = Field(default=None, description="What reports call it; filled in from `like`.")
    like: str | None = Field(
        default=None, description="The catalog entry that this one resembles; fields beside it override."
    )
    vendor: str | None = Field(default=None, description="Maker.")
    kind: Literal["gpu", "tpu", "npu", "cpu"] = Field(description="What kind of device; it decides the backend.")
    architecture: str | None = Field(
        default=None, description="Family of devices that the cost model's constants go by; null: those of the kind."
    )
    cores: Count = Field(
        default=1,
        description="Parts of a device that tensor parallelism counts one by one (NeuronCores); fast links and tp are in devices.",
    )
    memory_gib: GiB = Field(description="Device memory.")
    memory_gb_s: GBPerSecond = Field(description="Memory bandwidth.")
    peak_tflops: PeakTflops = Field(description="Dense peak a number format.")
    intra_node: IntraNode = Field(default_factory=IntraNode, description="The fast links inside a node or rack.")
    inter_node: InterNode = Field(default_factory=InterNode, description="The network between nodes.")
    torus: Torus | None = Field(default=None, description="The wires of a torus, for devices built as one.")
    per_node: Count = Field(default=8, description="Devices in a node.")
    tdp_w: Watts | None = Field(default=None, description="Power a device draws at most.")
    products: ProductRates = Field(
        default_factory=ProductRates, description="What matrix products reach, where it was measured (a CPU's)."
    )
    op_us: Positive | None = Field(
        default=None,
        description="Time that starting and ending a small op takes, measured; null: what the cost model has for the kind.",
    )
    kernels: KernelRates | None = Field(
        default=None, description="What servers with kernels take, measured (a CPU's); null: what the cost model has."
    )


class Host(Node):
    """The machine around the devices of a node."""

    name: str | None = Field(default=None, description="What reports call it; filled in from `like`.")
    like: str | None = Field(default=None, description="The catalog entry that this one resembles.")
    cpu_cores: Count = Field(description="Cores, of all sockets.")
    memory_gib: GiB = Field(description="Memory of the host.")
    memory_gb_s: GBPerSecond | None = Field(
        default=None, description="Bandwidth of that memory, of all sockets together; null: not known."
    )
    nvme_gb_s: GBPerSecond | None = Field(default=None, description="Sequential writes to all local disks together.")
    nvme_tb: Annotated[float, Field(gt=0)] | None = Field(default=None, description="Local disks, TB.")
    network_gb_s: GBPerSecond | None = Field(default=None, description="All network ports together, one direction.")


class Storage(Node):
    """What checkpoints are written to and data is read from."""

    name: str | None = Field(default=None, description="What reports call it; filled in from `like`.")
    like: str | None = Field(default=None, description="The catalog entry that this one resembles.")
    kind: Literal["local", "parallel", "object"] = Field(
        description="local: each host's own; parallel: a shared file system; object: a store such as S3."
    )
    host_write_gb_s: GBPerSecond = Field(description="What one host can write.")
    host_read_gb_s: GBPerSecond | None = Field(default=None, description="What one host can read.")
    write_gb_s: GBPerSecond | None = Field(
        default=None, description="What all hosts together can write; null: no limit."
    )
    read_gb_s: GBPerSecond | None = Field(default=None, description="What all hosts together can read; null: no limit.")


class Pod(Node):
    """The part of a network that is as wide as its devices' ports."""

    devices: Count = Field(description="Devices in a pod.")
    oversubscription: Annotated[float, Field(ge=1.0)] = Field(
        description="How many times narrower the network is between pods, such as 7 for 7:1."
    )


class Hardware(Node):
    """The machine that the program runs on."""

    accelerator: Accelerator = Field(description="A name from the catalog, or {like: NAME, memory_gib: …}.")
    nodes: Count = Field(default=1, description="Number of nodes.")
    per_node: Count | None = Field(default=None, description="Devices in a node; null: the catalog's usual number.")
    topology: Topology | None = Field(
        default=None, description="Sides of a torus, such as 4x4x8, in place of nodes and per_node."
    )
    slices: Count = Field(
        default=1, description="Slices with that topology; between them goes the data centre's network."
    )
    intra_node_gb_s: GBPerSecond | None = Field(
        default=None, description="Bandwidth inside a node, a device; null: the catalog's."
    )
    inter_node_gb_s: GBPerSecond | None = Field(
        default=None, description="Bandwidth between nodes, a device; null: the catalog's."
    )
    pod: Pod | None = Field(
        default=None, description="Where the network narrows; null: it is as wide between all nodes."
    )
    host: Host | None = Field(default=None, description="A host of the catalog, or its figures; null: not known.")
    storage: Storage | None = Field(
        default=None,
        description="What checkpoints go to: a name from the catalog or figures; null: the hosts' own disks.",
    )
    price_per_hour_usd: Usd | None = Field(
        default=None, description="Price of one device for an hour; null: plans show device-hours only."
    )

    @property
    def num_devices(self) -> int:
        """Devices in all: nodes x per_node, or the product of the torus' sides for each slice."""
        if self.topology is not None:
            product = self.slices
            for side in self.topology.split("x"):
                product *= int(side)
            return product
        return self.nodes * (self.per_node or self.accelerator.per_node)
