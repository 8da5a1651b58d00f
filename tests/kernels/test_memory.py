"""Memory of kernels' outputs (runtimes/kernels/memory.py)."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from llmc.runtimes.kernels.checks.rule import canaries
from llmc.runtimes.kernels.memory import empty, empty_like

ROWS = torch.zeros(500, 100, dtype=torch.bfloat16)  # 100 kB: from 128 KiB on glibc may ask the kernel for each


def test_tensors_begin_with_a_line_of_a_cache() -> None:
    for rows in (1, 700, 701):
        made = empty((rows, 100), like=ROWS, dtype=torch.float32)
        assert made.data_ptr() % 64 == 0
        assert (made.shape, made.dtype, made.is_contiguous()) == ((rows, 100), torch.float32, True)


def test_a_tensor_takes_the_place_of_a_freed_one_of_its_size() -> None:
    kept = [empty_like(ROWS) for _ in range(20)]
    holes = {each.data_ptr() for each in kept[::2]}
    del kept[::2]
    again = [empty_like(ROWS) for _ in range(10)]
    assert sum(each.data_ptr() in holes for each in again) >= 8


def test_numbers_of_neighbours_stay_apart() -> None:
    made = [empty_like(ROWS).fill_(number) for number in range(8)]
    assert all(bool((each == number).all()) for number, each in enumerate(made))


def test_fake_tensors_make_fake_ones() -> None:
    with FakeTensorMode() as mode:
        made = empty_like(mode.from_tensor(ROWS), dtype=torch.float32)
    assert isinstance(made, FakeTensor)
    assert made.shape == ROWS.shape


def test_checks_of_kernels_have_canaries_around_them() -> None:
    with canaries() as are_alive:
        made = empty_like(ROWS)
        assert are_alive()
        made.as_strided((1,), (1,), made.storage_offset() + made.numel()).zero_()
        assert not are_alive()
