"""What a reader of a plan wants to know beyond the one screen."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Asked:
    top: int | None = None
    """Runners-up to explain term by term."""
    prices: bool = False
    """Whether to search again on slightly better machines."""
    why_not: tuple[str, ...] = ()
    """`tp=16`, `pp=4,ep=8`"""

    @property
    def nothing(self) -> bool:
        return self == Asked()
