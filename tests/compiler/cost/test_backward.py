"""What a layer needs while it runs backward, and what of it a mixture of layers lets show."""

from __future__ import annotations

from llmc.compiler.cost.backward import Working
from llmc.compiler.cost.memory import kept_bytes
from llmc.compiler.cost.pipeline import in_flight, most_held
from llmc.compiler.cost.sharded_program import Run, moments_of
from llmc.compiler.cost.sharding import Degrees
from llmc.compiler.ir.types import DType

from ..models import LLAMA_3_8B, training_graph


def worked_out(degrees: Degrees = Degrees(), **changes: bool):  # noqa: B008 (frozen)
    ops = training_graph(LLAMA_3_8B).block_ops("block")
    return kept_bytes(ops, degrees, tokens=1024, values=DType.BF16, is_ours=True, **changes)


def test_attention_is_rebuilt_when_the_feed_forward_part_is_done():
    """So its tensors and the feed-forward part's are never there together; all are where nothing was rebuilt."""
    kept = worked_out()
    none, selective = kept.backward("none", is_batched=False), kept.backward("selective", is_batched=False)
    assert kept.selective + selective.activations < kept.none + none.activations
    attention = kept.none - kept.selective
    assert selective.activations < attention + none.activations


def test_a_layer_that_takes_two_tensors_keeps_both_when_it_is_computed_again():
    assert worked_out(fuses_sums=True).full == 2 * worked_out().full == 2 * 2 * 1024 * 4096


def test_tokens_of_several_sequences_are_copied_into_order():
    kept = worked_out(Degrees(tp=8, sequence_parallel=True))
    one, several = (kept.backward("none", is_batched=batched).activations for batched in (False, True))
    assert several - one == 2 * 1024 * 4096  # one more of all tokens' hidden states


def test_layers_that_recompute_need_least_when_what_comes_after_them_has_let_go():
    lean = Run(3, kept=1.0, input=1.0, working=Working(20.0, 0.0), dense=0, experts=0)
    rich = Run(3, kept=10.0, input=1.0, working=Working(5.0, 0.0), dense=0, experts=0)
    most = [max(moment.beyond for moment in moments_of(runs)) for runs in ([rich, lean], [lean, rich])]
    assert most == [5.0, 20.0]  # runs are given from the last to the first


def test_interleaved_stages_that_keep_alike_are_what_the_formula_says():
    for rank in range(4):
        formula = in_flight("interleaved_1f1b", rank=rank, ranks=4, micro_batches=16, virtual=2)
        assert most_held((1.0, 1.0), rank=rank, ranks=4, micro_batches=16) == 2 * formula


def test_a_rank_holds_more_of_its_first_stages():
    """The last of four ranks has five micro-batches in its first stage when it turns back to it, and none in its last."""
    assert most_held((2.0, 1.0), rank=3, ranks=4, micro_batches=16) == 5 * 2.0
