"""`llmc backtest`: how far off the cost model is on published measurements."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from ..compiler.backtest.backtest import as_json, backtest
from ..compiler.backtest.report import report
from ..compiler.backtest.rows import NotMeasurements
from ..compiler.backtest.serve_backtest import backtest_serving, serving_as_json
from ..compiler.backtest.serve_report import serving_report
from ..compiler.backtest.serve_rows import is_serving
from .faults import FINE, WRONG_USAGE


def score_file(path: Path, *, want_json: bool, brief: bool) -> int:
    """Price each row of a CSV file, of training steps or of serving loads, and print the errors."""
    try:
        found, text = _scored(path, brief=brief)
    except (NotMeasurements, OSError, UnicodeDecodeError) as fault:
        print(f"llmc backtest: {fault}", file=sys.stderr)
        return WRONG_USAGE
    print(json.dumps(found, indent=2, ensure_ascii=False) if want_json else text, end="\n" if want_json else "")
    return FINE


def _scored(path: Path, *, brief: bool) -> tuple[dict[str, Any], str]:
    if is_serving(path):
        served = backtest_serving(path)
        return serving_as_json(served), serving_report(served, by_group=not brief)
    result = backtest(path)
    return as_json(result), report(result, by_source=not brief)
