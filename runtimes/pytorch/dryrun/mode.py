"""What watches the ops of a dry run."""

from __future__ import annotations

from torch.utils._python_dispatch import TorchDispatchMode


class Watching(TorchDispatchMode):
    """A mode that nothing is ever compiled under: torch need not keep its compiler away from each call (a tenth of the time)."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False
