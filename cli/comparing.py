"""`llmc diff A B`: two specs or two plans."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from ..compiler.pipeline import plan_file, price_plan
from ..compiler.planner.comparison import Side, report, to_json
from ..compiler.planner.given import plan_with_spec
from .faults import FINE, SPEC_HAS_ERRORS, WRONG_USAGE
from .printing import print_diagnostics


def compare_files(a: Path, b: Path, *, as_json: bool) -> int:
    """Prints what differs. 0 also where nothing fits: that is an answer; 1 where one of them has errors."""
    sides = []
    for path in (a, b):
        side, status = _side(path)
        if side is None:
            return status
        sides.append(side)
    one, other = sides
    print(
        json.dumps(to_json(one, other), indent=2, ensure_ascii=False) + "\n" if as_json else report(one, other), end=""
    )
    return FINE


def _side(path: Path) -> tuple[Side | None, int]:
    """A spec is planned; a plan, which may have been edited, is priced anew."""
    is_plan = path.suffix == ".json"
    entry = price_plan(path) if is_plan else plan_file(path)
    if is_plan and entry.spec is None and not entry.diagnostics:
        print(
            f"llmc diff: {path} does not carry its spec; `llmc plan SPEC --out` writes one that does", file=sys.stderr
        )
        return None, WRONG_USAGE
    if entry.spec is None or entry.plan.model is None:
        print_diagnostics(entry.diagnostics)
        return None, SPEC_HAS_ERRORS
    return Side(str(path), plan_with_spec(entry.plan, entry.spec)), FINE
