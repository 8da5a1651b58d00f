"""Training in fp16: the loss is multiplied by a scale before its backward pass, so that small gradients do not become zero.

Gradients are divided by it once a step, before their norm is taken and they are clipped. A norm that is no number says that
they overflowed: the step is not taken, and the scale is halved. After so many sound steps it doubles (Micikevicius 2018).
The norm is that of all ranks, so all decide alike and nothing more travels. Scales are powers of two times the first one:
with one of those, multiplying and dividing change no digit.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from .optimizers.local import local

LEAST, MOST = 1.0, 2.0**32
"""Where gradients overflow under the least scale, it is not the scale that makes them do so: that is divergence."""
STATE = "loss_scale"
"""Where a checkpoint's cursor has it."""


class LossScale:
    def __init__(self, *, start: float, double_every: int) -> None:
        self.value, self.double_every = start, double_every
        self.sound_steps = 0  # since the scale moved
        self.skipped_steps = 0  # of the whole run

    def unscale(self, model: nn.Module) -> None:
        """Divide this rank's gradients by the scale: after the last micro-batch of a step."""
        gradients = [local(each.grad) for each in model.parameters() if each.grad is not None]
        torch.ops.aten._foreach_mul_.Scalar(gradients, 1.0 / self.value)

    def accepts(self, *, loss: float, grad_norm: float) -> bool:
        """Whether the step is to be taken, as far as the scale goes, which moves. A loss that is no number is not its doing."""
        if math.isfinite(loss) and not math.isfinite(grad_norm) and self.value > LEAST:
            self.value = max(self.value / 2, LEAST)
            self.sound_steps = 0
            self.skipped_steps += 1
            return False
        self.sound_steps += math.isfinite(grad_norm)
        if self.sound_steps == self.double_every:
            self.value = min(2 * self.value, MOST)
            self.sound_steps = 0
        return True

    def figures(self) -> dict[str, float]:
        """What is logged of it."""
        return {"loss_scale": self.value, "skipped_steps": self.skipped_steps}

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON values: a resumed run scales as one that was never stopped."""
        return {STATE: {"value": self.value, "sound_steps": self.sound_steps, "skipped_steps": self.skipped_steps}}

    def restore(self, cursor: dict[str, Any]) -> None:
        """Continue from a checkpoint; one of a run in another format has nothing to tell."""
        for name, value in cursor.get(STATE, {}).items():
            setattr(self, name, value)
