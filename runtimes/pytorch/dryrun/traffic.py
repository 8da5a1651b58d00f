"""What a rank sends: every collective and message of a program, in the order of issue.

Collectives are seen at the dispatcher, where all ways into torch.distributed come together: FSDP, functional collectives,
autograd functions of our own. Messages between two ranks are seen at the process group, since it is known there when a
rank waits for one. The size of a collective is what every rank ends up with (all_gather), starts from (all_reduce,
reduce_scatter, all_to_all) or sends (send, broadcast), in bytes: the convention of the cost model.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.distributed_c10d as c10d
from torch._C._distributed_c10d import FakeWork
from torch.utils._pytree import tree_iter

from .mode import Watching

_NAMESPACES = ("c10d", "_c10d_functional")
_RESULT = -1
_KINDS = {  # op of the dispatcher -> what it is, and where the tensors are that have the size: an argument or the result
    "allreduce_": ("all_reduce", 0),
    "allreduce_coalesced_": ("all_reduce", 0),
    "_allgather_base_": ("all_gather", 0),
    "allgather_": ("all_gather", 0),
    "allgather_into_tensor_coalesced_": ("all_gather", 0),
    "_reduce_scatter_base_": ("reduce_scatter", 1),
    "reduce_scatter_": ("reduce_scatter", 1),
    "reduce_scatter_tensor_coalesced_": ("reduce_scatter", 1),
    "alltoall_base_": ("all_to_all", 1),
    "alltoall_": ("all_to_all", 1),
    "broadcast_": ("broadcast", 0),
    "reduce_": ("reduce", 0),
    "gather_": ("gather", 1),
    "scatter_": ("scatter", 1),
    "barrier": ("barrier", 0),
    "all_reduce": ("all_reduce", 0),
    "all_reduce_coalesced": ("all_reduce", 0),
    "all_gather_into_tensor": ("all_gather", _RESULT),
    "all_gather_into_tensor_coalesced": ("all_gather", _RESULT),
    "reduce_scatter_tensor": ("reduce_scatter", 0),
    "reduce_scatter_tensor_coalesced": ("reduce_scatter", 0),
    "all_to_all_single": ("all_to_all", 0),
    "broadcast": ("broadcast", 0),
}
_SEEN_ELSEWHERE = frozenset({"send", "recv_", "recv_any_source_", "wait_tensor"})


@dataclass(frozen=True)
class Call:
    """A collective, a message that is posted, or the wait for one."""

    kind: str
    ranks: tuple[int, ...] = ()
    """The group's, in the world; of messages and waits none."""
    num_bytes: int = 0
    shapes: tuple[str, ...] = ()
    """`bfloat16[8192, 4096]` of each tensor that travels."""
    peer: int | None = None
    """The other end of a message, in the world."""
    message: int | None = None
    """Its number; a wait has that of the message it waits for."""


class Traffic(Watching):
    """Collects the calls of what runs within `recording`."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self._ranks: dict[str, tuple[int, ...]] = {}  # of a group, by its name
        self._works: list[Any] = []  # of messages, by their numbers
        self._messages: dict[int, int] = {}  # id of a work -> its number

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Calls are collected until the block ends."""
        patched = [(dist.ProcessGroup, "send", self._sending), (dist.ProcessGroup, "recv", self._receiving)]
        patched.append((FakeWork, "wait", self._waiting))
        kept = [(owner, name, getattr(owner, name)) for owner, name, _ in patched]
        for (owner, name, around), (_, _, original) in zip(patched, kept, strict=True):
            setattr(owner, name, around(original))
        try:
            with self:
                yield
        finally:
            for owner, name, original in kept:
                setattr(owner, name, original)

    def see(self, func: Any, args: Any, result: Any) -> None:
        if func.namespace in _NAMESPACES:
            self._note(func, args, result)

    def _note(self, func: Any, args: Any, result: Any) -> None:
        name = func._schema.name.partition("::")[2]
        if name in _SEEN_ELSEWHERE:
            return
        if name not in _KINDS:
            raise NotImplementedError(f"a collective that a dry run does not know: {func}")
        kind, position = _KINDS[name]
        tensors = _tensors(result if position == _RESULT else args[position]) if kind != "barrier" else []
        self.calls.append(Call(kind, self._ranks_of(_group_name(args)), **_size(tensors)))

    def _ranks_of(self, name: str) -> tuple[int, ...]:
        if name not in self._ranks:
            group = c10d._resolve_process_group(name)  # type: ignore[arg-type]
            self._ranks[name] = tuple(dist.get_process_group_ranks(group))
        return self._ranks[name]

    def _sending(self, send: Callable[..., Any]) -> Callable[..., Any]:
        return self._posting("send", send)

    def _receiving(self, recv: Callable[..., Any]) -> Callable[..., Any]:
        return self._posting("recv", recv)

    def _posting(self, kind: str, post: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(post)
        def call(group: Any, tensors: list[torch.Tensor], peer: int, *args: Any, **kwargs: Any) -> Any:
            work = post(group, tensors, peer, *args, **kwargs)
            number = len(self._works)
            self._works.append(work)  # kept, so that no other gets its id
            self._messages[id(work)] = number
            peer = self._ranks_of(group.group_name)[peer]
            self.calls.append(Call(kind, **_size(tensors), peer=peer, message=number))
            return work

        return call

    def _waiting(self, wait: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(wait)
        def call(work: Any, *args: Any, **kwargs: Any) -> Any:
            if id(work) in self._messages:
                self.calls.append(Call("wait", message=self._messages[id(work)]))
            return wait(work, *args, **kwargs)

        return call


def _group_name(args: Any) -> str:
    """Ops get a group as an object, functional ones by name, after names of other things."""
    for each in args:
        if isinstance(each, torch.ScriptObject) and "ProcessGroup" in str(each._type()):
            return dist.ProcessGroup.unbox(each).group_name
    return next(each for each in reversed(args) if isinstance(each, str))


def _tensors(of: Any) -> list[torch.Tensor]:
    return [each for each in tree_iter(of) if isinstance(each, torch.Tensor)]


def _size(tensors: list[torch.Tensor]) -> dict[str, Any]:
    shapes = tuple(f"{str(each.dtype).removeprefix('torch.')}{list(each.shape)}" for each in tensors)
    return {"num_bytes": sum(each.nbytes for each in tensors), "shapes": shapes}
