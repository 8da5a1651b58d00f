"""What to try a generated kernel on: inputs of its own sizes, few and odd rows, and the plain PyTorch that it has to agree with.

A kernel is described by a mapping, as a build writes it to `kernels/kernels.json`: name, template, dtype, and its sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...reference import activation, int8_cache, norm
from ...reference.adamw import adamw_step, join, split
from ...reference.attention import attend, causal_attention
from ...reference.decode_attention import attend_to_sequences, decode_attention
from ...reference.embedding import embed
from ...reference.experts import choose_experts, grouped_linear
from ...reference.int8_cache import to_int8
from ...reference.loss import linear_cross_entropy
from ...reference.prefill_attention import prefill_attention
from ...reference.sampling import draw
from ...reference.weight_only import weight_only_linear
from .rule import random

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Description = Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    name: str
    function: Callable[..., Any]
    eager: Callable[..., Any]
    inputs: Sequence[Any]
    eps: float | None = None
    """Of what works in more digits than its narrowest input has."""


def cases_of(kernel: Description, module: ModuleType, *, rows: Sequence[int]) -> Iterator[Case]:
    """One case or more for each number of rows (tokens)."""
    make = _MAKERS[kernel["template"]]
    wrap = (lambda function: function) if kernel.get("has_backward", True) else _without_gradients
    for count in rows:
        for case in make(kernel, module, count):
            name = f"{case.name}, {count} rows"
            yield Case(name, wrap(case.function), wrap(case.eager), case.inputs, case.eps)


def _called(kernel: Description, module: ModuleType) -> Callable[..., Any]:
    """What model.py calls; a kernel for TPUs is told how its tensors are cut, which they are not here."""
    function = getattr(module, kernel["name"])
    return partial(function, spread=(None,) * 3) if kernel["language"] == "pallas" else function


def _tokens(kernel: Description, rows: int, size: int, *, seed: int) -> Tensor:
    """Of two sequences for TPUs, whose kernels tell sequences apart."""
    return random(*((2,) if kernel["language"] == "pallas" else ()), rows, size, seed=seed)


def _add_norm(kernel: Description, module: ModuleType, rows: int) -> Iterator[Case]:
    size, dtype = kernel["hidden_size"], DTYPES[kernel["dtype"]]
    stream = DTYPES[kernel["stream_dtype"]]
    function = _called(kernel, module)
    options = {"eps": kernel["eps"], "unit_offset": kernel["unit_offset"], "stream": stream}
    eager = partial(getattr(norm, kernel["name"]), **options)
    x, branch = (_tokens(kernel, rows, size, seed=seed).to(each) for seed, each in ((1, stream), (2, dtype)))
    weight = random(size, seed=3)
    weight[0] = 0.0  # what is divided by it in some implementations
    factors = (weight, random(size, seed=4)) if kernel["has_bias"] else (weight,)
    factors = tuple(each.to(stream if kernel.get("has_backward", True) else dtype) for each in factors)
    yield Case("sum and norm", function, eager, (x, branch, *factors))
    yield Case("the first norm", partial(function, None), partial(eager, None), (branch, *factors))

    def last(either: Callable[..., Any], *args: Tensor) -> Tensor:
        return either(*args)[1]

    yield Case("the last norm", partial(last, function), partial(last, eager), (x, branch, *factors))


def _gated(kernel: Description, module: ModuleType, rows: int) -> Iterator[Case]:
    gate_up = (3.0 * _tokens(kernel, rows, 2 * kernel["size"], seed=1)).to(DTYPES[kernel["dtype"]])
    yield Case("gate", _called(kernel, module), getattr(activation, kernel["eager"]), (gate_up,))


def _gated_linear(kernel: Description, module: ModuleType, rows: int) -> Iterator[Case]:
    if not kernel.get("has_backward", True):  # then the projection is another kernel's
        yield from _gated(kernel, module, rows)
        return
    dtype, size = DTYPES[kernel["dtype"]], kernel["size"]
    activate = getattr(activation, kernel["eager"])
    bias = (random(11, seed=3, dtype=dtype),) if kernel["has_bias"] else ()
    inputs = random(rows, 2 * size, seed=1, scale=3.0).to(dtype), random(11, size, seed=2).to(dtype), *bias
    yield Case(
        "gate and projection",
        getattr(module, kernel["name"]),
        lambda gate_up, *rest: F.linear(activate(gate_up), *rest),
        inputs,
    )


def _linear(kernel: Description, module: ModuleType, rows: int) -> Iterator[Case]:
    """Of any number of rows, and on CPUs where PyTorch's product is taken instead; the first size is no multiple of a panel."""
    vars(module)["pays"] = lambda rows: True
    for depth, size in ((48, 80), (208, 16)):
        inputs = random(rows, depth, seed=1), random(size, depth, seed=2), random(size, seed=3)
        inputs = tuple(each.to(DTYPES[kernel["dtype"]]) for each in inputs)
        yield Case(f"{size} x {depth}", module.linear, F.linear, inputs[:2])
        yield Case(f"{size} x {depth} and a bias", module.linear, F.linear, inputs)


def _causal_attention(kernel: Description, module: ModuleType, rows: int) -> Iterator[Case]:
    heads, kv_heads, size = kernel["num_heads"], kernel["num_kv_heads"], kernel["head_dim"]
    dtype = DTYPES[kernel["dtype"]]
    sequences = 2 if rows < 16 else 1
    qkv = random(sequences, rows, (heads + 2 * kv_heads) * size, dtype=dtype, scale=1.5)
    rotary = kernel["rotary_dims"] or size
    angles = torch.arange(rows)[:, None] * 100.0 ** -torch.linspace(0, 1, rotary // 2)
    turns = (angles.cos(), angles.sin()) if kernel["has_rope"] else ()
    function = getattr(module, kernel["name"])

    def eager(qkv: Tensor) -> Tensor:
        wide = torch.promote_types(qkv.dtype, torch.float32)
        turned = (turns[0].to(wide), turns[1].to(wide)) if turns else None
        return causal_attention(
            qkv,
            turned,
            num_heads=heads,
            num_kv_heads=kv_heads,
            scale=kernel["scale"],
            window=kernel["window"],
            softcap=kernel["softcap"],
            interleaved=kernel["interleaved"],
        )

    if kernel["language"] == "pallas":
        yield from _head_attention(kernel, function, rows)
        return
    yield Case("attention", lambda qkv: function(qkv, *turns), eager, (qkv,))


def _head_attention(kernel: Description, function: Callable[..., Any], rows: int) -> Iterator[Case]:
    """A kernel for TPUs takes heads, rotated already."""
    dtype, size = DTYPES[kernel["dtype"]], kernel["head_dim"]
    q, k, v = (
        random(2, kernel[heads], rows, size, seed=seed, dtype=dtype, scale=1.5)
        for seed, heads in enumerate(("num_heads", "num_kv_heads", "num_kv_heads"))
    )
    eager = partial(attend, scale=kernel["scale"], window=kernel["window"], softcap=kernel["softcap"])
    yield Case("attention", partial(function, spread=(None,) * 4), eager, (q, k, v))


def _linear_cross_entropy(kernel: Description, module: ModuleType, rows: int) -> Iterator[Case]:
    """Hidden states are narrow here: the kernel is for the logits, and the product is PyTorch's."""
    dtype, vocab = DTYPES[kernel["dtype"]], kernel["vocab_size"]
    hidden, weight = random(rows, 16, seed=1), random(vocab, 16, seed=2, scale=0.5)
    targets = torch.randint(0, vocab, (rows,), generator=torch.Generator().manual_seed(3))
    bias = (random(vocab, seed=4).to(dtype),) if kernel["has_bias"] else ()
    eager = partial(linear_cross_entropy, z_loss=kernel["z_loss"], softcap=kernel["softcap"])
    yield Case("loss", getattr(module, kernel["name"]), eager, (hidden.to(dtype), weight.to(dtype), targets, *bias))


def _embed(kernel: Description, module: ModuleType, rows: int) -> Iterator[Case]:
    table = random(kernel["vocab_size"], 8, dtype=DTYPES[kernel["dtype"]])
    tokens = torch.arange(rows) % 5
    yield Case("rows of the table", getattr(module, kernel["name"]), embed, (tokens, table))


def _adamw(kernel: Description, module: ModuleType, rows: int) -> Iterator[Case]:
    shape = (rows, 37)
    master, mean, square = random(*shape, seed=1), random(*shape, seed=2), random(*shape, seed=3).square()
    grad = random(*shape, seed=4, dtype=DTYPES[kernel["grad_dtype"]])
    group = {"lr": 1e-2, "weight_decay": 0.1}
    betas = tuple(kernel["betas"])

    def function(*args: Tensor) -> tuple[Tensor, ...]:
        master, mean, square, grad = (each.detach().clone() for each in args)
        weight, rest = split(master)
        state = {"step": torch.tensor(3.0), "rest": rest, "exp_avg": mean, "exp_avg_sq": square}
        module._step(torch.nn.Parameter(weight, requires_grad=False), state, grad, group, grad_scale=0.5)
        return join(weight, rest), mean, square

    def eager(*args: Tensor) -> tuple[Tensor, ...]:
        master, mean, square, grad = (each.detach().clone() for each in args)
        scales = 0.5, 1.0 / (1.0 - betas[0] ** 3), 1.0 / (1.0 - betas[1] ** 3)
        grad = grad.to(master.dtype)
        rate = {"lr": group["lr"], "shrink": 1.0 - group["lr"] * group["weight_decay"]}
        adamw_step(master, None, mean, square, grad, betas=betas, eps=kernel["eps"], **rate, scales=scales)
        return master, mean, square

    yield Case("a step", function, eager, (master, mean, square, grad), eps=torch.finfo(torch.float32).eps)


def _weight_only_linear(kernel: Description, module: ModuleType, rows: int) -> Iterator[Case]:
    """A layer is no parameter of a case: its weight is what it was rounded to, whatever works with it."""
    dtype, group = DTYPES[kernel["dtype"]], kernel["group"]
    make = module.Bf16Linear if group is None else getattr(module, f"Int{kernel['bits']}Linear")
    for depth, size in ((200, 131), (37, 5), (128, 48)):
        layer = make(depth, size, bias=kernel["has_bias"])
        layer.fill(random(size, depth, seed=1))
        if kernel["has_bias"]:
            layer.bias.data = random(size, seed=2, dtype=dtype)
        bias = (layer.bias.detach(),) if kernel["has_bias"] else ()

        def product(x: Tensor, *_: Tensor, layer: Any = layer) -> Tensor:
            return layer(x)

        def eager(x: Tensor, *bias: Tensor, layer: Any = layer) -> Tensor:
            if group is None:
                return F.linear(x, layer.whole().to(x.dtype), *bias)
            rounds_inputs = kernel["template"] == "integer_linear"
            return weight_only_linear(x, layer.unpacked(), *bias, group=group, rounds_inputs=rounds_inputs)

        yield Case(f"{size} x {depth}", product, eager, (random(rows, depth, seed=3, dtype=dtype), *bias))


def _decode_attention(kernel: Description, module: ModuleType, rows: int) -> Iterator[Case]:
    """Three sequences of up to `rows` tokens, in rows of the cache in any order; others hold what nobody may read."""
    if kernel["language"] == "pallas":
        yield from _paged_attention(kernel, module, rows)
        return
    lengths = torch.tensor([rows, 1, max(1, rows // 2)])
    read = torch.randperm(4 * rows, generator=torch.Generator().manual_seed(1))[: 3 * rows].view(3, rows)
    written = read.gather(1, lengths[:, None] - 1)
    hidden = torch.ones(4 * rows, dtype=torch.bool)
    for row, length in zip(read, lengths, strict=True):
        hidden[row[:length]] = False
    pairs = (kernel["rotary_dims"] or kernel["head_dim"]) // 2
    angles = lengths[:, None] * 100.0 ** -torch.linspace(0, 1, pairs)
    options = {name: kernel[name] for name in ("softcap", "interleaved")}
    attend = partial(decode_attention, **options)
    name, places = "one token of three sequences", (written, read, lengths)
    yield _attention_to_cache(name, kernel, module, attend, tokens=(3, 1), angles=angles, hidden=hidden, places=places)


def _paged_attention(kernel: Description, module: ModuleType, rows: int) -> Iterator[Case]:
    """For TPUs: keys are there and queries are rotated. Sequences of up to `rows` tokens, in blocks in any order: a number of them that
    several cores divide, and one that they do not."""
    block, cores = module.tpu.module.BLOCK_TOKENS, module.tpu.module.CORES
    several = torch.tensor([rows, 1, max(1, rows // 2), rows])
    for lengths in (several, several[:3]) if cores > 1 else (several,):
        count, width = len(lengths), -(-rows // block)
        blocks = torch.randperm(count * width + 1, generator=torch.Generator().manual_seed(1))[:-1].view(count, width)
        read = (blocks[:, :, None] * block + torch.arange(block)).flatten(1)  # [B, S]
        hidden = torch.ones((count * width + 1) * block, dtype=torch.bool)
        for row, length in zip(read, lengths, strict=True):
            hidden[row[:length]] = False
        dtype, size = DTYPES[kernel["dtype"]], kernel["head_dim"]
        q = random(count, kernel["num_heads"], 1, size, seed=4, dtype=dtype, scale=1.5)
        cache = [random(kernel["num_kv_heads"], len(hidden), size, seed=seed, dtype=dtype) for seed in (2, 3)]
        for each in cache:
            each[:, hidden] = torch.nan
        options = {name: kernel[name] for name in ("scale", "window", "softcap")}

        def attended(*inputs: Tensor, places: Any = (blocks, lengths)) -> Tensor:
            return getattr(module, kernel["name"])(*inputs, *places)

        def eager(q: Tensor, *cache: Tensor, places: Any = (read, lengths), options: Any = options) -> Tensor:
            keys, values = (each[:, places[0]].transpose(0, 1).nan_to_num(0.0) for each in cache)  # [B, K, S, C] x 2
            return attend_to_sequences(q, keys, values, places[1], **options)

        yield Case(f"one token of {count} sequences", attended, eager, (q, *cache))


def _prefill_attention(kernel: Description, module: ModuleType, rows: int) -> Iterator[Case]:
    """Pieces of three prompts: a whole one, the end of a longer one, and the first tokens of one; rows are in any order."""
    starts, counts, capacity = (0, rows, 0), (rows, max(1, rows // 2), 2), 2 * rows + 1
    positions = torch.cat([start + torch.arange(count) for start, count in zip(starts, counts, strict=True)])
    bounds = torch.tensor([0, *counts]).cumsum(0)
    read = torch.randperm(4 * capacity, generator=torch.Generator().manual_seed(1))[: 3 * capacity].view(3, capacity)
    written = read[torch.arange(3).repeat_interleave(bounds.diff()), positions]
    hidden = torch.ones(4 * capacity, dtype=torch.bool)
    for row, start, count in zip(read, starts, counts, strict=True):
        hidden[row[: start + count]] = False
    angles = positions[None, :, None] * 100.0 ** -torch.linspace(0, 1, kernel["head_dim"] // 2)
    tokens, places = (1, len(positions)), (written, read, positions, bounds)
    name, attend = "pieces of three prompts", prefill_attention
    yield _attention_to_cache(name, kernel, module, attend, tokens=tokens, angles=angles, hidden=hidden, places=places)


def _attention_to_cache(
    name: str,
    kernel: Description,
    module: ModuleType,
    reference: Callable[..., Tensor],
    *,
    tokens: tuple[int, int],
    angles: Tensor,
    hidden: Tensor,
    places: tuple[Tensor, ...],
) -> Case:
    """Of `tokens` [B, T] that stand at `places`; rows of the cache that are `hidden` are nobody's here."""
    heads, kv_heads, function = kernel["num_heads"], kernel["num_kv_heads"], getattr(module, kernel["name"])
    width = (heads + 2 * kv_heads) * kernel["head_dim"]
    qkv = random(*tokens, width, seed=4, dtype=DTYPES[kernel["dtype"]], scale=1.5)
    cache = _cache(kernel, len(hidden), hidden)
    turns = (angles.cos(), angles.sin()) if kernel["has_rope"] else ()

    def attended(qkv: Tensor, *cache: Tensor) -> tuple[Tensor, ...]:
        cache = tuple(each.clone() for each in cache)
        out = function(qkv, *turns, *cache, *places)
        return out, *_numbers(cache, ~hidden)

    def eager(qkv: Tensor, *cache: Tensor) -> tuple[Tensor, ...]:
        cache = tuple(each.nan_to_num(0.0) for each in cache)
        turned = tuple(each.to(torch.promote_types(qkv.dtype, torch.float32)) for each in turns)
        sizes = {"num_heads": heads, "num_kv_heads": kv_heads, "scale": kernel["scale"], "window": kernel["window"]}
        out = reference(qkv, (turned[0], turned[1]) if turned else None, cache, *places, **sizes)
        return out, *_numbers(cache, ~hidden)

    return Case(name, attended, eager, (qkv, *cache), _cache_eps(kernel))


def _cache(kernel: Description, rows: int, hidden: Tensor) -> tuple[Tensor, ...]:
    """Keys and values; those of `hidden` rows are what another request left there, which may be no number."""
    shape, dtype = (rows, kernel["num_kv_heads"], kernel["head_dim"]), DTYPES[kernel["dtype"]]
    cache = tuple(random(*shape, seed=seed, dtype=dtype) for seed in (2, 3))
    if kernel["has_int8_cache"]:
        (keys, key_scales), (values, value_scales) = map(to_int8, cache)
        cache = keys, values, key_scales, value_scales
    for each in cache[-2:]:
        each[hidden] = torch.nan
    return cache


def _cache_eps(kernel: Description) -> float | None:
    """Scales of int8 are bf16 in any case."""
    return torch.finfo(DTYPES[kernel["dtype"]]).eps if kernel["has_int8_cache"] else None


def _numbers(cache: tuple[Tensor, ...], rows: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values of these rows."""
    return int8_cache.read(cache, rows, dtype=torch.float32)


def _sampling(kernel: Description, module: ModuleType, rows: int) -> Iterator[Case]:
    """Rows that ask for all filters, for top-k, for top-p, for min-p and for none, in a vocabulary of a few blocks."""
    size, count = min(kernel["vocab_size"], 5003), min(rows, 15)
    turns = torch.arange(count)
    filters = (
        0.5 + 0.5 * (turns % 3),
        torch.tensor([6, 6, size, size, size])[turns % 5],
        torch.tensor([0.8, 1.0, 0.7, 1.0, 1.0])[turns % 5].where(turns != 12, 0.0),
        torch.tensor([0.2, 0.0, 0.0, 0.2, 0.0])[turns % 5],
        torch.tensor([0.97, 0.5, 0.03])[turns // 5 % 3],
    )
    scores = random(count, size, seed=1, scale=1.5)

    def drawn(*args: Tensor) -> Tensor:
        return module.draw(*args)

    yield Case("draw", drawn, draw, (scores, *filters))


def _choose_experts(kernel: Description, module: ModuleType, rows: int) -> Iterator[Case]:
    """Who is chosen is told apart from the weights: an output each."""
    num = kernel["num_experts"]
    logits, bias = random(rows, num, seed=1, scale=2.0), random(num, seed=2, scale=0.2)
    options = {name: kernel[name] for name in ("per_token", "score", "normalize", "scale")}

    def chosen(logits: Tensor, *bias: Tensor) -> tuple[Tensor, Tensor]:
        return getattr(module, kernel["name"])(logits, *bias)

    def eager(logits: Tensor, *bias: Tensor) -> tuple[Tensor, Tensor]:
        return choose_experts(logits, bias[0] if bias else None, **options)

    yield Case("route", chosen, eager, (logits, *((bias,) if kernel["has_bias"] else ())))


def _expert_linear(kernel: Description, module: ModuleType, rows: int) -> Iterator[Case]:
    """Some experts have no row, one has most."""
    num, dtype = kernel["num_experts"], DTYPES[kernel["dtype"]]
    ends = torch.tensor([min(rows, each * each * rows // (2 * num * num)) for each in range(num)])
    ends[-1] = rows

    def product(x: Tensor, weight: Tensor) -> Tensor:
        return getattr(module, kernel["name"])(x, weight, ends.int())

    def eager(x: Tensor, weight: Tensor) -> Tensor:
        return grouped_linear(x, weight, ends.diff(prepend=ends.new_zeros(1)).tolist())

    for depth, size in ((100, 70), (64, 32)):  # odd ones, and multiples of 16, which compilers make other code of
        x, weight = (random(*shape, seed=shape[-1], dtype=dtype) for shape in ((rows, depth), (num, size, depth)))
        yield Case(f"{size} x {depth}", product, eager, (x, weight))


def _without_gradients(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        with torch.no_grad():
            out = function(*args)
        return tuple(each.detach() for each in out) if isinstance(out, tuple) else out.detach()

    return call


_MAKERS: dict[str, Callable[[Description, ModuleType, int], Iterator[Case]]] = {
    "adamw": _adamw,
    "add_norm": _add_norm,
    "add_rms_norm": _add_norm,
    "causal_attention": _causal_attention,
    "choose_experts": _choose_experts,
    "decode_attention": _decode_attention,
    "embed": _embed,
    "expert_linear": _expert_linear,
    "gated": _gated,
    "gated_linear": _gated_linear,
    "prefill_attention": _prefill_attention,
    "sampling": _sampling,
    "linear": _linear,
    "linear_cross_entropy": _linear_cross_entropy,
    "integer_linear": _weight_only_linear,
    "weight_only_linear": _weight_only_linear,
}
"""Template of a kernel -> its cases."""
