"""`llmc plan` and `llmc build`: print what the compiler answers."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ..compiler.pipeline import BuildResult, PlanEntry, build, plan_specs
from ..compiler.planner.asked import Asked
from .faults import DOES_NOT_FIT, FINE, SPEC_HAS_ERRORS, WRONG_USAGE
from .printing import print_diagnostics


def plan_files(
    specs: Sequence[Path],
    overrides: Sequence[str],
    *,
    asked: Asked,
    as_json: bool,
    html: Path | None,
    out: Path | None,
    dump_ir: Path | None,
) -> int:
    """One answer a spec. With several the worst status counts: errors before what does not fit."""
    refused = _refuse_options(specs, asked, as_json=as_json, html=html, out=out)
    if refused is not None:
        print(f"llmc plan: {refused}", file=sys.stderr)
        return WRONG_USAGE
    entries = plan_specs(specs, overrides, dump_ir=dump_ir)
    if as_json:
        print(json.dumps([entry.plan.to_json() for entry in entries], indent=2, ensure_ascii=False))
    else:
        status = _print_reports(specs, entries, asked)
        if status != FINE:
            return status
    if out is not None or html is not None:
        status = _write_files(entries[0], specs[0], html=html, out=out)
        if status != FINE:
            return status
    statuses = {entry.exit_code for entry in entries}
    return next((status for status in (SPEC_HAS_ERRORS, DOES_NOT_FIT) if status in statuses), FINE)


def _refuse_options(
    specs: Sequence[Path], asked: Asked, *, as_json: bool, html: Path | None, out: Path | None
) -> str | None:
    if len(specs) > 1 and (out is not None or html is not None):
        return "--out and --html write one plan: name one spec"
    if as_json and not asked.nothing:
        return "--top, --why-not and --shadow-prices are told in words: leave out --json"
    return None


def _print_reports(specs: Sequence[Path], entries: Sequence[PlanEntry], asked: Asked) -> int:
    from ..compiler.planner.pins import NotPins
    from ..compiler.planner.report import print_plan

    for number, (path, entry) in enumerate(zip(specs, entries, strict=True)):
        try:
            report = print_plan(entry, file=str(path), asked=asked)
        except NotPins as question:
            print(f"llmc plan: --why-not {question}", file=sys.stderr)
            return WRONG_USAGE
        print(("\n" if number else "") + report, end="", flush=True)
        print_diagnostics(entry.diagnostics)
    return FINE


def _write_files(entry: PlanEntry, spec: Path, *, html: Path | None, out: Path | None) -> int:
    """The plan and the page of one spec; a spec without a plan gets neither."""
    if entry.spec is None or (entry.plan.train is None and entry.plan.serve is None):
        print("llmc plan: there is no plan to write", file=sys.stderr)
        return entry.exit_code or WRONG_USAGE
    texts: list[tuple[Path, str]] = []
    if out is not None:
        from ..compiler.planner.given import plan_with_spec

        texts.append((out, plan_with_spec(entry.plan, entry.spec).to_text()))
    if html is not None:
        from ..compiler.report.page import page_of

        texts.append((html, page_of(entry, file=str(spec))))
    for path, text in texts:
        try:
            path.write_text(text, encoding="utf-8", newline="\n")
        except OSError as fault:
            print(f"llmc plan: {path} cannot be written: {fault.strerror}", file=sys.stderr)
            return WRONG_USAGE
        print(f"wrote {path}", file=sys.stderr)
    return FINE


def build_file(
    spec: Path,
    out: Path | None,
    overrides: Sequence[str],
    *,
    plan: Path | None,
    check: bool,
    force: bool,
    dump_ir: Path | None,
) -> int:
    """Write a program, or with `check` only compare it with what is there."""
    from ..compiler.emit.tree import differing, write_tree

    result = build(spec, out, overrides, plan_file=plan, dump_ir=dump_ir)
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
