"""Constants of the serving model, with their origin; serving.py holds the formulas.

`kernels`  op tables of the public `aiconfigurator-core` wheel
`serving`  1,639 published serving rows, structure first, then few constants
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .provenance import Origin, Spread


@dataclass(frozen=True)
class ProductLaw:
    """`((flops/(e_c · peak))³ + (bytes/(e_m · bw))³)^(1/3) + t0`"""

    launch_s: float
    compute_share: float
    memory_share: float


@dataclass(frozen=True)
class ServeConstants:
    """What a family of devices reaches in serving."""

    products: Mapping[str, ProductLaw]
    """By format of the weights; `bf16` is there for all others."""
    layer_floor_s: float
    """Of a layer and step, not shrunk by tp: launches and synchronisation under captured graphs."""
    moe_layer_s: float
    step_s: float
    first_token_s: float
    """Of a request: tokenising, scheduling, the network stack."""
    all_reduce_extra_s: float
    cache_share: float
    """Share of the memory bandwidth at which decode attention reads keys and values."""
    prefill_attention_share: float
    prefill_half_tokens: float
    activation_factor: float
    memory_fraction: float
    """Of the device's whole memory: what weights, cache and buffers may take together."""
    origin: Origin
    source: str
    spread: Spread


_DENSE = Spread(low=0.85, high=1.2)


def _gpu(products: Mapping[str, ProductLaw], *, floor_us: float, moe_us: float, origin: Origin) -> ServeConstants:
    known = origin == "fitted"
    return ServeConstants(
        products=products,
        layer_floor_s=floor_us * 1e-6,
        moe_layer_s=moe_us * 1e-6,
        step_s=0.2e-3,
        first_token_s=16e-3,
        all_reduce_extra_s=3.5e-6,
        cache_share=0.90,
        prefill_attention_share=0.6,
        prefill_half_tokens=1000.0,
        activation_factor=1.67,
        memory_fraction=0.92,
        origin=origin,
        source="products `kernels`, floors and the rest `serving`",
        spread=_DENSE if known else Spread(low=0.7, high=1.8),
    )


HOPPER = _gpu(
    {"bf16": ProductLaw(4.2e-6, 0.82, 0.86), "fp8": ProductLaw(6.1e-6, 0.60, 0.82)},
    floor_us=24,
    moe_us=59,
    origin="fitted",
)
AMPERE = _gpu({"bf16": ProductLaw(2.8e-6, 0.84, 0.70)}, floor_us=41, moe_us=59, origin="fitted")
BLACKWELL = _gpu(
    {
        "bf16": ProductLaw(4.0e-6, 0.76, 0.88),
        "fp8": ProductLaw(6.3e-6, 0.49, 0.66),
        "nvfp4": ProductLaw(7.8e-6, 0.44, 1.0),
    },
    floor_us=7,
    moe_us=24,
    origin="fitted",
)
OTHER = _gpu({"bf16": ProductLaw(5e-6, 0.70, 0.75)}, floor_us=40, moe_us=60, origin="assumed")
NPU = _gpu({"bf16": ProductLaw(10e-6, 0.60, 0.70)}, floor_us=700, moe_us=300, origin="assumed")
CPU = ServeConstants(
    products={"bf16": ProductLaw(20e-6, 0.40, 0.75)},
    layer_floor_s=150e-6,
    moe_layer_s=500e-6,
    step_s=2e-3,
    first_token_s=5e-3,
    all_reduce_extra_s=0.0,
    cache_share=0.5,
    prefill_attention_share=0.09,
    prefill_half_tokens=100.0,
    activation_factor=3.0,
    memory_fraction=0.5,
    origin="assumed",
    source="public figures of PyTorch on a two-core server with AMX: 0.55 of the bandwidth in decoding at 1.1B",
    spread=Spread(low=0.5, high=2.0),
)

BY_ARCHITECTURE = {"ampere": AMPERE, "hopper": HOPPER, "blackwell": BLACKWELL, "ascend": NPU, "npu": NPU, "cpu": CPU}


def serve_constants_of(architecture: str) -> ServeConstants:
    """The constants of a family of devices (constants.py tells a device's family)."""
    return BY_ARCHITECTURE.get(architecture, OTHER)
