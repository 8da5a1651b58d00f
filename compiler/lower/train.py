"""The view of train.py: one stage of training on one device, every constant worked out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .numbers import count, plural, scientific

if TYPE_CHECKING:
    from ...spec.document import Spec
    from ...spec.training import Train


@dataclass(frozen=True)
class TrainFacts:
    """What the plan decides about training on one device, beside what the spec says."""

    steps: int
    micro_batch: int
    grad_accumulation: int
    flops_per_token: float
    """Arithmetic of the model, forward and backward, without recomputation."""
    peak_flops_per_s: float
    """The device's, in the format of the matrix products."""
    peak_words: str
    micro_batch_reason: str
    plan_lines: tuple[str, ...]
    """What the head of the program says about the plan."""


@dataclass(frozen=True)
class TrainView:
    """What templates/pytorch/train.py.j2 needs, under the name `t`."""

    name: str
    origin: str
    objective_words: str
    plan_lines: tuple[str, ...]
    device: str
    is_bf16: bool
    seq_len: int
    micro_batch: int
    micro_batch_reason: str
    grad_accumulation: int
    global_batch: int
    tokens_per_step: int
    steps: int
    steps_reason: str
    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    schedule: str
    warmup_steps: int
    decay_steps: int
    min_lr_ratio: float
    lr_span: float
    """What the rate falls by, as a share of the peak."""
    grad_clip: float | None
    init_std: float
    seed: int
    data_seed: int
    has_validation: bool
    validate_every: int
    validation_batches: int
    checkpoint_every: int
    checkpoints_kept: int
    flops_per_token: str
    flops_words: str
    peak_flops_per_s: str
    peak_words: str


_OBJECTIVE_WORDS = {"causal_lm": "predict each next token"}


def lower_train(spec: Spec, train: Train, facts: TrainFacts, *, origin: str, device: str) -> TrainView:
    """`train` is the one stage of the spec that is lowered."""
    optimizer = train.optimizer
    if optimizer.name != "adamw":
        raise TypeError(f"{optimizer.name} is refused before lowering")
    global_batch = facts.micro_batch * facts.grad_accumulation
    tokens_per_step = global_batch * train.seq_len
    min_lr_ratio = getattr(train.schedule, "min_lr_ratio", 0.0)
    return TrainView(
        name=spec.name,
        origin=origin,
        objective_words=_OBJECTIVE_WORDS[train.objective.kind],
        plan_lines=facts.plan_lines,
        device=device,
        is_bf16=train.precision == "bf16",
        seq_len=train.seq_len,
        micro_batch=facts.micro_batch,
        micro_batch_reason=facts.micro_batch_reason,
        grad_accumulation=facts.grad_accumulation,
        global_batch=global_batch,
        tokens_per_step=tokens_per_step,
        steps=facts.steps,
        steps_reason=_steps_reason(train, steps=facts.steps, tokens_per_step=tokens_per_step),
        lr=optimizer.lr,
        betas=optimizer.betas,
        eps=optimizer.eps,
        weight_decay=optimizer.weight_decay,
        schedule=train.schedule.name,
        warmup_steps=train.schedule.warmup_steps,
        decay_steps=getattr(train.schedule, "decay_steps", 0),
        min_lr_ratio=min_lr_ratio,
        lr_span=1.0 - min_lr_ratio,
        grad_clip=train.grad_clip,
        init_std=train.init_std,
        seed=train.seed,
        data_seed=spec.data.seed if spec.data else 0,
        has_validation=spec.data is not None and spec.data.split.valid > 0,
        validate_every=train.validation.every_steps,
        validation_batches=train.validation.batches,
        checkpoint_every=train.checkpoint.every_steps,
        checkpoints_kept=train.checkpoint.keep,
        flops_per_token=scientific(facts.flops_per_token),
        flops_words="forward and backward",
        peak_flops_per_s=scientific(facts.peak_flops_per_s),
        peak_words=facts.peak_words,
    )


def _steps_reason(train: Train, *, steps: int, tokens_per_step: int) -> str:
    """Why so many steps, where the spec gives tokens."""
    if train.tokens is None:
        return f"{count(steps * tokens_per_step)} tokens"
    return f"{count(train.tokens)} tokens, {plural(tokens_per_step, 'token')} a step, rounded up"
