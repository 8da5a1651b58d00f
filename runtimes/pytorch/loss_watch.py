"""Steps that are not taken: the loss or the gradient is no number, or the loss is a spike.

The decision falls after the gradients of all micro-batches and ranks are summed up and before the optimizer's step, on values
that every rank has alike, so all decide the same and the weights are never touched by such a batch.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..common.errors import RunError

STATE = "watch"
"""Where a checkpoint's cursor has what the watch knows."""


@dataclass(frozen=True)
class LeftOut:
    """A step that was not taken, and why."""

    step: int
    policy: str
    why: str

    def line(self) -> dict[str, Any]:
        return {"step": self.step, "left_out": self.step, "policy": self.policy, "why": self.why}

    def text(self) -> str:
        return f"step {self.step} is not taken: {self.why}"

    def line_back(self, step: int) -> dict[str, Any]:
        """The same where the run goes back to `step`: the line belongs to the first step that is done again."""
        return {**self.line(), "step": step + 1, "back_to": step}

    def text_back(self, step: int) -> str:
        return f"{self.text()}; back to the checkpoint of step {step}"


class LossWatch:
    """Judges each step by those before it. `lr_ratio` and `lr_steps`: how the rate is lowered after a bad one, and how long."""

    def __init__(
        self,
        policy: str,
        *,
        spike_ratio: float | None,
        window_steps: int,
        most_in_a_row: int,
        lr_ratio: float = 1.0,
        lr_steps: int = 0,
    ) -> None:
        self.policy, self.spike_ratio, self.most_in_a_row = policy, spike_ratio, most_in_a_row
        self.lr_ratio, self.lr_steps = lr_ratio, lr_steps
        self.losses: deque[float] = deque(maxlen=window_steps)  # of the latest steps that were taken
        self.in_a_row = 0
        self.left_out: list[int] = []  # steps that still lower the rate
        self._furthest = 0  # the last step that was not taken
        self._why: str | None = None

    def accepts(self, *, loss: float, grad_norm: float) -> bool:
        """Whether the step is to be taken."""
        self._why = self._fault(loss, grad_norm)
        if self._why is None:
            self.losses.append(loss)
        return self._why is None

    def verdict(self, step: int) -> LeftOut | None:
        """After a step: None if it was taken. RunError after too many in a row that were not."""
        why, self._why = self._why, None
        if why is None:
            if step > self._furthest:  # after a return, until the run is past the place where it turned back
                self.in_a_row = 0
            return None
        self.in_a_row += 1
        self._furthest = max(self._furthest, step)
        if self.in_a_row > self.most_in_a_row:
            raise RunError(
                f"training diverged: {why}; {self.in_a_row} steps in a row were not taken",
                help="go on from the latest checkpoint with --resume and a lower lr, a longer warmup, or fp32",
            )
        self.left_out = [each for each in self.left_out if step < each + self.lr_steps] + [step]
        return LeftOut(step, self.policy, why)

    def lr_factor(self, step: int) -> float:
        """What the rate of a step is multiplied by."""
        return self.lr_ratio ** sum(each < step <= each + self.lr_steps for each in self.left_out)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON values: a resumed run decides as one that was never stopped."""
        kept = {"losses": list(self.losses), "left_out": self.left_out}
        return {STATE: {**kept, "in_a_row": self.in_a_row, "furthest": self._furthest}}

    def restore(self, cursor: dict[str, Any]) -> None:
        """Continue from a checkpoint; one of a run without a watch has nothing to tell."""
        state = cursor.get(STATE)
        if state is not None:
            self.go_back(cursor)
            self.left_out = list(state["left_out"])
            self.in_a_row, self._furthest = state["in_a_row"], state["furthest"]

    def go_back(self, cursor: dict[str, Any]) -> None:
        """Judge as at a checkpoint, without forgetting which steps were not taken since."""
        self.losses.clear()
        self.losses.extend(cursor.get(STATE, {}).get("losses", ()))

    def _fault(self, loss: float, grad_norm: float) -> str | None:
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            return f"loss {loss:.4g}, norm of the gradient {grad_norm:.4g}"
        if self.spike_ratio is None or len(self.losses) < (self.losses.maxlen or 0):
            return None
        median = statistics.median(self.losses)
        if loss <= self.spike_ratio * median:
            return None
        return f"loss {loss:.4g} is {loss / median:.3g} times {median:.4g}, the median of {len(self.losses)} steps"


def forget_visits(model: nn.Module) -> None:
    """What routers of experts counted in a batch that is left out does not move their balance."""
    for name, buffer in model.named_buffers():
        if name.endswith(".visits"):
            buffer.zero_()
