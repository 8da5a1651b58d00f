"""The ledger: states by ZeRO level, activations by recompute, and what autograd really saves."""

from __future__ import annotations

import pytest

from llmc.compiler.cost.memory import StageParts, kept_bytes, ledger_of_stage, local_parameters, state_bytes
from llmc.compiler.cost.sharding import Degrees
from llmc.compiler.cost.workload import Workload
from llmc.compiler.ir.types import DType
from llmc.compiler.planner.layout import Layout
from llmc.spec.units import GIB

from ..models import DEEPSEEK_V3, LLAMA_3_8B, LLAMA_3_70B, h100s, training_graph


def stage(parameters: int = 1_000_000) -> StageParts:
    return StageParts(
        dense=parameters,
        experts=0,
        kept=0.0,
        in_flight=1.0,
        one_layer=0.0,
        two_largest=0.0,
        largest_gathered=0,
        loss=0.0,
    )


@pytest.mark.parametrize(
    ("zero", "bytes_a_parameter"),
    # Megatron: 18 bytes unsharded, 6 + 12/d with a distributed optimizer; ZeRO-3 16/d, the fp32 master being the weight
    [(0, 18), (1, 6 + 12 / 8), (2, 2 + 4 / 8 + 12 / 8), (3, 16 / 8)],
)
def test_model_states_a_parameter(zero: int, bytes_a_parameter: float):
    states = state_bytes(program="sharded" if zero == 3 else "mixed", precision="bf16", moments=8.0)
    ledger = ledger_of_stage(stage(), states=states, zero=zero, shards=8, expert_shards=8, num_ranks=1, kind="gpu")
    assert ledger.parameters + ledger.gradients + ledger.optimizer == pytest.approx(1e6 * bytes_a_parameter)


@pytest.mark.parametrize(
    ("program", "precision", "accumulates", "bytes_a_parameter"),
    [
        ("halves", "bf16", False, 14),
        ("halves", "bf16", True, 18),
        ("autocast", "bf16", True, 18),
        ("autocast", "fp32", True, 16),
        ("mixed", "fp16", True, 16),
    ],
)
def test_states_of_each_program(program: str, precision: str, accumulates: bool, bytes_a_parameter: float):
    states = state_bytes(program=program, precision=precision, moments=8.0, accumulates=accumulates)  # pyright: ignore[reportArgumentType]
    assert states.weights + states.gradients + states.optimizer == bytes_a_parameter


def test_dualpipe_keeps_two_copies_of_parameters_and_in_a_v_one():
    work = Workload(training_graph(LLAMA_3_8B), h100s(8), seq_len=4096, precision="bf16", optimizer="adamw")
    one, two, in_a_v = (
        work.ledgers(Layout(pp=8, schedule=schedule, virtual_stages=virtual, grad_accumulation=16))[-1]
        for schedule, virtual in (("1f1b", 1), ("dualpipe", 1), ("dualpipe", 2))
    )
    assert two.parameters == 2 * one.parameters
    assert two.gradients == 2 * one.gradients
    assert two.optimizer == one.optimizer
    assert in_a_v.parameters < two.parameters


def test_full_recompute_keeps_the_input_of_a_layer():
    kept = kept_bytes(training_graph(LLAMA_3_8B).block_ops("block"), Degrees(), tokens=1024, values=DType.BF16)
    assert kept.full == 2 * 1024 * 4096
    assert kept.full < kept.selective < kept.none


def test_autocast_keeps_the_residual_stream_twice_as_wide():
    """The inputs of both norms, of 8192 tokens and 4096 numbers."""
    ops = training_graph(LLAMA_3_8B).block_ops("block")
    narrow, wide = (
        kept_bytes(ops, Degrees(), tokens=8192, values=DType.BF16, is_ours=True, has_wide_stream=is_wide)
        for is_wide in (False, True)
    )
    assert wide.none - narrow.none == 2 * 2 * 8192 * 4096
    assert wide.full == 2 * narrow.full


def test_sequence_parallelism_divides_everything_by_tp():
    ops = training_graph(LLAMA_3_70B).block_ops("block")
    whole = kept_bytes(ops, Degrees(), tokens=4096, values=DType.BF16)
    split = kept_bytes(ops, Degrees(tp=8, sequence_parallel=True), tokens=4096, values=DType.BF16)
    assert split.none == pytest.approx(whole.none / 8)


def test_tensor_parallel_parameters_of_all_ranks_are_the_model():
    """Norms are on every rank."""
    graph = training_graph(LLAMA_3_8B)
    ops = graph.block_ops("block")
    (whole, _), (part, _) = local_parameters(ops, Degrees()), local_parameters(ops, Degrees(tp=4))
    norms = 2 * 4096
    assert 4 * (part - norms) + norms == whole


def test_expert_parallel_parameters():
    ops = training_graph(DEEPSEEK_V3).block_ops("moe")
    dense, experts = local_parameters(ops, Degrees())
    dense_8, experts_8 = local_parameters(ops, Degrees(ep=8))
    assert experts == 3 * 256 * 7168 * 2048
    assert (dense_8, experts_8) == (dense, experts // 8)


def test_the_parts_sum_to_the_peak():
    work = Workload(training_graph(LLAMA_3_8B), h100s(8), seq_len=4096, precision="bf16", optimizer="adamw")
    ledger = work.ledger(Layout(dp_shard=8, zero=3, micro_batch=2))
    parts = ledger.parameters + ledger.gradients + ledger.optimizer + ledger.activations + ledger.buffers
    assert ledger.peak == parts


@pytest.mark.parametrize(("tp", "splits_tokens", "gib"), [(1, False, 1.1182), (8, False, 0.3586), (8, True, 0.1398)])
def test_the_ledger_is_what_autograd_saves(tp: int, splits_tokens: bool, gib: float):
    """A block at 70B shape, 4k tokens, run with fake tensors: every tensor that autograd packs, each storage once.

    Without sequence parallelism a tensor-parallel rank keeps whole residuals and norms, and its share of the rest; with it
    an eighth of those too, since inputs of products are kept before they are gathered (Korthikanti 2022, Megatron).
    """
    torch = pytest.importorskip("torch")
    rows = 4096 // tp if splits_tokens else 4096
    saved = _executed_bytes(
        torch, hidden=8192, heads=64 // tp, kv_heads=8 // tp, head=128, ffn=28672 // tp, tokens=4096, rows=rows
    )
    ops = training_graph(LLAMA_3_70B).block_ops("block")
    degrees = Degrees(tp=tp, sequence_parallel=splits_tokens)
    kept = kept_bytes(ops, degrees, tokens=4096, values=DType.BF16)
    assert kept.none == pytest.approx(saved, rel=1e-9)
    assert saved / GIB == pytest.approx(gib, abs=5e-4)


def _executed_bytes(
    torch, *, hidden: int, heads: int, kv_heads: int, head: int, ffn: int, tokens: int, rows: int
) -> int:
    """Bytes that one rank's block keeps for backward, from autograd's own hooks; kernels that we fuse are stood in for.

    `rows` of the tokens are this rank's between products: it gathers the others before one and scatters sums after one.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.autograd.graph import saved_tensors_hooks
    from torch.nn import functional as F

    class FusedNorm(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight):
            ctx.save_for_backward(x, weight, torch.empty(x.shape[:-1], dtype=torch.float32))
            return torch.empty_like(x)

    class GatheredLinear(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight):
            ctx.save_for_backward(x, weight)
            return x.new_empty((x.shape[0], tokens, weight.shape[0]))

    class ScatteredSum(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.new_empty((x.shape[0], rows, x.shape[2]))

    class FusedSwiglu(torch.autograd.Function):
        @staticmethod
        def forward(ctx, gate_up):
            ctx.save_for_backward(gate_up)
            return gate_up.new_empty((*gate_up.shape[:-1], gate_up.shape[-1] // 2))

    class FusedRope(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return torch.empty_like(x)

    with FakeTensorMode():
        bf16 = torch.bfloat16
        sizes = [heads * head, kv_heads * head, kv_heads * head]
        shapes = [(hidden,), (hidden,), (sum(sizes), hidden), (hidden, sizes[0]), (2 * ffn, hidden), (hidden, ffn)]
        parameters = [torch.nn.Parameter(torch.empty(shape, dtype=bf16)) for shape in shapes]
        norm_1, norm_2, qkv, out, gate_up, down = parameters
        of_parameters = {each.untyped_storage()._cdata for each in parameters}
        kept = {}

        def pack(tensor):
            storage = tensor.untyped_storage()
            if storage._cdata not in of_parameters:
                kept[storage._cdata] = tensor  # keeps the storage alive, so that no id is used twice
            return tensor

        linear = F.linear if rows == tokens else GatheredLinear.apply
        summed = (lambda each: each) if rows == tokens else ScatteredSum.apply
        x = torch.empty(1, rows, hidden, dtype=bf16, requires_grad=True) * 1
        with saved_tensors_hooks(pack, lambda tensor: tensor):
            q, k, v = linear(FusedNorm.apply(x, norm_1), qkv).split(sizes, dim=-1)
            q = FusedRope.apply(q.unflatten(-1, (heads, head))).transpose(1, 2)
            k = FusedRope.apply(k.unflatten(-1, (kv_heads, head))).transpose(1, 2)
            v = v.unflatten(-1, (kv_heads, head)).transpose(1, 2)
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            x = x + summed(F.linear(attended.transpose(1, 2).flatten(2), out))
            x = x + summed(F.linear(FusedSwiglu.apply(linear(FusedNorm.apply(x, norm_2), gate_up)), down))
        return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
