"""Of the ops named on standard input, those that torch-npu has no kernel for: JSON on the last line. `llmc verify` runs it beside torch-npu."""

from __future__ import annotations

import json
import sys

import torch
import torch_npu  # type: ignore[import-not-found]

COMPOSITES = ("CompositeExplicitAutograd", "CompositeImplicitAutograd")
"""Kernels that are made of other ops, for every device."""


def main() -> None:
    missing = [name for name in sys.stdin.read().split() if not has_kernel(name)]
    print(json.dumps({"version": torch_npu.__version__, "missing": missing}))


def has_kernel(name: str) -> bool:
    try:
        return any(torch._C._dispatch_has_kernel_for_dispatch_key(name, key) for key in ("PrivateUse1", *COMPOSITES))
    except RuntimeError:  # no op has this name
        return False


if __name__ == "__main__":
    main()
