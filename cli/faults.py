"""How a command ends: exceptions become exit codes and words, never a traceback for a fault of the user's spec."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

FINE, SPEC_HAS_ERRORS, WRONG_USAGE, DOES_NOT_FIT, NOT_VERIFIED, OUR_FAULT = 0, 1, 2, 3, 4, 70


@dataclass
class Outcome:
    status: int = FINE


@contextmanager
def shown_as_exit_status() -> Iterator[Outcome]:
    """Whatever ends the block ends as `outcome.status`."""
    outcome = Outcome()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without UTF-8 shows `?` in place of ending the command
    try:
        yield outcome
    except SystemExit as end:
        outcome.status = end.code if isinstance(end.code, int) else FINE if end.code is None else WRONG_USAGE
    except Exception as fault:
        outcome.status = _report(fault)


def _report(fault: Exception) -> int:
    from ..spec.diagnostics import SpecError

    if isinstance(fault, SpecError):
        from .printing import print_diagnostics

        print_diagnostics(fault.diagnostics)
        return SPEC_HAS_ERRORS
    if os.environ.get("LLMC_DEBUG") == "1":
        traceback.print_exception(fault)
        return OUR_FAULT
    where = traceback.extract_tb(fault.__traceback__)[-1]
    file = Path(where.filename).name
    print(
        f"llmc: a fault of llmc, not of your spec: {type(fault).__name__}: {fault}\n"
        f"  in {where.name} ({file}:{where.lineno})\n"
        "Please report it with the spec and the command; LLMC_DEBUG=1 shows the whole traceback.",
        file=sys.stderr,
    )
    return OUR_FAULT
