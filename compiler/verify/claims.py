"""Claims: what a plan says of its program, and what was found. A claim holds or it does not; nothing is rounded away."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .kernels import Compiled

EXACT = 0.0
WITHIN_2_PERCENT = 0.02


@dataclass(frozen=True)
class Claim:
    """One line of the verdict. Figures have a unit; claims without figures have words."""

    topic: str
    """`traffic`, `states`, `memory`, `calls`, `kernels`, `order`, `numerics`, `files`"""
    name: str
    planned: float | str
    found: float | str
    unit: str = ""
    tolerance: float = EXACT
    """Share of the planned figure that the found one may be off."""
    hint: str = ""
    """What a difference usually means."""

    @property
    def holds(self) -> bool:
        if isinstance(self.planned, str) or isinstance(self.found, str):
            return self.planned == self.found
        return abs(self.found - self.planned) <= self.tolerance * abs(self.planned)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "holds": self.holds}


@dataclass(frozen=True)
class Verdict:
    """All claims of one program."""

    name: str
    claims: tuple[Claim, ...]
    unchecked: tuple[str, ...] = ()
    """What this machine cannot tell, in words."""
    compiled: tuple[Compiled, ...] = ()
    """Kernels of programs for NPUs; those for GPUs are `llmc verify --kernels`'."""

    @property
    def holds(self) -> bool:
        return all(each.holds for each in (*self.claims, *self.compiled))

    def to_json(self) -> dict[str, Any]:
        claims = [claim.to_json() for claim in self.claims]
        compiled = {"compiled": [{**asdict(each), "holds": each.holds} for each in self.compiled]}
        return {
            "name": self.name,
            "holds": self.holds,
            "claims": claims,
            **(compiled if self.compiled else {}),
            "unchecked": list(self.unchecked),
        }
