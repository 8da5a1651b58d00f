"""The one module that imports torch_xla: what the others need of it, with types.

torch_xla is in an environment of its own (`make setup-xla`), so type checkers of the usual one do not find it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch
import torch_xla  # pyright: ignore[reportMissingImports]
import torch_xla.core.xla_model as xla_model  # pyright: ignore[reportMissingImports]
import torch_xla.debug.metrics as metrics  # pyright: ignore[reportMissingImports]
import torch_xla.distributed.spmd as xs  # pyright: ignore[reportMissingImports]
import torch_xla.runtime as xr  # pyright: ignore[reportMissingImports]
from torch import Tensor

Step = TypeVar("Step", bound=Callable[..., Any])
Spread = tuple[str | tuple[str, ...] | None, ...]
"""For each dim of a tensor: the mesh axis, or axes, that cut it; None: it is whole on every device."""
Mesh = Any
"""torch_xla's mesh: device numbers in the shape of the axes."""


def start() -> None:
    """All devices as one: tensors have their whole shapes, and the compiler cuts them (SPMD)."""
    xr.use_spmd()
    torch.zeros((), device=device()).cpu()  # autograd counts devices when it first runs, so they must be known by then


def device() -> torch.device:
    return torch_xla.device()


def num_devices() -> int:
    return xr.global_runtime_device_count()


def num_hosts() -> int:
    return xr.process_count()


def host_number() -> int:
    return xr.process_index()


def is_tpu() -> bool:
    return xr.device_type() == "TPU"


def places() -> list[tuple[int, tuple[int, ...]]] | None:
    """The slice of each device and where it is on its torus, by device number; None where there is no torus."""
    attributes = xr.global_runtime_device_attributes()
    if not attributes or "coords" not in attributes[0]:
        return None
    return [(each.get("slice_index", 0), tuple(each["coords"])) for each in attributes]


def make_mesh(numbers: np.ndarray, names: Sequence[str]) -> Mesh:
    """A mesh of device numbers, which attention and annotations use from now on."""
    mesh = xs.Mesh(numbers.flatten(), numbers.shape, tuple(names))
    xs.set_global_mesh(mesh)
    return mesh


def mesh() -> Mesh:
    found = xs.get_global_mesh()
    assert found is not None, "no mesh: call make_mesh first"
    return found


def extent(axes: str | tuple[str, ...] | None) -> int:
    """Into how many parts these axes of the mesh cut a dim."""
    names = (axes,) if isinstance(axes, str) else axes or ()
    shape = mesh().shape()
    return math.prod(shape[name] for name in names)


def placed(tensor: Tensor, spread: Spread) -> Tensor:
    """A tensor of the CPU on the devices, cut as told."""
    there = tensor.to(device())
    xs.mark_sharding(there, mesh(), spread)
    return there


def placed_rows(tensor: Tensor, spread: Spread) -> Tensor:
    """Rows that this host has of a batch, on its devices; all hosts' rows make the batch."""
    if num_hosts() == 1:
        return placed(tensor, spread)
    cut = xs.ShardingSpec(mesh(), spread, minibatch=True)
    return xla_model.send_cpu_data_to_device([tensor], device(), input_sharding=cut)[0]


def annotated(tensor: Tensor, spread: Spread) -> Tensor:
    """The tensor, cut as told from here on; its gradient too."""
    return xs.mark_sharding_with_gradients(tensor, mesh(), spread)


def annotate(tensor: Tensor, spread: Spread) -> None:
    """Say how a tensor that is being computed is cut."""
    torch_xla._XLAC._xla_annotate_custom_sharding(tensor, mesh().get_op_sharding(spread))


def local_shards(tensor: Tensor) -> list[Any]:
    """What the devices of this host hold: `unpadded_data` on the CPU, `indices`, `replica_id`."""
    return xs.wrap_if_sharded(tensor).local_shards


def load_local_shards(tensor: Tensor, shards: list[Any]) -> None:
    """Put back what `local_shards` gave, with other contents."""
    if shards[0].indices is Ellipsis:  # it is whole on every device
        tensor.detach().copy_(shards[0].unpadded_data)
        return
    xs.wrap_if_sharded(tensor).load_local_shards_(shards)


def called(
    start: Callable[..., Any], args: Sequence[Tensor | None], *, takes: Sequence[Spread], gives: Sequence[Spread]
) -> list[Tensor]:
    """A function that is one call of Pallas, on what each device has of the arguments, which are cut as told; None is passed on.

    Without a mesh there is one device, which has all.
    """
    if xs.get_global_mesh() is None:
        return _called(start, args)
    parts = [
        None if each is None else xs.enable_manual_sharding(each, spread, mesh=mesh()).global_tensor
        for each, spread in zip(args, takes, strict=True)
    ]
    found = _called(start, parts)
    return [
        xs.disable_manual_sharding(part, spread, _whole(part, spread), mesh=mesh()).global_tensor
        for part, spread in zip(found, gives, strict=True)
    ]


def _called(start: Callable[..., Any], parts: Sequence[Tensor | None]) -> list[Tensor]:
    signature = tuple(None if each is None else (tuple(each.shape), each.dtype) for each in parts)
    payload, outputs = _written(start, signature)
    tensors = [each for each in parts if each is not None]
    shapes, dtypes = ([each[number] for each in outputs] for number in (0, 1))
    return torch_xla._XLAC._xla_tpu_custom_call(tensors, payload, shapes, dtypes)


def _whole(part: Tensor, spread: Spread) -> tuple[int, ...]:
    """The shape of a tensor of which each device has a part."""
    return tuple(size * extent(axes) for size, axes in zip(part.shape, spread, strict=True))


Signature = tuple[tuple[tuple[int, ...], torch.dtype] | None, ...]
"""Shapes and dtypes of what a kernel takes; None is passed on."""


@cache
def _written(start: Callable[..., Any], signature: Signature) -> tuple[str, list[tuple[list[int], torch.dtype]]]:
    """What the compiler takes of a kernel, and shapes and dtypes of its results. Layers share it, as they have the same shapes."""
    from torch_xla.experimental import custom_kernel  # pyright: ignore[reportMissingImports]

    payload = custom_kernel._extract_backend_config(lowered(start, signature).compiler_ir())
    assert payload is not None, f"{start.__name__} is no single call of Pallas"
    return payload, results_of(start, signature)


def results_of(start: Callable[..., Any], signature: Signature) -> list[tuple[list[int], torch.dtype]]:
    """Shapes and dtypes of what a kernel gives."""
    import jax  # pyright: ignore[reportMissingImports]

    found = jax.eval_shape(start, *_arrays(signature))
    return [(list(each.shape), getattr(torch, str(each.dtype))) for each in found]


def lowered(start: Callable[..., Any], signature: Signature) -> Any:
    """A kernel as JAX writes it for TPUs, whatever is here."""
    import jax  # pyright: ignore[reportMissingImports]

    return jax.jit(start).trace(*_arrays(signature)).lower(lowering_platforms=("tpu",))


def _arrays(signature: Signature) -> list[Any]:
    """Shapes and dtypes as JAX has them."""
    import jax  # pyright: ignore[reportMissingImports]
    from torch_xla.experimental import custom_kernel  # pyright: ignore[reportMissingImports]

    to_jax = custom_kernel.convert_torch_dtype_to_jax
    return [None if each is None else jax.ShapeDtypeStruct(each[0], to_jax(each[1])) for each in signature]


def compiled(step: Step) -> Step:
    """The step as one graph: it is traced, and everything in it runs when it returns."""
    return torch_xla.compile(step, full_graph=True, name=getattr(step, "__name__", None))


def num_compiled() -> int:
    """Graphs compiled since this process began; a graph seen before is none."""
    found = metrics.metric_data("CompileTime")
    return found[0] if found else 0


def sync() -> None:
    torch_xla.sync()


def barrier(tensors: list[Tensor]) -> None:
    """What is computed from these tensors is not merged with what was computed from them before."""
    xla_model.optimization_barrier_(tensors)
