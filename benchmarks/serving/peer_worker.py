"""Runs inside the peer's interpreter, without this package: rows as JSON on standard input, its estimates on standard output."""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    from aiconfigurator.cli.api import cli_estimate  # pyright: ignore[reportMissingImports]

    for line in sys.stdin:
        row = json.loads(line)
        began = time.perf_counter()
        try:
            result = cli_estimate(**row["arguments"])
            found = {"ttft_s": float(result.ttft) / 1e3, "tpot_s": float(result.tpot) / 1e3}
        except Exception as fault:  # whatever it cannot price is counted, not fatal
            found = {"why": f"{type(fault).__name__}: {fault}"[:120]}
        print(json.dumps({"id": row["id"], "seconds": time.perf_counter() - began, **found}), flush=True)


if __name__ == "__main__":
    main()
