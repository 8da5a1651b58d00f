"""Programs are imported by the hundred here, so their kernels run in plain PyTorch; tests/kernels compares the two."""

from __future__ import annotations

import os

os.environ.setdefault("LLMC_KERNELS", "eager")
