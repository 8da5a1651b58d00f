"""The ranks of one replica: rank 0 has the server and plans each step, all compute it, and none outlives another.

A line, which is a TCP connection, leads from rank 0 to each other rank.

    down    a message a step: its length, then 32-bit numbers (`pack`); an empty one is the goodbye
    up      a byte: this rank was told to stop, so the server is to drain

A line that ends without a goodbye has a dead rank at its other end. Then this rank ends too, within `GRACE_S` and whatever its
threads wait for: a collective that misses a rank may never return. Nothing is sent while there is nothing to compute, and no
rank gives up for having waited long.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import queue
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ..common.errors import RunError
from .work import Chunk

if TYPE_CHECKING:
    from ..launch.ranks import Place
    from .work import Runner, StagedRunner

GRACE_S = 1.0
"""From the loss of a rank to the end of this one: for clients to be told."""
HEARD_S = 1.0
"""In which a rank's death is known to the others."""
GOODBYE_S = 10.0
"""What other ranks have to end after the goodbye."""
SILENT_S = 20
"""After which a machine that no longer answers counts as dead."""
MEETS_S = 600
"""In which all ranks are started."""
_HELLO_S = 5.0
_NAME = "llmc-lines"
_STOP = b"."


class Store(Protocol):
    """What the ranks share before they are connected; torch.distributed has several kinds."""

    def set(self, key: str, value: str) -> None: ...
    def get(self, key: str) -> bytes: ...


def pack(work: Sequence[Chunk]) -> bytes:
    """A step as 32-bit numbers: of each chunk whether it needs logits, its start, how many tokens and blocks, and these."""
    numbers = array("i")
    for chunk in work:
        numbers.extend((chunk.needs_logits, chunk.start, len(chunk.tokens), len(chunk.blocks)))
        numbers.extend(chunk.tokens)
        numbers.extend(chunk.blocks)
    return numbers.tobytes()


def unpack(message: bytes) -> list[Chunk]:
    numbers = array("i", message).tolist()
    work, at = [], 0
    while at < len(numbers):
        needs_logits, start, num_tokens, num_blocks = numbers[at : at + 4]
        tokens_end = at + 4 + num_tokens
        at, tokens = tokens_end + num_blocks, numbers[at + 4 : tokens_end]
        work.append(Chunk(numbers[tokens_end:at], start, tokens, bool(needs_logits)))
    return work


class Ranks:
    """What one rank knows of the others. `on_loss` is called on rank 0 when one of them has died, before this one ends."""

    def __init__(self, place: Place, *, size: int) -> None:
        self.rank, self.size, self.num_local = place.rank, size, place.num_local
        self.on_loss: Callable[[], None] = lambda: None
        self._place = place
        self._lines: dict[int, socket.socket] = {}
        self._steps: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._is_ending = self._is_dying = False
        self._lock = threading.Lock()
        for rank, process in place.others.items():
            _in_background(lambda rank=rank, process=process: self._lose(rank, f"with status {process.wait()}"))

    def connect(self, store: Store) -> None:
        """Open the lines. Every rank calls this once; from now on the death of one is the end of all."""
        if self.rank == 0:
            self._lines = _accepted(store, size=self.size, is_local=self._place.meeting is not None)
            for rank, line in self._lines.items():
                _in_background(lambda rank=rank, line=line: self._listen_to(rank, line))
            return
        line = _opened(store, rank=self.rank)
        self._lines = {0: line}
        _in_background(lambda: self._take_steps(line))
        signal.signal(signal.SIGTERM, lambda *_: self._ask_to_stop(line))
        if self._place.local_rank == 0:
            signal.signal(signal.SIGINT, lambda *_: self._ask_to_stop(line))
        else:  # Ctrl-C reaches the first rank of this machine as well, and two of them end a server at once
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    # --- rank 0 -----------------------------------------------------------------------------------------------

    def leading(self, runner: Runner) -> StagedRunner:
        """A runner that has the other ranks compute each step as well; those of other stages before it is computed here."""
        return _Leading(runner, self)

    def send(self, message: bytes) -> None:
        for line in self._lines.values():
            line.sendall(len(message).to_bytes(4, "little") + message)

    def end(self) -> None:
        """Say goodbye to the other ranks, and wait for those that this one has started."""
        with self._lock:
            is_dying = self._is_dying
            self._is_ending = self._is_ending or not is_dying
        if is_dying:  # that thread ends this process
            threading.Event().wait()
        if self.rank == 0:
            for line in self._lines.values():
                with contextlib.suppress(OSError):  # it is dead already, and was about to end anyway
                    line.sendall(bytes(4))
        ends_s = time.monotonic() + (GOODBYE_S if self._lines else 0.0)
        for process in self._place.others.values():
            try:
                process.wait(max(0.0, ends_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
        self._tidy()

    def give_up(self, message: str) -> None:
        """End all ranks: this one cannot go on. Requests are told first. Returns at once.

        A rank that has died fails the step of the others before they hear of it: the better message gets a second's start.
        """

        def die() -> None:
            time.sleep(HEARD_S)
            self._die(message)

        with self._lock:
            self._is_dying = True
        _in_background(die)

    def _listen_to(self, rank: int, line: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while line.recv(1):
                os.kill(os.getpid(), signal.SIGTERM)
        self._lose(rank, "")

    # --- the other ranks --------------------------------------------------------------------------------------

    def follow(self, runner: Runner) -> None:
        """Compute every step of rank 0, until it says goodbye."""
        while (message := self._steps.get()) is not None:
            runner.step(unpack(message))

    def _take_steps(self, line: socket.socket) -> None:
        with contextlib.suppress(OSError, EOFError):
            while length := int.from_bytes(_exactly(line, 4), "little"):
                self._steps.put(_exactly(line, length))
            with self._lock:
                self._is_ending = True
            self._steps.put(None)
            time.sleep(GOODBYE_S)
            os._exit(1)  # a last step never came to its end
        self._lose(0, "")

    def _ask_to_stop(self, line: socket.socket) -> None:
        with contextlib.suppress(OSError):
            line.sendall(_STOP)

    # --- the end of one is the end of all ---------------------------------------------------------------------

    def _lose(self, rank: int, how: str) -> None:
        self._die(f"rank {rank} of this replica has ended{f' {how}' if how else ''}, and so does the replica")

    def _die(self, message: str) -> None:
        with self._lock:
            if self._is_ending:
                return
            self._is_ending = self._is_dying = True
        with contextlib.suppress(OSError):  # a full disk is no reason to stay
            print(f"error on rank {self.rank}: {message}", file=sys.stderr, flush=True)
        if self.rank == 0 and self._lines:
            self.on_loss()
            time.sleep(GRACE_S)
        for process in self._place.others.values():
            process.kill()
        self._tidy()
        os._exit(1)

    def _tidy(self) -> None:
        if self._place.is_starter and self._place.meeting is not None:
            shutil.rmtree(self._place.meeting, ignore_errors=True)


class _Leading:
    def __init__(self, runner: Runner, ranks: Ranks) -> None:
        self._runner, self._ranks = runner, ranks
        self._num_begun = 0  # steps that were sent ahead of their turn here

    def begin(self, work: Sequence[Chunk]) -> None:
        with self._ending_all():
            self._ranks.send(pack(work))
        self._num_begun += 1

    def step(self, work: Sequence[Chunk]) -> Any:
        with self._ending_all():
            if self._num_begun:
                self._num_begun -= 1
            else:
                self._ranks.send(pack(work))
            return self._runner.step(work)

    @contextlib.contextmanager
    def _ending_all(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._ranks.give_up("a step has failed, and other ranks may wait in it")
            raise


def _accepted(store: Store, *, size: int, is_local: bool) -> dict[int, socket.socket]:
    """A line from each other rank. Who connects must say what rank 0 has told in the store."""
    token = secrets.token_hex(16)
    if is_local:
        listener = socket.create_server(("127.0.0.1", 0))
    elif socket.has_dualstack_ipv6():
        listener = socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    else:
        listener = socket.create_server(("", 0))
    with listener:
        host = "127.0.0.1" if is_local else os.environ["MASTER_ADDR"]
        store.set(_NAME, f"{token} {listener.getsockname()[1]} {host}")
        lines: dict[int, socket.socket] = {}
        ends_s = time.monotonic() + MEETS_S
        while len(lines) < size - 1:
            listener.settimeout(max(0.1, ends_s - time.monotonic()))
            try:
                line, _ = listener.accept()
            except TimeoutError:
                missing = sorted(set(range(1, size)) - set(lines))
                raise RunError(f"rank {missing[0]} has not come", help="all ranks are to be started together") from None
            rank = _introduced(line, token=token)
            if rank is None or rank in lines:
                line.close()
                continue
            lines[rank] = _lasting(line)
    return lines


def _introduced(line: socket.socket, *, token: str) -> int | None:
    """The rank that has connected; None for somebody else."""
    line.settimeout(_HELLO_S)
    try:
        said = _exactly(line, 4 + len(token))
    except (OSError, EOFError):
        return None
    return int.from_bytes(said[:4], "little") if hmac.compare_digest(said[4:], token.encode()) else None


def _opened(store: Store, *, rank: int) -> socket.socket:
    token, port, host = store.get(_NAME).decode().split(" ")
    line = socket.create_connection((host, int(port)), timeout=SILENT_S)
    line.sendall(rank.to_bytes(4, "little") + token.encode())
    return _lasting(line)


def _lasting(line: socket.socket) -> socket.socket:
    """Waits as long as need be, sends at once, and notices when the other machine is gone."""
    line.settimeout(None)
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", SILENT_S // 4), ("TCP_KEEPINTVL", SILENT_S // 4), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            line.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return line


def _exactly(line: socket.socket, size: int) -> bytes:
    """So many bytes. EOFError if there will not be as many."""
    found = bytearray()
    while len(found) < size:
        part = line.recv(min(size - len(found), 1 << 20))
        if not part:
            raise EOFError
        found += part
    return bytes(found)


def _in_background(call: Callable[[], None]) -> None:
    threading.Thread(target=call, name="llmc-ranks", daemon=True).start()
