"""A stage of a pipeline: torch's, with shapes that are known, messages that take memory while they last, and levels of ZeRO.

torch's own stage makes room for the messages of all micro-batches before the first, and sums gradients over data-parallel
ranks once a step. Here the levels of ZeRO are those of data.py, once a micro-batch as far as the schedule allows: one that
computes the gradients of weights apart from those of inputs keeps weights gathered from the first to the last.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._composable.replicate_with_fsdp import ReplicateModule, replicate
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.pipelining import (
    PipelineStage,
    ScheduleDualPipeV,
    ScheduleInterleavedZeroBubble,
    ScheduleZBVZeroBubble,
)
from torch.distributed.pipelining._utils import InferenceMode, _make_tensor_from_meta
from torch.distributed.pipelining.stage import _RecvInfo

from .data import Zero
from .mesh import Axis
from .wanted import BackwardPass, backward_for

Precision = Callable[[], AbstractContextManager[Any]]
"""The precision of the step that is being taken."""


Ending = Callable[[nn.Module, Tensor], Tensor]
"""What becomes of a stage's output before it is passed on."""


class _Part(nn.Module):
    """A stage's model as schedules see it: they are not to know of FSDP, which `Stage` sees to."""

    def __init__(self, model: nn.Module, precision: Precision, ending: Ending) -> None:
        super().__init__()
        self.model, self.precision, self.ending = model, precision, ending

    def forward(self, x: Tensor) -> Tensor:
        with self.precision():
            return self.ending(self.model, self.model(x))


class Stage(PipelineStage):
    """Stage `number` of the model: takes tensors like x, gives tensors like y."""

    def __init__(
        self,
        model: nn.Module,
        number: int,
        num_stages: int,
        pp: Axis,
        *,
        x: Tensor,
        y: Tensor,
        zero: Zero | None,
        precision: Precision,
        ending: Ending,
        device: torch.device,
    ) -> None:
        part = _Part(model, precision, ending)
        super().__init__(part, number, num_stages, device, input_args=x, output_args=y, group=pp.group)
        self.model = model
        self.zero: Zero | None = zero
        if zero == 3:
            _prefetch_below(model)

    def backward_maybe_with_nosync(
        self, backward_type: BackwardPass, bwd_kwargs: dict[str, Any], last_backward: bool = False
    ) -> tuple[tuple[Tensor | None, ...], list[dict[str, Any]] | None]:
        """One backward pass: `full`, or the gradients of the `input` and later those of the `weight`s."""
        if self.zero is not None and backward_type == "full":
            _set_travel(self.model, zero=self.zero, is_last=last_backward)
        elif self.zero is not None:
            _hold(self.model)
        with backward_for(backward_type):
            result = super().backward_maybe_with_nosync(backward_type, bwd_kwargs, last_backward)
        if self.is_last and backward_type == "full":
            bwd_kwargs[
                "stage_output"
            ].detach_()  # schedules keep losses; their graphs hold what each micro-batch received
        if self.zero is not None and backward_type == "weight":
            _set_travel(self.model, zero=self.zero, is_last=last_backward)
            _finish_backward(self.model)
        return result

    # Room for a message is made when the schedule posts its reception and given up when its tensor is used.

    def _setup_forward_recv_info(self, num_microbatches: int, has_backward: bool) -> None:
        assert self._stage_meta.inputs is not None
        (meta,) = self._stage_meta.inputs
        source = None if self.is_first else self.stage_index - 1
        for number in range(num_microbatches):
            info = _RecvInfo("x", source, None, tensor_meta=meta, is_root_arg=self.is_first)
            self.args_recv_info[number] = (info,)

    def _create_grad_recv_info(self, act_send_info: dict[int, Any]) -> tuple[_RecvInfo, ...]:
        if self.is_last:
            return ()
        assert self._stage_meta.output_grads is not None
        (meta,) = self._stage_meta.output_grads
        return (_RecvInfo("gradient of x", self.stage_index + 1, None, tensor_meta=meta),)

    def get_fwd_recv_ops(self, fwd_chunk_id: int) -> list[dist.P2POp]:
        self._make_room(self.args_recv_info[fwd_chunk_id])
        return super().get_fwd_recv_ops(fwd_chunk_id)

    def get_bwd_recv_ops(self, bwd_chunk_id: int) -> list[dist.P2POp]:
        if self.has_backward:
            self._make_room(self.grad_recv_info[bwd_chunk_id])
        return super().get_bwd_recv_ops(bwd_chunk_id)

    def _make_room(self, infos: tuple[_RecvInfo, ...]) -> None:
        for info in infos:
            if not info.is_root_arg:
                assert info.tensor_meta is not None
                info.buffer = _make_tensor_from_meta(info.tensor_meta, self.device)

    def _retrieve_recv_activations(self, fwd_chunk_id: int) -> tuple[Tensor, ...]:
        return _taken(super()._retrieve_recv_activations(fwd_chunk_id), self.args_recv_info[fwd_chunk_id])

    def _retrieve_recv_grads(self, bwd_chunk_id: int) -> tuple[Tensor, ...]:
        return _taken(super()._retrieve_recv_grads(bwd_chunk_id), self.grad_recv_info[bwd_chunk_id])


def _taken(tensors: Any, infos: tuple[_RecvInfo, ...]) -> Any:
    for info in infos:
        info.buffer = None
    return tensors


def take_shapes_as_given(stages: list[Stage], has_backward: bool, p2p_done: bool) -> None:
    """In place of a vote among the ranks whether all of them know their shapes (torch 2.13)."""
    for stage in stages:
        stage._inference_mode = InferenceMode.STATIC


# --------------------------------------------------------------------------------------------------------- split backward


def splits_backward(schedule: type[Any]) -> bool:
    """Whether a schedule computes the gradients of weights apart from those of inputs."""
    return issubclass(schedule, (ScheduleInterleavedZeroBubble, ScheduleZBVZeroBubble, ScheduleDualPipeV))


def with_gradient_known(hidden: Tensor, start: Tensor, loss: Tensor, *, model: nn.Module, zero: Zero | None) -> Tensor:
    """The loss of the hidden states, whose gradient is computed here and now from `start`, a leaf of the same values.

    Split schedules go through each op of a stage twice, which the fused loss does not allow: it has its gradients from its
    forward pass and keeps them once. So the head's gradients are there at once, and those of the hidden states wait.
    """
    loss.backward()
    if zero is not None:
        _hold(model)
        _finish_backward(model)
    known = _KnownGradient.apply(hidden, start.grad, loss.detach())
    assert isinstance(known, Tensor)
    return known


class _KnownGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, gradient: Tensor, loss: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0].to(gradient.dtype), None, None


# --------------------------------------------------------------------------------------------------------------- FSDP


def _set_travel(model: nn.Module, *, zero: Zero, is_last: bool) -> None:
    """Say, before a backward pass, what travels after it; `is_last` of the step.

    As data.set_travel, but that under ZeRO-3 what no layer has (embedding, head) stays gathered for all micro-batches.
    """
    assert isinstance(model, FSDPModule)
    model.set_reshard_after_backward(is_last, recurse=zero < 3)
    model.set_requires_gradient_sync(zero >= 2 or is_last)
    model.set_requires_all_reduce(is_last)  # between replicas of the shards


def _hold(model: nn.Module) -> None:
    """Before a backward pass that is a part of one: weights are needed again, and not all gradients are there."""
    assert isinstance(model, FSDPModule)
    model.set_reshard_after_backward(False)
    model.set_requires_gradient_sync(False)


def _finish_backward(model: nn.Module) -> None:
    """What FSDP does at the end of a backward pass; of one to the weights alone it does not see the end."""
    state = replicate.state(model) if isinstance(model, ReplicateModule) else fully_shard.state(model)  # type: ignore[attr-defined]
    state._root_post_backward_final_callback()


def _prefetch_below(model: nn.Module) -> None:
    """Gather, in the backward pass, the layer below while one is computed: by itself FSDP takes the order of the forward
    passes before, which with several micro-batches under way is another one."""
    layers: list[nn.Module] = list(model.layers.values())  # type: ignore[union-attr, operator, arg-type]
    units = [model]
    for layer in reversed(layers):  # and, within it, experts that are sharded by themselves
        units += [module for module in layer.modules() if isinstance(module, FSDPModule)]
    for above, below in pairwise(units):
        above.set_modules_to_backward_prefetch([below])  # type: ignore[operator]
    units[-1].set_modules_to_backward_prefetch([model])  # type: ignore[operator]  # which is gathered already: none
