"""`llmc backtest`: how far off the cost model is on published measurements."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from ..compiler.backtest.backtest import as_json, backtest
from ..compiler.backtest.report import report
from ..compiler.backtest.rows import NotMeasurements
from .faults import FINE, WRONG_USAGE


def score_file(path: Path, *, want_json: bool, brief: bool) -> int:
    """Price each row of a CSV file and print the errors."""
    try:
        result = backtest(path)
    except (NotMeasurements, OSError, UnicodeDecodeError) as fault:
        print(f"llmc backtest: {fault}", file=sys.stderr)
        return WRONG_USAGE
    if want_json:
        print(json.dumps(as_json(result), indent=2, ensure_ascii=False))
    else:
        print(report(result, by_source=not brief), end="")
    return FINE
