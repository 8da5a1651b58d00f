"""Memory that is asked for in large pages: that the system gives such."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from llmc.runtimes.pytorch.packed import in_huge_pages

SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
SIZE = 24 << 20


@pytest.mark.skipif(
    not SETTING.exists() or "[never]" in SETTING.read_text(),
    reason="this system gives no large pages (transparent_hugepage)",
)
def test_memory_has_large_pages():
    taken = in_huge_pages((SIZE,), torch.uint8)
    taken.fill_(1)
    assert _huge_kib(taken.data_ptr()) >= SIZE // 1024 // 2


def _huge_kib(address: int) -> int:
    """Of the mapping in which the address lies."""
    found = 0
    is_ours = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if bounds := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            is_ours = int(bounds[1], 16) <= address < int(bounds[2], 16)
        elif is_ours and line.startswith("AnonHugePages:"):
            found = int(line.split()[1])
    return found


def test_small_tensors_share_a_region_and_are_zero():
    first, second = in_huge_pages((3, 5), torch.bfloat16), in_huge_pages((7,), torch.int32)
    assert second.data_ptr() - first.data_ptr() == 64
    assert not first.any()
    assert not second.any()
    second.fill_(-1)
    assert not first.any()
