"""Context parallelism: attention over sequences of which each rank has some tokens, by a ring or by swapping (Ulysses).

Ring (Liu 2023): keys and values travel from rank to rank, and what a rank's queries find in each part is merged by its
log-sum-exp. A sequence is cut into 2n runs and rank r has runs r and 2n-1-r, so that all have the same work in every step:

    with its own keys               both of its runs, causally
    with those of an earlier rank   both of its runs see that rank's early run
    with those of a later rank      its late run sees both of that rank's runs

Ulysses (Jacobs 2023): rank r has run r of n. Before attention, ranks swap tokens for heads, and after it they swap back.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .flash import block_backward, block_forward
from .mesh import Axis


def ring_positions(num_tokens: int, cp: Axis, *, device: torch.device | str = "cpu") -> Tensor:
    """Where in the sequence the `num_tokens` tokens of this rank are: [T], the early run first."""
    run = torch.arange(num_tokens // 2, device=device)
    return torch.cat((run + cp.rank * len(run), run + (2 * cp.size - 1 - cp.rank) * len(run)))


def run_positions(num_tokens: int, cp: Axis, *, device: torch.device | str = "cpu") -> Tensor:
    """Where in the sequence the `num_tokens` tokens of this rank are: [T], one run."""
    return torch.arange(num_tokens, device=device) + cp.rank * num_tokens


def ring_attention(q: Tensor, k: Tensor, v: Tensor, cp: Axis, *, scale: float | None = None) -> Tensor:
    """Causal attention of this rank's queries [B, H, T, C] to the whole sequence, of which it has k [B, K, T, C], v [B, K, T, U]."""
    v = v.contiguous()  # else all that it is a part of would be kept
    y = _RingAttention.apply(q, k, v, cp, q.shape[-1] ** -0.5 if scale is None else scale)
    assert isinstance(y, Tensor)
    return y


def to_heads(q: Tensor, k: Tensor, v: Tensor, cp: Axis) -> tuple[Tensor, Tensor, Tensor]:
    """[B, H, T/n, C], [B, K, T/n, C], [B, K, T/n, U] of a run of tokens -> [B, H/n, T, C] and the keys and values of those heads.

    One exchange for all three. Where there are fewer key/value heads than ranks, several ranks get the same.
    """
    copies = cp.size // math.gcd(k.shape[1], cp.size)
    if copies > 1:
        k, v = k.repeat_interleave(copies, dim=1), v.repeat_interleave(copies, dim=1)
    parts = [x.unflatten(1, (cp.size, -1)).movedim(1, 0) for x in (q, k, v)]  # [n, B, H/n, T/n, C]: n runs of heads
    swapped = _swap(torch.cat([part.flatten(1) for part in parts], dim=1), cp)  # n runs of tokens
    found = swapped.split([part[0].numel() for part in parts], dim=1)
    q, k, v = (x.view(part.shape).movedim(0, 2).flatten(2, 3) for x, part in zip(found, parts, strict=True))
    return q, k, v


def to_tokens(y: Tensor, cp: Axis) -> Tensor:
    """[B, H/n, T, C] -> [B, H, T/n, C]: back to this rank's run of tokens."""
    parts = y.unflatten(2, (cp.size, -1)).movedim(2, 0)  # [n, B, H/n, T/n, C]: n runs of tokens
    return _swap(parts, cp).movedim(0, 1).flatten(1, 2)  # n runs of heads


def _swap(parts: Tensor, cp: Axis) -> Tensor:
    """Part i of [n, …] goes to rank i; part i of what comes back is rank i's."""
    swapped = _Swap.apply(parts, cp)
    assert isinstance(swapped, Tensor)
    return swapped


class _Swap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parts: Tensor, cp: Axis) -> Tensor:
        ctx.cp = cp
        parts = parts.contiguous()
        swapped = torch.empty_like(parts)
        dist.all_to_all_single(swapped, parts, group=cp.group)
        return swapped

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return _Swap.forward(ctx, grads[0], ctx.cp), None


class _RingAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, cp: Axis, scale: float) -> Tensor:
        batch, heads, tokens, _ = q.shape
        out = q.new_zeros(batch, tokens, heads, v.shape[-1]).transpose(
            1, 2
        )  # what follows takes a token's heads as one
        lse = q.new_full(q.shape[:-1], -math.inf, dtype=_wide(q))
        held = torch.cat((k.flatten(), v.flatten()))
        for step in range(cp.size):
            coming = _pass_on(held, cp) if step < cp.size - 1 else None
            rows, keys, is_causal = _visible(q, step=step, cp=cp)
            k_held, v_held = _views(held, k, v)
            part, part_lse = block_forward(q[rows], k_held[keys], v_held[keys], is_causal=is_causal, scale=scale)
            _merge(out[rows], lse[rows[:-1]], part, part_lse)
            held = coming() if coming else held
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.cp, ctx.scale = cp, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        q, k, v, out, lse = ctx.saved_tensors
        cp, grad = ctx.cp, grads[0].contiguous()
        d_q = torch.zeros_like(q, dtype=_wide(q))
        own = torch.zeros(k.numel() + v.numel(), dtype=_wide(k), device=k.device)  # of this rank's keys and values
        held, d_held = torch.cat((k.flatten(), v.flatten())), torch.zeros_like(own)  # those at hand travel with theirs
        for step in range(cp.size):
            coming = _pass_on(held, cp) if step < cp.size - 1 else None
            rows, keys, is_causal = _visible(q, step=step, cp=cp)
            k_held, v_held = _views(held, k, v)
            d_rows, d_k, d_v = block_backward(
                grad[rows],
                q[rows],
                k_held[keys],
                v_held[keys],
                out[rows],
                lse[rows[:-1]],
                is_causal=is_causal,
                scale=ctx.scale,
            )
            d_q[rows] += d_rows
            d_k_held, d_v_held = _views(own if step == 0 else d_held, k, v)
            d_k_held[keys] += d_k
            d_v_held[keys] += d_v
            if step > 0:
                d_held = _pass_on(d_held, cp)()
            held = coming() if coming else held
        d_k, d_v = _views(own.add_(d_held), k, v)
        return d_q.to(q.dtype), d_k.to(k.dtype), d_v.to(v.dtype), None, None


def _views(held: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values, which travel as one."""
    return held[: k.numel()].view(k.shape), held[k.numel() :].view(v.shape)


Slices = tuple[slice, ...]
_ALL = slice(None)


def _visible(q: Tensor, *, step: int, cp: Axis) -> tuple[Slices, Slices, bool]:
    """In a step: the queries that see something of the keys at hand, the keys that they see, and whether causally."""
    half = q.shape[2] // 2
    early, late, both = (slice(half), slice(half, None), _ALL)
    owner = (cp.rank - step) % cp.size
    if owner == cp.rank:
        rows, keys = both, both
    elif owner < cp.rank:
        rows, keys = both, early
    else:
        rows, keys = late, both
    return (_ALL, _ALL, rows, _ALL), (_ALL, _ALL, keys, _ALL), owner == cp.rank


def _merge(out: Tensor, lse: Tensor, part: Tensor, part_lse: Tensor) -> None:
    """Add what attention to more keys found, in place: each weighs with its share of the sum of exponentials."""
    total = torch.logaddexp(lse, part_lse)
    out.copy_(out * (lse - total).exp()[..., None] + part * (part_lse - total).exp()[..., None])
    lse.copy_(total)


def _pass_on(x: Tensor, cp: Axis) -> Any:
    """Start sending x to the next rank of the ring; calling the result waits for what the rank before sent."""
    coming = torch.empty_like(x)
    after, before = (dist.get_global_rank(cp.group, (cp.rank + step) % cp.size) for step in (1, -1))
    sends = [dist.P2POp(dist.isend, x, after, cp.group), dist.P2POp(dist.irecv, coming, before, cp.group)]
    works = dist.batch_isend_irecv(sends)

    def wait() -> Tensor:
        for work in works:
            work.wait()
        return coming

    return wait


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
