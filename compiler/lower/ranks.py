"""The ranks of a served replica: how many there are, and what each has of the model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .parallel import cuts_of

if TYPE_CHECKING:
    from ...spec.document import Spec
    from .expert_cuts import CutView
    from .model_view import ModelView


@dataclass(frozen=True)
class RanksView:
    """What templates/pytorch/serve.py.j2 needs of several ranks, as `s.ranks`."""

    size: int
    cuts: tuple[CutView, ...]
    kv_copies: int
    """Neighbours that hold the same key/value heads."""

    @property
    def cut_kinds(self) -> tuple[str, ...]:
        """The cuts that the table uses, and what goes with them."""
        used = {kind for cut in self.cuts for kind in re.findall(r"[A-Z]\w+(?=\()", cut.cut)}
        return tuple(sorted(used | {"Cuts", "Whole"}))


def lower_ranks(spec: Spec, model: ModelView) -> RanksView | None:
    """None for one device."""
    if model.tp is None or not model.has_decode:
        return None
    return RanksView(model.tp.size, tuple(cuts_of(spec, model)), model.tp.kv_copies)
