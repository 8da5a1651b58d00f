"""Hold the kernels of a build to float64, on this machine: C++ as it runs, Triton in its interpreter (TRITON_INTERPRET=1).

python -m llmc.runtimes.kernels.checks.numerics BUILD_DIR [--rows 3 150]   -> one JSON object a line, a case each
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from ..gpu import is_interpreted
from .build_folder import described, module_of
from .cases import cases_of
from .rule import compare

ROWS = (3, 70)
"""Odd ones: less than a block of anything, and more than one of most."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="numerics")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    folder = args.folder.resolve()
    kernels = described(folder)["kernels"]
    if any(kernel["language"] == "triton" for kernel in kernels):
        assert is_interpreted(), "set TRITON_INTERPRET=1 before this process starts"
        from .interpreter import repair

        repair()
    for kernel in kernels:
        module = module_of(folder, kernel["name"])
        for case in cases_of(kernel, module, rows=args.rows):
            started_s = time.perf_counter()
            found = compare(case.function, case.eager, case.inputs, eps=case.eps)
            worst = max(found, key=lambda each: each.error / max(each.allowed, 1e-30))
            row = {"kernel": kernel["name"], "case": case.name, "language": kernel["language"]}
            row |= {"what": worst.what, "error": worst.error, "allowed": worst.allowed, "holds": worst.holds}
            print(json.dumps(row | {"seconds": time.perf_counter() - started_s}), flush=True)


if __name__ == "__main__":
    main()
