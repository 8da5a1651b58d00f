"""What every code states about itself."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import cleandoc
from typing import ClassVar, Literal


class Code:
    """Subclasses: the docstring is what `llmc explain` prints, first line the meaning, then the why and the way out."""

    id: ClassVar[str]
    slug: ClassVar[str]
    severity: ClassVar[Literal["error", "warning"]] = "error"
    failing: ClassVar[str]
    """A spec that yields this code. Written with indentation; `failing_spec()` removes it."""
    fixed: ClassVar[str]
    """The same spec, mended: it does not yield this code."""
    files: ClassVar[Mapping[str, str]] = {}
    """Files beside the spec, if the example needs any."""
    failing_set: ClassVar[tuple[str, ...]] = ()
    """`--set` options of the failing run."""
    fixed_set: ClassVar[tuple[str, ...]] = ()
    encoding: ClassVar[str] = "utf-8"
    """How the failing spec is written to its file."""
    plan_edits: ClassVar[Mapping[str, object]] = {}
    """What was changed, by dotted path, in the failing spec's own plan before `llmc build --plan` read it."""
    stage: ClassVar[Literal["load", "plan", "build"]] = "load"
    """How far a spec must go before this code can appear."""

    @classmethod
    def meaning(cls) -> str:
        return cleandoc(cls.__doc__ or "").partition("\n")[0]

    @classmethod
    def explanation(cls) -> str:
        return cleandoc(cls.__doc__ or "").partition("\n")[2].strip()

    @classmethod
    def failing_spec(cls) -> str:
        return cleandoc(cls.failing) + "\n"

    @classmethod
    def fixed_spec(cls) -> str:
        return cleandoc(cls.fixed) + "\n"
