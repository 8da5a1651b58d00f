"""S3xx, S4xx: sections that do not go together, and batch arithmetic, and keys that nothing reads."""

from __future__ import annotations

from .entry import Code


class BatchContradiction(Code):
    """Tokens, steps and batch sizes say different things.

    Any sufficient subset may be given; what is given twice must agree:
    `global_batch = micro_batch x grad_accumulation x data-parallel ranks`, and `steps = tokens / (global_batch x
    seq_len)`, rounded up. Leave one of the contradicting numbers out, and it follows from the others.
    """

    id, slug = "S301", "batch-contradiction"
    failing = """
        model: {preset: gpt2}
        hardware: {accelerator: cpu}
        train: {objective: causal_lm, seq_len: 256, tokens: 4M, steps: 1000, global_batch: 32}
    """
    fixed = """
        model: {preset: gpt2}
        hardware: {accelerator: cpu}
        train: {objective: causal_lm, seq_len: 256, tokens: 4M, global_batch: 32}
    """


class BatchIndivisible(Code):
    """A batch cannot be divided into equal parts.

    Each data-parallel rank works through the same number of micro-batches of the same size. The nearest numbers that
    divide are proposed; llmc does not round on its own, because the global batch changes what is learnt.
    """

    id, slug = "S302", "batch-indivisible"
    failing = """
        model: {preset: gpt2}
        hardware: {accelerator: cpu}
        train: {objective: causal_lm, seq_len: 256, steps: 1000, global_batch: 30}
        parallel: {micro_batch: 8, rest: auto}
    """
    fixed = """
        model: {preset: gpt2}
        hardware: {accelerator: cpu}
        train: {objective: causal_lm, seq_len: 256, steps: 1000, global_batch: 32}
        parallel: {micro_batch: 8, rest: auto}
    """


class BatchInsufficient(Code):
    """Tokens, steps and batch sizes leave something open.

    Training needs an end (`tokens` or `steps`) and a global batch: given, or following from `tokens` and `steps`, or from
    `micro_batch`, `grad_accumulation` and the data-parallel ranks. The planner does not choose it, since the global batch
    changes what is learnt.
    """

    id, slug = "S303", "batch-insufficient"
    failing = """
        model: {preset: gpt2}
        hardware: {accelerator: cpu}
        train: {objective: causal_lm, seq_len: 256, tokens: 4M}
    """
    fixed = """
        model: {preset: gpt2}
        hardware: {accelerator: cpu}
        train: {objective: causal_lm, seq_len: 256, tokens: 4M, global_batch: 32}
    """


class ScheduleTooLong(Code):
    """The learning-rate schedule is longer than the training.

    Warm-up must end before training does, and a decay must have room after it: `warmup_steps + decay_steps <= steps`,
    where steps may follow from tokens and the global batch.
    """

    id, slug = "S304", "schedule-too-long"
    failing = """
        model: {preset: gpt2}
        hardware: {accelerator: cpu}
        train:
          objective: causal_lm
          seq_len: 256
          steps: 1000
          global_batch: 32
          schedule: {name: cosine, warmup_steps: 2000}
    """
    fixed = """
        model: {preset: gpt2}
        hardware: {accelerator: cpu}
        train:
          objective: causal_lm
          seq_len: 256
          steps: 1000
          global_batch: 32
          schedule: {name: cosine, warmup_steps: 100}
    """


class PositionsExhausted(Code):
    """A sequence is longer than the model's table of positions.

    With learned positions each position has a vector of its own, and there are `max_seq_len` of them.
    """

    id, slug = "S305", "positions-exhausted"
    failing = """
        model: {preset: gpt2}
        hardware: {accelerator: cpu}
        train: {objective: causal_lm, seq_len: 2048, steps: 1000, global_batch: 32}
    """
    fixed = """
        model: {preset: gpt2}
        hardware: {accelerator: cpu}
        train: {objective: causal_lm, seq_len: 1024, steps: 1000, global_batch: 32}
    """


class LongerThanDeclared(Code):
    """A sequence is longer than the model's `max_seq_len`.

    The program works, since these positions are computed and not looked up, but the model was made for shorter
    sequences. Raise `model.max_seq_len` to say that it is meant, and consider `model.position.scaling`.
    """

    id, slug, severity = "S306", "longer-than-declared", "warning"
    failing = """
        model: {preset: llama-2-7b}
        hardware: {accelerator: h100-sxm-80g}
        train: {objective: causal_lm, seq_len: 8192, steps: 1000, global_batch: 32}
    """
    fixed = """
        model: {preset: llama-2-7b, max_seq_len: 8192}
        hardware: {accelerator: h100-sxm-80g}
        train: {objective: causal_lm, seq_len: 8192, steps: 1000, global_batch: 32}
    """


class ObjectiveNeedsKind(Code):
    """The training objective does not suit the kind of model.

    A decoder sees only earlier tokens and learns to predict the next one; an encoder sees all of them and learns to fill
    in masked ones.
    """

    id, slug = "S307", "objective-needs-kind"
    failing = """
        model: {preset: gpt2}
        hardware: {accelerator: cpu}
        train: {objective: masked_lm, seq_len: 256, steps: 1000, global_batch: 32}
    """
    fixed = """
        model: {preset: gpt2}
        hardware: {accelerator: cpu}
        train: {objective: causal_lm, seq_len: 256, steps: 1000, global_batch: 32}
    """


class ExpertsNeeded(Code):
    """Expert parallelism without experts.

    `ep` divides the experts of a mixture over devices; a dense model has none.
    """

    id, slug = "S308", "experts-needed"
    failing = """
        model: {preset: llama-3-8b}
        hardware: {accelerator: h100-sxm-80g}
        train: {objective: causal_lm, seq_len: 4096, steps: 1000, global_batch: 32}
        parallel: {ep: 8, rest: auto}
    """
    fixed = """
        model: {preset: mixtral-8x7b}
        hardware: {accelerator: h100-sxm-80g}
        train: {objective: causal_lm, seq_len: 4096, steps: 1000, global_batch: 32}
        parallel: {ep: 8, rest: auto}
    """


class ScheduleNeedsStages(Code):
    """Several stages a pipeline rank, with a pipeline schedule that has one.

    `virtual_stages` above 1 is what `interleaved_1f1b` does, and `dualpipe` has two; the other schedules hold one stage a rank.
    """

    id, slug = "S309", "schedule-needs-stages"
    failing = """
        model: {preset: llama-3-8b}
        hardware: {accelerator: h100-sxm-80g}
        train: {objective: causal_lm, seq_len: 4096, steps: 1000, global_batch: 32}
        parallel: {pp: 2, schedule: 1f1b, virtual_stages: 4, rest: auto}
    """
    fixed = """
        model: {preset: llama-3-8b}
        hardware: {accelerator: h100-sxm-80g}
        train: {objective: causal_lm, seq_len: 4096, steps: 1000, global_batch: 32}
        parallel: {pp: 2, schedule: interleaved_1f1b, virtual_stages: 4, rest: auto}
    """


class VocabularyTooSmall(Code):
    """A byte-level tokenizer does not fit the vocabulary.

    Byte-level byte-pair encoding starts from the 256 bytes and an end-of-text token, so that any text can be written.
    """

    id, slug = "S315", "vocabulary-too-small"
    failing = """
        model: {preset: gpt2, vocab_size: 200}
        hardware: {accelerator: cpu}
        data: {sources: [{source: python-stdlib}], tokenizer: {train: bpe}}
    """
    fixed = """
        model: {preset: gpt2, vocab_size: 512}
        hardware: {accelerator: cpu}
        data: {sources: [{source: python-stdlib}], tokenizer: {train: bpe}}
    """


class NothingLeft(Code):
    """The validation split leaves nothing to train on.

    `data.split.valid` is the share of the documents that training does not see; it is less than 1.
    """

    id, slug = "S316", "nothing-left"
    failing = """
        model: {preset: gpt2}
        hardware: {accelerator: cpu}
        data: {sources: [{source: python-stdlib}], tokenizer: {train: bpe}, split: {valid: 1}}
    """
    fixed = """
        model: {preset: gpt2}
        hardware: {accelerator: cpu}
        data: {sources: [{source: python-stdlib}], tokenizer: {train: bpe}, split: {valid: 0.1}}
    """
