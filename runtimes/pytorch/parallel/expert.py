"""Expert parallelism: each rank of ep holds some of the experts, and tokens travel to them and back (Lepikhin 2020).

    to_experts      [M, D] of this rank, sorted by expert -> the rows of all ranks for the experts of this one
    from_experts    what those experts gave -> [M, D] again, in the order in which the rows left

Each is one all-to-all of rows forward and one backward. How many rows go where is known when the router has chosen: the
counts travel first, and the host waits for them, since the sizes of an all-to-all are Python numbers.

In a server all ranks of tp have the same tokens. There none travels: each rank works on the visits to its own experts
(`own_visits`), and the sum over tp, which a cut model needs anyway, puts together what they gave.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from ..experts import put_back
from .mesh import Axis


@dataclass(frozen=True)
class Way:
    """How rows came to this rank's experts, and so how they go back."""

    ends: Tensor
    """[E] of this rank: the rows up to which those of each of its experts go."""
    expert: Tensor
    """[R]: the expert of each row, numbered from 0 on this rank."""
    order: Tensor
    """[R]: the place among received rows from which each row, sorted by expert, was taken."""
    sent: list[int]
    received: list[int]
    ep: Axis


def to_experts(x: Tensor, ends: Tensor, ep: Axis) -> tuple[Tensor, Way]:
    """Rows x [M, D], sorted by expert, those of each up to `ends` -> rows [R, D] of all ranks for the experts of this one."""
    counts = ends.diff(prepend=ends.new_zeros(1)).view(
        ep.size, -1
    )  # [ep, E of a rank]: rows for each expert of each rank
    incoming = torch.empty_like(counts)  # [ep, E]: rows from each rank for each expert of this one
    dist.all_to_all_single(incoming, counts.contiguous(), group=ep.group)
    sent, received = _sizes(counts, incoming, num_rows=x.shape[0])
    rows = _all_to_all(x, sent, received, ep)  # [R, D]: those of rank 0 first, and of each rank those of expert 0
    expert = torch.arange(incoming.shape[1], device=x.device).repeat(ep.size)
    expert = expert.repeat_interleave(incoming.flatten(), output_size=rows.shape[0])  # [R]
    expert, order = expert.sort(stable=True)
    way = Way(incoming.sum(0).cumsum(0).int(), expert, order, sent, received, ep)
    return rows[order], way


def from_experts(y: Tensor, way: Way) -> Tensor:
    """What the experts of this rank made of the rows that `to_experts` brought, back where the rows came from -> [M, D]."""
    rows = put_back(y, way.order)  # in the order in which they arrived
    return _all_to_all(rows, way.received, way.sent, way.ep)


_FEW_VISITS = 512
"""Up to so many a GPU goes through rows in vain rather than have the host wait for their number."""


@dataclass(frozen=True)
class OwnVisits:
    """The visits of tokens to the experts of this rank, those of its first expert first."""

    order: Tensor
    """[M]: the place of each among all visits, N*X. On a GPU others may follow, up to all of them."""
    expert: Tensor
    """[M]: which expert, numbered from 0 on this rank."""
    ends: Tensor
    """[E]: up to where those of each expert go."""
    num_visits: int

    def put_back(self, y: Tensor) -> Tensor:
        """What the experts gave, [M, D] -> [N*X, D], zero for visits to experts of other ranks."""
        is_own = torch.arange(len(y), device=y.device) < self.ends[-1]
        y = y.where(is_own[:, None], 0.0)  # nobody has written the others
        return y.new_zeros(self.num_visits, *y.shape[1:]).index_copy_(0, self.order, y)


def own_visits(experts: Tensor, *, first: int, num_experts: int, num_whole: int) -> OwnVisits:
    """Of the visits to `experts` [N, X], those to this rank's, which are `num_experts` from `first` on."""
    expert, order = ((experts.flatten() - first) % num_whole).sort(stable=True)  # [N*X] x 2: this rank's come first
    ends = torch.searchsorted(expert, torch.arange(num_experts, device=experts.device), right=True, out_int32=True)
    if not experts.is_cuda or len(order) > _FEW_VISITS:
        num_own = int(ends[-1])
        expert, order = expert[:num_own], order[:num_own]
    return OwnVisits(order, expert.clamp(max=num_experts - 1), ends, experts.numel())


def _sizes(counts: Tensor, incoming: Tensor, *, num_rows: int) -> tuple[list[int], list[int]]:
    """Rows to and from each rank. Fake tensors have no values: theirs are as many for every expert, as plans assume."""
    if isinstance(counts, FakeTensor):
        even = [num_rows // counts.shape[0]] * counts.shape[0]
        even[0] += num_rows - sum(even)
        return even, even
    sent, received = torch.stack((counts.sum(1), incoming.sum(1))).tolist()
    return sent, received


def _all_to_all(x: Tensor, sent: list[int], received: list[int], ep: Axis) -> Tensor:
    y = _AllToAll.apply(x, sent, received, ep)
    assert isinstance(y, Tensor)
    return y


class _AllToAll(torch.autograd.Function):
    """Rows to other ranks; their gradients come back the same way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sent: list[int], received: list[int], ep: Axis) -> Tensor:
        ctx.sizes = sent, received, ep
        return _exchange(x, sent, received, ep)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        sent, received, ep = ctx.sizes
        return _exchange(grads[0], received, sent, ep), None, None, None


def _exchange(x: Tensor, sent: list[int], received: list[int], ep: Axis) -> Tensor:
    rows = x.new_empty(sum(received), *x.shape[1:])
    dist.all_to_all_single(rows, x.contiguous(), received, sent, group=ep.group)
    return rows


def add_visits(visits: list[Tensor]) -> None:
    """Sum, over all ranks, how often the experts of each layer were visited; one all-reduce for all layers."""
    total = torch.stack(visits)
    dist.all_reduce(total)
    for own, summed in zip(visits, total, strict=True):
        own.copy_(summed)


def add_visits_of_stages(visits: Mapping[int, Tensor], *, layers: int, experts: int, device: torch.device) -> None:
    """The same where a rank has some of the layers, and knows them by their numbers: others' are zeros in its share of the sum."""
    total = torch.zeros(layers, experts, device=device)
    for number, own in visits.items():
        total[number] = own
    dist.all_reduce(total)
    for number, own in visits.items():
        own.copy_(total[number])


def with_loss(x: Tensor, loss: Tensor) -> Tensor:
    """x as it is; what comes back for it goes back through the loss as well, with a gradient of one (as in Megatron-LM).

    So the loss of routers needs no way of its own to the end of a pipeline.
    """
    y = _WithLoss.apply(x, loss)
    assert isinstance(y, Tensor)
    return y


class _WithLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, loss: Tensor) -> Tensor:
        ctx.save_for_backward(loss)
        ctx.mark_dirty(x)  # the same tensor, and no view of it: torch's split backward pass detaches it in place
        return x

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (loss,) = ctx.saved_tensors
        return grads[0], torch.ones_like(loss)


def shared_loss(loss: Tensor, tp: Axis) -> Tensor:
    """A loss that all ranks of tp work out alike. Gradients are summed over tp, so each rank gives its share of them."""
    share = loss / tp.size
    return share + (loss - share).detach()


def mean_over(x: Tensor, axis: Axis) -> Tensor:
    """The mean of what the ranks of an axis have, without a gradient."""
    total = x.detach().clone()
    dist.all_reduce(total, group=axis.group)
    return total / axis.size
