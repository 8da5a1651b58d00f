"""The processes of one program on this machine: the first one starts the others, unless a launcher has started each.

RANK is set            a launcher (torchrun, srun) has started every process: nothing to do
NNODES, NODE_RANK      one process was started on each of several machines, which meet at MASTER_ADDR and MASTER_PORT
neither                everything is on this machine, and meets in a folder of its own
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..common.errors import RunError
from .process import end_with_parent

MEETING = "LLMC_MEETING"
"""The folder in which the processes of one machine meet."""


@dataclass(frozen=True)
class Place:
    """Which of the program's processes this one is."""

    rank: int
    local_rank: int
    """On this machine."""
    num_local: int
    """Processes on this machine."""
    meeting: Path | None
    """Where all processes are on one machine, a folder that is theirs alone."""
    others: dict[int, subprocess.Popen[bytes]]
    """Rank -> process, of those that this one has started."""

    @property
    def is_starter(self) -> bool:
        """Whether the folder is this process' to remove."""
        return bool(self.others) and self.meeting is not None


def take_place(size: int) -> Place:
    """The place of this process among `size`; the first one of a machine starts the others, which end with it."""
    if "RANK" in os.environ:
        return _started(size)
    nodes, node = _number("NNODES", 1), _number("NODE_RANK", 0)
    if size % nodes or not 0 <= node < nodes:
        raise RunError(
            f"{size} processes cannot be spread over NNODES={nodes} machines, of which this is NODE_RANK={node}",
            help="set both as the launch file of the plan does, or neither",
        )
    if nodes > 1 and "MASTER_ADDR" not in os.environ:
        help = "set it to the address of the machine with NODE_RANK=0, and MASTER_PORT to a free port there"
        raise RunError("several machines need MASTER_ADDR to meet at", help=help)
    per_node = size // nodes
    first = node * per_node
    meeting = _meeting() if nodes == 1 else None
    os.environ.update(_environment(size, rank=first, local_rank=0, per_node=per_node, meeting=meeting))
    others = {
        first + at: _start(_environment(size, rank=first + at, local_rank=at, per_node=per_node, meeting=meeting))
        for at in range(1, per_node)
    }
    return Place(first, 0, per_node, meeting, others)


def _meeting() -> Path:
    """Of this user alone. Without the directory, Python would try out several by writing files."""
    folder = os.environ.get("TMPDIR", "/tmp")
    try:
        return Path(tempfile.mkdtemp(prefix="llmc-", dir=folder))
    except OSError as problem:
        raise RunError(
            f"no folder can be made in {folder}: {problem.strerror}", help="TMPDIR names another"
        ) from problem


def _started(size: int) -> Place:
    found = _number("WORLD_SIZE", 1)
    if found != size:
        raise RunError(
            f"this program is for {size} processes, and WORLD_SIZE is {found}",
            help="start as many, or one without RANK, which starts the others",
        )
    meeting = os.environ.get(MEETING)
    local_rank, num_local = _number("LOCAL_RANK", 0), _number("LOCAL_WORLD_SIZE", 1)
    return Place(_number("RANK", 0), local_rank, num_local, Path(meeting) if meeting else None, {})


def _environment(size: int, *, rank: int, local_rank: int, per_node: int, meeting: Path | None) -> dict[str, str]:
    """What launchers set."""
    numbers = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": local_rank, "LOCAL_WORLD_SIZE": per_node}
    words = {name: str(number) for name, number in numbers.items()}
    return {**words, MEETING: str(meeting)} if meeting is not None else words


def _start(environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """The same command as this process'. What it prints goes to standard error: standard output is for the first rank."""
    return subprocess.Popen(
        [sys.executable, *sys.orig_argv[1:]],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr.fileno(),
        env={**os.environ, **environment},
        preexec_fn=end_with_parent,
    )


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise RunError(
            f"{name}={text} is not a number", help="launchers set it; a program that is started alone needs none"
        )
    return int(text)
