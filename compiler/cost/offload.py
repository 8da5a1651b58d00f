"""Optimizer states in the memory of the host: what an update takes there (Ren 2021, ZeRO-Offload)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...spec.units import GB
from .provenance import Spread

if TYPE_CHECKING:
    from ..topology.machine import Machine
    from .memory import StateBytes

ON_HOST = Spread(low=0.5, high=2.0)
"""Nothing of it was measured."""
WIDE = 4.0


def host_update_s(parameters: float, *, states: StateBytes, machine: Machine) -> float:
    """Gradients come down, the host reads and writes weights and states, weights go up: one after the other, nothing hidden.

    fp32 weights are the master copy, and come down as well. The devices of a node share the bandwidth of its memory.
    """
    assert machine.host_bytes_per_s is not None
    has_own_master = states.weights < WIDE
    down = states.gradients + (0.0 if has_own_master else states.weights)
    worked_on = states.optimizer + (0.0 if has_own_master else states.weights)
    moved = 2 * worked_on + states.gradients + (states.weights if has_own_master else 0.0)
    share = machine.host_bytes_per_s * machine.constants.host_memory / machine.devices_of_host
    link = machine.constants.offload_gb_s * GB
    return parameters * ((down + states.weights) / link + moved / share)
