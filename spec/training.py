"""The training recipe: how many tokens, which optimizer and schedule, what is saved, what is watched."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Strict

from .base import Node
from .objective import Objective
from .units import Count, Fraction, NonNegative, Positive, Seconds, Seed, Sequences, Steps, StepsOrZero, Tokens

Precision = Literal["fp32", "bf16", "fp16", "fp8", "mxfp8", "nvfp4"]
Beta = Annotated[float, Strict(), Field(ge=0, lt=1)]


class AdamW(Node):
    """Adam with decoupled weight decay (Loshchilov 2019)."""

    name: Literal["adamw"] = Field(description="Adam with decoupled weight decay.")
    lr: Positive = Field(description="Peak learning rate.")
    betas: tuple[Beta, Beta] = Field(default=(0.9, 0.95), description="Decay of the first and second moment.")
    eps: Positive = Field(default=1e-8, description="Added to the root of the second moment.")
    weight_decay: NonNegative = Field(
        default=0.1, description="Decay of matrices; vectors (norms, biases) are not decayed."
    )


class Adafactor(Node):
    """Adam with a factored second moment (Shazeer 2018)."""

    name: Literal["adafactor"] = Field(description="A factored second moment.")
    lr: Positive = Field(
        description="Peak learning rate, relative to the root mean square of each parameter; at most 1 / sqrt(step)."
    )
    weight_decay: NonNegative = Field(default=0.0, description="Decay of matrices.")


class Lion(Node):
    """The sign of an interpolated momentum (Chen 2023)."""

    name: Literal["lion"] = Field(description="The sign of an interpolated momentum.")
    lr: Positive = Field(description="Peak learning rate.")
    betas: tuple[Beta, Beta] = Field(default=(0.9, 0.99), description="Interpolation and decay of the momentum.")
    weight_decay: NonNegative = Field(default=0.1, description="Decay of matrices.")


class Muon(Node):
    """Orthogonalised momentum for matrices, AdamW for the rest (Jordan 2024)."""

    name: Literal["muon"] = Field(description="Orthogonalised momentum for matrices.")
    lr: Positive = Field(description="Peak learning rate.")
    momentum: Beta = Field(default=0.95, description="Decay of the momentum.")
    betas: tuple[Beta, Beta] = Field(
        default=(0.9, 0.95), description="Decay of AdamW's first and second moment, for embedding, head and vectors."
    )
    eps: Positive = Field(default=1e-8, description="Added to the root of AdamW's second moment.")
    weight_decay: NonNegative = Field(default=0.1, description="Decay of matrices.")


class Sophia(Node):
    """A clipped diagonal second-order step (Liu 2023)."""

    name: Literal["sophia"] = Field(description="A clipped diagonal second-order step.")
    lr: Positive = Field(description="Peak learning rate.")
    betas: tuple[Beta, Beta] = Field(default=(0.965, 0.99), description="Decay of the gradient and of the curvature.")
    rho: Positive = Field(
        default=0.04, description="Scale of the curvature: where momentum exceeds rho times it, a step is clipped."
    )
    weight_decay: NonNegative = Field(default=0.1, description="Decay of matrices.")


Optimizer = Annotated[AdamW | Adafactor | Lion | Muon | Sophia, Field(discriminator="name")]


class _Warmup(Node):
    warmup_steps: StepsOrZero = Field(default=0, description="Steps in which the rate rises linearly from zero.")


class Cosine(_Warmup):
    """A half cosine from the peak down."""

    name: Literal["cosine"] = Field(description="A half cosine from the peak down.")
    min_lr_ratio: Fraction = Field(default=0.1, description="The last rate as a share of the peak.")


class Linear(_Warmup):
    """A straight line from the peak down."""

    name: Literal["linear"] = Field(description="A straight line from the peak down.")
    min_lr_ratio: Fraction = Field(default=0.0, description="The last rate as a share of the peak.")


class Constant(_Warmup):
    """The peak throughout."""

    name: Literal["constant"] = Field(description="The peak throughout.")


class Wsd(_Warmup):
    """Warm up, stay, decay (Hu 2024)."""

    name: Literal["wsd"] = Field(description="Warm up, stay, decay.")
    decay_steps: Steps = Field(description="Steps of the decay at the end.")
    min_lr_ratio: Fraction = Field(default=0.0, description="The last rate as a share of the peak.")


class InverseSqrt(_Warmup):
    """The peak, divided by the root of the steps since warm-up (Vaswani 2017)."""

    name: Literal["inverse_sqrt"] = Field(description="Falls with the root of the step.")


Schedule = Annotated[Cosine | Linear | Constant | Wsd | InverseSqrt, Field(discriminator="name")]


class Checkpoint(Node):
    """What is saved, and how often."""

    every_steps: Steps = Field(default=1000, description="Steps between two checkpoints.")
    keep: Count = Field(default=2, description="How many of the latest checkpoints stay on disk.")


class LossScaling(Node):
    """How the scale of the loss moves in fp16."""

    start: Positive = Field(default=65536.0, description="The first scale; a power of two changes no digit.")
    double_every_steps: Steps = Field(
        default=2000,
        description="Steps without overflow after which it doubles; a step that overflows is not taken, and halves it.",
    )


class Validation(Node):
    """Loss on text that training does not see."""

    every_steps: Steps = Field(default=100, description="Steps between two validations.")
    batches: Count = Field(default=8, description="Micro-batches a validation reads; the same ones each time.")


class _BadStep(Node):
    spike_ratio: Annotated[float, Strict(), Field(gt=1)] | None = Field(
        default=2.0,
        description="A loss beyond this many times the median of `window_steps` is a spike; null: only what is no number counts.",
    )
    window_steps: Steps = Field(
        default=50,
        description="Latest sound steps that a loss is held against; before there are so many, none is a spike.",
    )
    most_in_a_row: Count = Field(
        default=10, description="So many such steps in a row are left out; one more ends the run."
    )


class SkipBatch(_BadStep):
    """The batch is left out, and the weights stay as they are."""

    policy: Literal["skip"] = Field(description="The batch is left out, and the weights stay as they are.")


class RollBack(_BadStep):
    """Back to the latest checkpoint, and on with the text behind the batch (Chowdhery 2022)."""

    policy: Literal["roll_back"] = Field(
        description="Back to the latest checkpoint, and on with the text behind the batch."
    )


class LowerRate(_BadStep):
    """The batch is left out, and the rate is lower for a while."""

    policy: Literal["lower_rate"] = Field(description="The batch is left out, and the rate is lower for a while.")
    lr_ratio: Annotated[float, Strict(), Field(gt=0, lt=1)] = Field(
        default=0.5, description="What the rate is multiplied by, once for each such step."
    )
    lr_steps: Steps = Field(default=100, description="Steps until a multiplication ends.")


BadStep = Annotated[SkipBatch | RollBack | LowerRate, Field(discriminator="policy")]
HangSeconds = Annotated[Seconds, Field(lt=600)]


class Watch(Node):
    """What a run watches itself for; null: nothing."""

    divergence: BadStep | None = Field(
        default=None,
        description="What is done about a step whose loss or gradient is no number, or whose loss is a spike; null: the first ends the run.",
    )
    hang_s: HangSeconds | None = Field(
        default=None,
        description="Seconds without the end of a step after which a run of several devices says which rank and collective it waits for, and ends; below the 10 minutes of NCCL.",
    )
    stragglers_every_steps: Steps | None = Field(
        default=None, description="Steps between two reports of the slowest of several devices; null: none."
    )


class Train(Node):
    """One stage of training. Tokens, steps and batch sizes are solved: give any sufficient subset."""

    objective: Objective = Field(description="What the model learns to do.")
    tokens: Tokens | None = Field(default=None, description="Tokens to train on; null: steps times the batch.")
    steps: Steps | None = Field(
        default=None, description="Optimizer steps; null: tokens divided by the batch, rounded up."
    )
    seq_len: Tokens = Field(description="Length of a training sequence.")
    global_batch: Sequences | None = Field(
        default=None,
        description="Sequences an optimizer step; null: micro_batch times grad_accumulation times data-parallel ranks.",
    )
    precision: Precision = Field(
        default="bf16", description="Number format of the matrix products; master weights are fp32."
    )
    loss_scale: LossScaling | None = Field(
        default=None, description="How the scale of the loss moves in fp16; null: from 65536 on."
    )
    optimizer: Optimizer = Field(default=AdamW(name="adamw", lr=3e-4), description="The optimizer and its constants.")
    schedule: Schedule = Field(default=Cosine(name="cosine"), description="How the learning rate moves.")
    grad_clip: Positive | None = Field(
        default=1.0, description="Largest global norm of the gradient; null: no clipping."
    )
    z_loss: NonNegative = Field(
        default=0.0, description="Weight of the squared log-sum-exp of the logits (PaLM: 1e-4)."
    )
    ema_decay: Annotated[float, Strict(), Field(gt=0, lt=1)] | None = Field(
        default=None,
        description="Decay of a running average of the weights, kept beside them; null: none.",
    )
    init_std: Positive = Field(default=0.02, description="Standard deviation of initial weights.")
    seed: Seed = Field(default=0, description="Seed of initial weights.")
    checkpoint: Checkpoint = Field(default_factory=Checkpoint, description="What is saved, and how often.")
    validation: Validation = Field(default_factory=Validation, description="Loss on text that training does not see.")
    watch: Watch = Field(default_factory=Watch, description="What a run watches itself for.")
