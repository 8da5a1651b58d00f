"""`llmc verify`: a table of claims, planned and found."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..compiler.pipeline import build
from ..compiler.verify.claims import Claim, Verdict
from ..compiler.verify.dry import DryRunError
from .faults import FINE, NOT_VERIFIED, WRONG_USAGE
from .printing import print_diagnostics

if TYPE_CHECKING:
    from ..compiler.verify.kernels import Compiled, KernelVerdict


def verify_target(target: Path, overrides: Sequence[str], *, as_json: bool) -> int:
    """Verify a built folder, or the program that a spec gives."""
    from ..compiler.emit.tree import write_tree
    from ..compiler.verify.verify import verify_folder

    try:
        if target.is_dir():
            if not (target / "plan.json").exists():
                print(f"llmc verify: {target} was not built by llmc: it has no plan.json", file=sys.stderr)
                return WRONG_USAGE
            return _tell(verify_folder(target, spec=None, progress=_progress), as_json=as_json)
        with tempfile.TemporaryDirectory() as scratch:
            result = build(target, Path(scratch) / "program", overrides)
            print_diagnostics(result.diagnostics)
            if result.tree is None or result.entry.spec is None:
                return result.entry.exit_code
            write_tree(result.tree, result.out_dir)
            verdict = verify_folder(result.out_dir, spec=result.entry.spec, progress=_progress)
    except DryRunError as fault:
        print(f"llmc verify: the program cannot be executed:\n{fault}", file=sys.stderr)
        return NOT_VERIFIED
    return _tell(verdict, as_json=as_json)


def verify_kernels_of(target: Path, overrides: Sequence[str], *, as_json: bool) -> int:
    """Only the kernels of a built folder, or of the program that a spec gives."""
    from ..compiler.emit.tree import write_tree
    from ..compiler.verify.kernels import KernelCheckError, verify_kernels

    try:
        if target.is_dir():
            if not (target / "plan.json").exists():
                print(f"llmc verify: {target} was not built by llmc: it has no plan.json", file=sys.stderr)
                return WRONG_USAGE
            return _tell_kernels(verify_kernels(target, progress=_progress, name=target.name), as_json=as_json)
        with tempfile.TemporaryDirectory() as scratch:
            result = build(target, Path(scratch) / "program", overrides)
            print_diagnostics(result.diagnostics)
            if result.tree is None:
                return result.entry.exit_code
            write_tree(result.tree, result.out_dir)
            verdict = verify_kernels(result.out_dir, progress=_progress, name=result.entry.plan.name)
    except KernelCheckError as fault:
        print(f"llmc verify: the kernels cannot be checked:\n{fault}", file=sys.stderr)
        return NOT_VERIFIED
    return _tell_kernels(verdict, as_json=as_json)


def _tell_kernels(verdict: KernelVerdict, *, as_json: bool) -> int:
    print(json.dumps(verdict.to_json(), indent=1) if as_json else "\n".join(kernel_table(verdict)))
    return FINE if verdict.holds else NOT_VERIFIED


def kernel_table(verdict: KernelVerdict) -> list[str]:
    """Both tables as text, and what is wrong below its row."""
    wrong = sum(not each.holds for each in (*verdict.numerics, *verdict.compiled))
    lines = [f"{verdict.name}: kernels, {f'{wrong} claims do not hold' if wrong else 'all claims hold'}"]
    if verdict.numerics:
        rows = [
            (_mark(each.holds), each.kernel, each.case, f"{each.error:.1e}", f"{each.allowed:.1e}")
            for each in verdict.numerics
        ]
        lines += _aligned(("", "kernel", "against float64", "error", "allowed"), rows, words=3)
    lines += compiled_table(verdict.compiled)
    lines += [f"  - no {name} kernel: {reason}" for name, reason in verdict.left_alone.items()]
    return [*lines, *(f"  ? not checked: {what}" for what in verdict.unchecked)]


def compiled_table(compiled: Sequence[Compiled]) -> list[str]:
    """What compilers said, all of one kind of chip; NPUs and TPUs have no registers that anybody counts."""
    if not compiled:
        return []
    has_registers = compiled[0].registers_allowed > 0
    has_status = any(each.status for each in compiled)
    figures = (
        *(("registers", "spilled") if has_registers else ()),
        compiled[0].memory,
        *(["status"] if has_status else []),
    )
    rows = [
        (
            *(_mark(each.holds), each.kernel, each.function, each.chip, f"{each.seconds:.1f}"),
            *((f"{each.registers} of {each.registers_allowed}", f"{each.spill_bytes:,}") if has_registers else ()),
            f"{each.shared_bytes:,} of {each.shared_allowed:,}",
            *([each.status] if has_status else []),
        )
        for each in compiled
    ]
    head, *table = _aligned(("", "kernel", "function", "chip", "seconds", *figures), rows, words=4)
    lines = [head]
    for line, each in zip(table, compiled, strict=True):
        lines += [line, f"    {each.complaint}"] if each.complaint else [line]
    return lines


def _mark(holds: bool) -> str:
    return "✓" if holds else "✗"


def _aligned(heads: Sequence[str], rows: Sequence[Sequence[str]], *, words: int) -> list[str]:
    """The first `words` columns to the left, figures to the right."""
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]
    return [
        "  "
        + "  ".join(
            cell.ljust(width) if column < words else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (heads, *rows)
    ]


def _progress(what: str) -> None:
    print(f"{what} …", file=sys.stderr, flush=True)


def _tell(verdict: Verdict, *, as_json: bool) -> int:
    print(json.dumps(verdict.to_json(), indent=1) if as_json else "\n".join(table(verdict)))
    return FINE if verdict.holds else NOT_VERIFIED


def table(verdict: Verdict) -> list[str]:
    """The claims of a program as text, those that do not hold with what that usually means."""
    rows = [_row(claim) for claim in verdict.claims]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(1, 4)]
    wrong = sum(not each.holds for each in (*verdict.claims, *verdict.compiled))
    lines = [
        f"{verdict.name}: {len(rows) + len(verdict.compiled)} claims, {f'{wrong} do not hold' if wrong else 'all hold'}"
    ]
    if rows:
        lines.append(f"    {'claim':<{widths[0]}}  {'planned':>{widths[1]}}  {'found':>{widths[2]}}")
    for (mark, name, planned, found), claim in zip(rows, verdict.claims, strict=True):
        lines.append(f"  {mark} {name:<{widths[0]}}  {planned:>{widths[1]}}  {found:>{widths[2]}}")
        if not claim.holds and claim.hint:
            lines.append(f"    {claim.hint}")
    return [*lines, *compiled_table(verdict.compiled), *(f"  ? not checked: {what}" for what in verdict.unchecked)]


def _row(claim: Claim) -> tuple[str, str, str, str]:
    name = f"{claim.topic}: {claim.name}" + (f" (within {claim.tolerance:.0%})" if claim.tolerance else "")
    return "✓" if claim.holds else "✗", name, _figure(claim.planned, claim.unit), _figure(claim.found, claim.unit)


def _figure(value: float | str, unit: str) -> str:
    return value if isinstance(value, str) else f"{value:,} {unit}".rstrip()
