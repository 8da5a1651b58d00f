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
    tp: int
    """Ranks of a stage."""
    stages: tuple[range, ...]
    """The layers of each stage; none where there is one stage."""
    num_layers: int
    width: int
    """Of the hidden states that stages hand on."""
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
    if (model.tp is None and model.pp is None) or not model.has_decode:
        return None
    tp = model.tp.size if model.tp else 1
    stages = tuple(stage.layers for (stage,) in model.pp.ranks) if model.pp else ()
    return RanksView(
        size=tp * max(1, len(stages)),
        tp=tp,
        stages=stages,
        num_layers=model.num_layers,
        width=model.hidden_size,
        cuts=tuple(cuts_of(spec, model)),
        kv_copies=model.tp.kv_copies if model.tp else 1,
    )
