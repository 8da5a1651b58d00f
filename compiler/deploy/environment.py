"""The environment variables that a machine's links call for, each with its reason, in the order of the file.

Nothing is set that NCCL finds by itself: a variable that is right on one cluster is a trap on the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...spec.deploy import Network
    from .facts import Machines


@dataclass(frozen=True)
class Variable:
    """`reason` becomes the comment above or beside it; `key` is the key of the spec that caused it."""

    name: str
    value: str
    reason: str
    key: str


def variables(
    machines: Machines, network: Network, extra: Mapping[str, str], *, is_torchrun: bool = False
) -> tuple[Variable, ...]:
    """Those of the machines, then the user's own, which win."""
    found = [
        *_torch(machines, is_torchrun=is_torchrun),
        *_maker(machines),
        *_links(machines),
        *_network(machines, network),
    ]
    own = [Variable(name, value, "from the spec", "deploy.environment") for name, value in extra.items()]
    return (*(each for each in found if each.name not in extra), *own)


def _torch(machines: Machines, *, is_torchrun: bool) -> Iterator[Variable]:
    if machines.ranks > 1 and is_torchrun:
        reason = "a restart makes a new store: the old one has the addresses of processes that died"
        yield Variable("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1", reason, "deploy.target")
    if machines.ranks > 1 and machines.kind == "gpu":
        yield Variable("NCCL_DEBUG", "WARN", "a failing link or rank is named; nothing else is printed", "hardware")


def _maker(machines: Machines) -> Iterator[Variable]:
    """What libraries of AMD and Huawei do not do unasked, as their own guides have it; RCCL reads NCCL's variables."""
    if machines.vendor == "amd":
        reason = "products by hipBLASLt, whatever this build of PyTorch prefers"
        yield Variable("TORCH_BLAS_PREFER_HIPBLASLT", "1", reason, "hardware.accelerator")
        reason = "arguments of kernels lie in device memory: kernels start microseconds sooner"
        yield Variable("HIP_FORCE_DEV_KERNARG", "1", reason, "hardware.accelerator")
        if machines.per_node == 8 and machines.device.startswith("mi3"):
            reason = "as many channels as all xGMI links between eight devices can take"
            yield Variable("NCCL_MIN_NCHANNELS", "112", reason, "hardware.accelerator")
    if machines.kind == "npu":
        reason = "memory of one size serves others: gathered weights leave holes"
        yield Variable("PYTORCH_NPU_ALLOC_CONF", "expandable_segments:True", reason, "hardware.accelerator")
        if machines.ranks > 1:
            reason = "a rank that reads its checkpoint for long is waited for; HCCL gives up after 120 s"
            yield Variable("HCCL_CONNECT_TIMEOUT", "900", reason, "hardware.accelerator")


def _links(machines: Machines) -> Iterator[Variable]:
    if machines.kind != "gpu" or machines.ranks == 1:
        return
    if machines.has_switched_links and machines.per_node > 1:
        reason = "all-reduce adds inside the NVLink switch"
        yield Variable("NCCL_NVLS_ENABLE", "1", reason, "hardware.accelerator")
    if machines.domain_nodes > 1:
        reason = f"NVLink reaches {machines.domain_nodes} nodes here; needs the IMEX service on them"
        yield Variable("NCCL_MNNVL_ENABLE", "1", reason, "hardware.accelerator")
        yield Variable("NCCL_CUMEM_ENABLE", "1", "memory that NVLink shares between nodes", "hardware.accelerator")
    if machines.fabric == "efa":
        yield Variable("FI_PROVIDER", "efa", f"the network is {machines.fabric_words}", "hardware.accelerator")
        reason = "GPU memory is sent and received without a copy in host memory"
        yield Variable("FI_EFA_USE_DEVICE_RDMA", "1", reason, "hardware.accelerator")


def _network(machines: Machines, network: Network) -> Iterator[Variable]:
    if network.interface is not None:
        reason = "the interface of first contact; the bulk goes over RDMA where there is any"
        if machines.kind == "gpu":
            yield Variable("NCCL_SOCKET_IFNAME", network.interface, reason, "deploy.network.interface")
        if machines.kind == "npu":
            yield Variable("HCCL_SOCKET_IFNAME", network.interface, reason, "deploy.network.interface")
        yield Variable("GLOO_SOCKET_IFNAME", network.interface, "the same for gloo", "deploy.network.interface")
    if machines.kind != "gpu" or machines.fabric not in ("infiniband", "roce"):
        return
    if network.hca is not None:
        yield Variable("NCCL_IB_HCA", network.hca, f"the {machines.fabric_words} devices", "deploy.network.hca")
    if network.gid_index is not None and machines.fabric == "roce":
        reason = "the RoCE v2 address; the wrong entry connects and then times out"
        yield Variable("NCCL_IB_GID_INDEX", str(network.gid_index), reason, "deploy.network.gid_index")
