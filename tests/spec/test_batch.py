"""Batch arithmetic: any sufficient subset gives the same answer; what disagrees or does not divide says so with numbers."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmc.spec.batch import Batch, fixed_dp, solve_batch
from llmc.spec.diagnostics import Diagnostic, SpecError
from llmc.spec.document import Spec
from llmc.spec.fixes import apply
from llmc.spec.load import judge
from llmc.spec.nodes import from_data, to_data
from llmc.spec.objective import CausalLm
from llmc.spec.parallel import Parallel
from llmc.spec.source import SourceText, Span
from llmc.spec.training import Train

SMALL = st.integers(1, 64)


def stage(**given: int | None) -> Train:
    return Train(objective=CausalLm(kind="causal_lm"), **{"seq_len": 128, **given})


def faults(train: Train, parallel: Parallel, dp: int | None = None) -> tuple[Diagnostic, ...]:
    with pytest.raises(SpecError) as caught:
        solve_batch(train, parallel, dp)
    return caught.value.diagnostics


@given(SMALL, SMALL, SMALL, st.integers(1, 1000), st.integers(1, 512))
def test_every_sufficient_subset_gives_the_same_batch(micro: int, accumulation: int, dp: int, steps: int, seq_len: int):
    batch = micro * accumulation * dp
    whole = {"tokens": steps * batch * seq_len, "steps": steps, "global_batch": batch}
    parts = {"micro_batch": micro, "grad_accumulation": accumulation}
    expected = Batch(whole["tokens"], steps, seq_len, batch, micro, accumulation)
    for length in ({"tokens"}, {"steps"}, {"tokens", "steps"}):
        for layout in (subset for n in range(3) for subset in combinations(parts, n)):
            for names in (length, length | {"global_batch"}):
                knows_batch = "global_batch" in names or len(length) == 2 or len(layout) == 2
                if not knows_batch:
                    continue
                parallel = Parallel(**{name: parts[name] for name in layout})
                solved = solve_batch(stage(seq_len=seq_len, **{name: whole[name] for name in names}), parallel, dp)
                open_parts = {} if layout else {"micro_batch": None, "grad_accumulation": None}
                assert vars(solved) == vars(expected) | open_parts


@given(st.integers(1, 10**9), SMALL, st.integers(1, 512))
def test_steps_are_the_fewest_that_read_all_tokens(tokens: int, batch: int, seq_len: int):
    solved = solve_batch(stage(tokens=tokens, global_batch=batch, seq_len=seq_len), Parallel())
    per_step = batch * seq_len
    assert solved.tokens == solved.steps * per_step
    assert solved.tokens - per_step < tokens <= solved.tokens


@given(SMALL, SMALL, SMALL, SMALL)
def test_a_batch_that_is_not_the_product_of_its_parts_is_refused(batch: int, micro: int, accumulation: int, dp: int):
    train = stage(steps=10, global_batch=batch)
    parallel = Parallel(micro_batch=micro, grad_accumulation=accumulation)
    if batch == micro * accumulation * dp:
        assert solve_batch(train, parallel, dp).global_batch == batch
        return
    [fault] = faults(train, parallel, dp)
    assert fault.code == "S301"
    assert f"{batch:,}" in fault.message
    assert f"{micro * accumulation * dp:,}" in fault.message


@given(st.integers(1, 5000), st.integers(1, 64), st.sampled_from(["micro_batch", "grad_accumulation"]))
def test_what_does_not_divide_is_answered_with_the_nearest_batches_that_do(batch: int, part: int, name: str):
    train, parallel = stage(steps=10, global_batch=batch), Parallel(**{name: part})
    if batch % part == 0:
        assert solve_batch(train, parallel).global_batch == batch
        return
    [fault] = faults(train, parallel)
    assert fault.code == "S302"
    proposed = [fix.edits[0].to for fix in fault.fixes]
    assert proposed
    assert all(near % part == 0 and abs(near - batch) < part for near in proposed)


def test_tokens_and_steps_that_disagree_name_both_numbers():
    [fault] = faults(stage(tokens=4_000_000, steps=1000, seq_len=256, global_batch=32), Parallel())
    assert fault.message == "4,000,000 tokens at 32 x 256 a step are 489 steps, `steps` says 1,000"


def test_a_last_step_that_is_not_full_agrees_with_its_steps():
    assert solve_batch(stage(tokens=1000, steps=8, global_batch=1), Parallel()).tokens == 1024


@pytest.mark.parametrize(
    ("given", "layout", "dp", "what"),
    [
        ({"global_batch": 8}, {}, None, "neither `tokens` nor `steps`"),
        ({"tokens": 4096}, {}, None, "`global_batch` is not given"),
        ({"steps": 10}, {"micro_batch": 2, "grad_accumulation": 2}, None, "`global_batch` is not given"),
    ],
)
def test_too_little_is_refused(given: dict[str, int], layout: dict[str, int], dp: int | None, what: str):
    assert what in faults(stage(**given), Parallel(**layout), dp)[0].message


def test_the_batch_follows_from_tokens_and_steps():
    assert solve_batch(stage(tokens=128 * 10 * 7, steps=10), Parallel()).global_batch == 7


def test_tokens_and_steps_without_a_whole_batch_propose_tokens():
    [fault] = faults(stage(tokens=128 * 10 * 7 + 1, steps=10), Parallel())
    assert fault.code == "S302"
    assert [fix.edits[0].to for fix in fault.fixes] == [128 * 10 * 7, 128 * 10 * 8]


@pytest.mark.parametrize(
    ("layout", "dp"),
    [({}, 1), ({"dp_shard": 8}, 8), ({"dp_shard": 8, "dp_replicate": 4}, 32), ({"rest": "auto"}, None),
     ({"rest": "auto", "dp_shard": 8}, None), ({"rest": "auto", "dp_shard": 8, "dp_replicate": 1}, 8)],
)  # fmt: skip
def test_data_parallel_ranks_are_known_only_where_the_spec_fixes_them(layout: dict[str, object], dp: int | None):
    assert fixed_dp(Parallel.model_validate(layout)) == dp


MACHINE = {"kind": "cpu", "memory_gib": 8, "memory_gb_s": 20, "peak_tflops": {"fp32": 1.0}}


@given(SMALL, SMALL, SMALL, st.integers(1, 200), st.integers(1, 200))
def test_proposals_for_a_spec_are_applied_and_then_load(
    batch: int, micro: int, accumulation: int, tokens: int, steps: int
):
    """What `help:` says was done to the spec and judged again: here done by hand, for whatever is proposed."""
    tree = from_data(
        {
            "model": {"preset": "gpt2"},
            "hardware": {"accelerator": MACHINE},
            "train": (
                {
                    "objective": "causal_lm",
                    "seq_len": 128,
                    "tokens": tokens * 1000,
                    "steps": steps,
                    "global_batch": batch,
                },
            ),
            "parallel": {"micro_batch": micro, "grad_accumulation": accumulation, "dp_shard": 2},
        },
        span=Span(SourceText("spec.yaml", ""), 0, 0),
        written=True,
    )
    for fault in judge(tree).diagnostics:
        assert fault.code in ("S301", "S302"), fault
        for fix in fault.fixes:
            edited = apply(fix.edits, tree, root=Spec)
            left = [
                other for other in judge(edited).diagnostics if (other.code, other.path) == (fault.code, fault.path)
            ]
            assert left == [], (to_data(edited), fix.help)
