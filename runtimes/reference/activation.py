"""Gated activations of the feed-forward block (Shazeer 2020), in plain PyTorch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up: gate_up [..., 2F], the gate first -> [..., F]."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def geglu_tanh(gate_up: Tensor) -> Tensor:
    """gelu(gate) * up, GELU in its tanh form: gate_up [..., 2F], the gate first -> [..., F]."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.gelu(gate, approximate="tanh") * up
