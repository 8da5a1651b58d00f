"""One rank of a world that does not exist: a fake process group, whose collectives return at once and move nothing."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import _utils
from torch.distributed.tensor.debug import _clear_sharding_prop_cache
from torch.testing._internal.distributed.fake_pg import FakeStore

_READS_RANKS = (
    "__init__",
    "__getitem__",
    "_concatenate",
    "_flatten",
    "_get_all_submeshes",
    "_unflatten",
    "get_coordinate",
    "get_local_rank",
)
"""What DeviceMesh computes with its tensor of ranks, which has to stay a real one (torch 2.13)."""


@contextmanager
def fake_world(rank: int, size: int) -> Iterator[None]:
    """This process as `rank` of `size` until the block ends. Meshes are made first, under `FakeTensorMode` the rest."""
    _clear_sharding_prop_cache()  # it has meshes of worlds before this one
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=size)
    try:
        with _real_meshes(), _fresh_parameters():
            yield
    finally:
        dist.destroy_process_group()


@contextmanager
def _real_meshes() -> Iterator[None]:
    """What torch computes with ranks and offsets is computed with real tensors also where all others are fake."""
    kept: list[tuple[Any, str, Any]] = [
        (DeviceMesh, name, DeviceMesh.__dict__[name]) for name in (*_READS_RANKS, "mesh")
    ]
    kept.append((_utils, "_compute_local_shape_and_global_offset", _utils._compute_local_shape_and_global_offset))
    for owner, name, member in kept:
        setattr(owner, name, _without_fake_tensors(member))
    try:
        yield
    finally:
        for owner, name, member in kept:
            setattr(owner, name, member)


@contextmanager
def _fresh_parameters() -> Iterator[None]:
    """Off the meta device, a plain module gets new parameters: fake tensors refuse to be swapped for those they had."""
    to_empty = nn.Module.to_empty

    def assign(model: nn.Module, **kwargs: Any) -> nn.Module:
        if isinstance(model, FSDPModule):
            return to_empty(model, **kwargs)
        for child in model.children():
            child.to_empty(**kwargs)
        for name, parameter in model._parameters.items():
            if parameter is not None:
                model._parameters[name] = nn.Parameter(torch.empty_like(parameter, device=kwargs["device"]))
        for name, buffer in model._buffers.items():
            if buffer is not None:
                model._buffers[name] = torch.empty_like(buffer, device=kwargs["device"])
        return model

    nn.Module.to_empty = assign  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.to_empty = to_empty  # type: ignore[method-assign]


def _without_fake_tensors(member: Any) -> Any:
    if isinstance(member, property):
        assert member.fget is not None
        return property(_unfaked(member.fget))
    if isinstance(member, (staticmethod, classmethod)):
        return type(member)(_unfaked(member.__func__))
    return _unfaked(member)


def _unfaked(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with unset_fake_temporarily():
            return function(*args, **kwargs)

    return call
