"""Norms on Ascend: one kernel of torch-npu forward and one backward, which saves its input and a number a row.

Taken apart, as torch does where a device has no kernel of its own, an RMS norm saves four tensors of its input's size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RmsNorm(nn.RMSNorm):
    """nn.RMSNorm [..., D] -> [..., D] through `npu_rms_norm`; on other devices as torch has it."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "npu":
            return super().forward(x)
        normed, _ = torch.ops.npu.npu_rms_norm(
            x, self.weight, self.eps
        )  # and 1 / the root of the mean square, [..., 1]
        return normed
