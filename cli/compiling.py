"""`llmc plan` and `llmc build`: print what the compiler answers."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ..compiler.pipeline import BuildResult, build, plan_specs
from .faults import DOES_NOT_FIT, FINE, SPEC_HAS_ERRORS, WRONG_USAGE
from .printing import print_diagnostics


def plan_files(specs: Sequence[Path], overrides: Sequence[str], *, as_json: bool, dump_ir: Path | None) -> int:
    """One answer a spec. With several the worst status counts: errors before what does not fit."""
    entries = plan_specs(specs, overrides, dump_ir=dump_ir)
    if as_json:
        print(json.dumps([entry.plan.to_json() for entry in entries], indent=2, ensure_ascii=False))
    else:
        from ..compiler.planner.report import print_plan

        for number, (path, entry) in enumerate(zip(specs, entries, strict=True)):
            report = print_plan(entry, file=str(path))
            print(("\n" if number else "") + report, end="", flush=True)
            print_diagnostics(entry.diagnostics)
    statuses = {entry.exit_code for entry in entries}
    return next((status for status in (SPEC_HAS_ERRORS, DOES_NOT_FIT) if status in statuses), FINE)


def build_file(
    spec: Path, out: Path | None, overrides: Sequence[str], *, check: bool, force: bool, dump_ir: Path | None
) -> int:
    """Write a program, or with `check` only compare it with what is there."""
    from ..compiler.emit.tree import differing, write_tree

    result = build(spec, out, overrides, dump_ir=dump_ir)
    print_diagnostics(result.diagnostics)
    if result.tree is None:
        return result.entry.exit_code
    if check:
        return _report_differences(differing(result.tree, result.out_dir), result.out_dir)
    by_hand = edits_by_hand(result)
    if by_hand and not force:
        print(
            f"llmc build: edited by hand: {', '.join(by_hand)}; --force overwrites, -o writes elsewhere",
            file=sys.stderr,
        )
        return WRONG_USAGE
    changed = write_tree(result.tree, result.out_dir)
    print(f"{result.out_dir}: {len(changed)} of {len(result.tree.texts)} files written")
    return FINE


def edits_by_hand(result: BuildResult) -> list[str]:
    """Files that a build would overwrite though somebody changed them."""
    from ..compiler.emit.tree import edited

    assert result.tree is not None
    return [str(result.out_dir / path) for path in edited(result.tree, result.out_dir)]


def _report_differences(paths: Sequence[str], out_dir: Path) -> int:
    for path in paths:
        print(f"differs from the spec: {out_dir / path}")
    if not paths:
        print(f"{out_dir} is what the spec says")
    return SPEC_HAS_ERRORS if paths else FINE
