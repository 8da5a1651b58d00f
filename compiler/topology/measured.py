"""What `llmc doctor --calibrate` found out about a processor, as a machine carries it.

All of it is read when a machine is made: a spec may extend figures that its plan has no use for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...spec.hardware import Accelerator, ProductRate


@dataclass(frozen=True)
class MeasuredProduct:
    """Matrix products of one format."""

    launch_s: float
    compute_share: float
    """Of the peak, at many rows."""
    memory_share: float
    """Of the bandwidth, at one row."""


@dataclass(frozen=True)
class MeasuredServer:
    """A server with our kernels."""

    step_s: float
    """Beside its layers."""
    layer_s: float
    """Of a layer that has nothing to compute."""
    request_s: float
    """Of each answer in a step, on the host."""
    first_token_s: float
    """Of a request, beside the steps."""
    attention_share: float
    """Of the peak in bf16."""
    products: Mapping[str, MeasuredProduct]
    """By the format of the weights."""


def measured_products(device: Accelerator) -> dict[str, MeasuredProduct]:
    """PyTorch's, by format."""
    return _products({"fp32": device.products.fp32, "bf16": device.products.bf16})


def measured_server(device: Accelerator) -> MeasuredServer | None:
    """None where nobody measured one."""
    found = device.kernels
    if found is None:
        return None
    rates = found.products
    return MeasuredServer(
        step_s=found.step_us * 1e-6,
        layer_s=found.layer_us * 1e-6,
        request_s=found.request_us * 1e-6,
        first_token_s=found.first_token_us * 1e-6,
        attention_share=found.attention,
        products=_products({"bf16": rates.bf16, "int8": rates.int8, "int4": rates.int4}),
    )


def _products(rates: Mapping[str, ProductRate | None]) -> dict[str, MeasuredProduct]:
    return {
        label: MeasuredProduct(rate.launch_us * 1e-6, compute_share=rate.compute, memory_share=rate.memory)
        for label, rate in rates.items()
        if rate is not None
    }
