"""Of the ops named on standard input, those that torch-npu has no kernel for: JSON on the last line. `llmc verify` runs it beside torch-npu."""

from __future__ import annotations

import json
import sys

import torch
import torch_npu  # type: ignore[import-not-found]

COMPOSITES = ("CompositeExplicitAutograd", "CompositeImplicitAutograd")
"""Kernels that are made of other ops, for every device."""
BY_OUT = "CompositeExplicitAutogradNonFunctional"


def main() -> None:
    missing = [name for name in sys.stdin.read().split() if not has_kernel(name)]
    print(json.dumps({"version": torch_npu.__version__, "missing": missing}))


def has_kernel(name: str) -> bool:
    try:
        if any(torch._C._dispatch_has_kernel_for_dispatch_key(name, key) for key in ("PrivateUse1", *COMPOSITES)):
            return True
        # Or torch has a kernel that makes it by its out variant, and this one is torch-npu's.
        out = f"{name}_out" if "." in name else f"{name}.out"
        return all(
            torch._C._dispatch_has_kernel_for_dispatch_key(*each) for each in ((name, BY_OUT), (out, "PrivateUse1"))
        )
    except RuntimeError:  # no op has this name
        return False


if __name__ == "__main__":
    main()
