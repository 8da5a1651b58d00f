"""A program that can hang is told from one that cannot."""

from __future__ import annotations

import pytest

from llmc.compiler.verify.order import find_hang
from llmc.compiler.verify.record import Event

PAIR = (0, 1)


def collective(kind: str, group: tuple[int, ...] = PAIR, shape: str = "bfloat16[8]") -> Event:
    return Event(kind, group=group, shapes=(shape,))


def send(peer: int, message: int, shape: str = "bfloat16[8]") -> Event:
    return Event("send", peer=peer, message=message, shapes=(shape,))


def recv(peer: int, message: int, shape: str = "bfloat16[8]") -> Event:
    return Event("recv", peer=peer, message=message, shapes=(shape,))


def wait(message: int) -> Event:
    return Event("wait", message=message)


@pytest.mark.parametrize(
    "sequences",
    [
        {0: [collective("all_gather"), collective("reduce_scatter")]}
        | {1: [collective("all_gather"), collective("reduce_scatter")]},
        {0: [collective("all_gather", (0, 4))], 1: []},  # rank 4 is not played
        {0: [send(1, 1), recv(1, 2), wait(2)], 1: [recv(0, 1), wait(1), send(0, 2)]},
        {0: [send(1, 1), recv(1, 2), wait(2)], 1: [send(0, 1), recv(0, 2), wait(2)]},  # posted, so both go on
    ],
)
def test_programs_that_end(sequences: dict[int, list[Event]]) -> None:
    assert find_hang(sequences) is None


@pytest.mark.parametrize(
    ("sequences", "told"),
    [
        (
            {
                0: [collective("all_gather"), collective("all_reduce")],
                1: [collective("all_reduce"), collective("all_gather")],
            },
            "rank 0 waits in its collective number 1 of ranks 0, 1: all_gather bfloat16[8], "
            "rank 1 in its collective number 1 of ranks 0, 1: all_reduce bfloat16[8]",
        ),
        (
            {0: [collective("all_gather"), collective("all_gather")], 1: [collective("all_gather")]},
            "rank 0 waits in its collective number 2 of ranks 0, 1: all_gather bfloat16[8], which rank 1 never issues",
        ),
        (
            {0: [collective("all_reduce", shape="float32[8]")], 1: [collective("all_reduce", shape="float32[9]")]},
            "rank 0 waits in its collective number 1 of ranks 0, 1: all_reduce float32[8], "
            "rank 1 in its collective number 1 of ranks 0, 1: all_reduce float32[9]",
        ),
        (
            {0: [recv(1, 1), wait(1), send(1, 2)], 1: [recv(0, 1), wait(1), send(0, 2)]},
            "rank 0 waits for bfloat16[8] from rank 1, which has not sent it",
        ),
        (
            {0: [send(1, 1, "float32[4]")], 1: [recv(0, 1, "float32[5]"), wait(1)]},
            "rank 0 sends float32[4] to rank 1, which expects float32[5]",
        ),
        (
            {0: [send(1, 1), send(1, 2)], 1: [recv(0, 1), wait(1)]},
            "rank 0 sends bfloat16[8] to rank 1, which never receives it",
        ),
    ],
)
def test_programs_that_hang(sequences: dict[int, list[Event]], told: str) -> None:
    assert find_hang(sequences) == told


def test_groups_taken_in_a_circle_hang() -> None:
    """Each rank issues the same collectives as its partners, and yet nobody can begin."""
    hang = find_hang(
        {
            0: [collective("all_gather", (0, 1)), collective("all_gather", (0, 2))],
            1: [collective("all_gather", (1, 2)), collective("all_gather", (0, 1))],
            2: [collective("all_gather", (0, 2)), collective("all_gather", (1, 2))],
        }
    )
    assert hang is not None
    assert hang.startswith("rank 0 waits in its collective number 1 of ranks 0, 1")
