"""The view of train.py: one stage of training on one device, every constant worked out."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ...spec.batch import solve_batch
from ...spec.training import LossScaling
from ...spec.units import GIB
from ..cost.moments import CURVATURE_EVERY
from ..emit.literals import prose
from .experts import lower_experts
from .numbers import count, gib, scientific
from .watch import lower_watch

if TYPE_CHECKING:
    from ...spec.batch import Batch
    from ...spec.document import Spec
    from ...spec.model import Model
    from ...spec.training import Train
    from ..kernels.kernel import Kernel
    from ..planner.layout import Layout
    from ..planner.plan import TrainPlan
    from .experts import ExpertsView
    from .watch import WatchView


@dataclass(frozen=True)
class TrainView:
    """What templates/pytorch/train.py.j2 needs, under the name `t`."""

    name: str
    origin: str
    objective_words: str
    plan_lines: tuple[str, ...]
    device: str
    number_format: NumberFormat
    seq_len: int
    micro_batch: int
    micro_batch_reason: str
    grad_accumulation: int
    global_batch: int
    tokens_per_step: int
    steps: int
    steps_reason: str
    optimizer: str
    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    momentum: float
    qkv_rows: tuple[int, int, int] | None
    """Rows of queries, keys and values, where one parameter has all three."""
    schedule: str
    warmup_steps: int
    decay_steps: int
    min_lr_ratio: float
    lr_span: float
    """What the rate falls by, as a share of the peak."""
    grad_clip: float | None
    has_z_loss: bool
    init_std: float
    seed: int
    data_seed: int
    experts: ExpertsView | None
    has_kernel: bool
    """Whether the optimizer is the kernel that keeps bf16 matrices with the rest of their fp32 masters."""
    has_validation: bool
    validate_every: int
    validation_batches: int
    checkpoint_every: int
    checkpoints_kept: int
    flops_per_token: str
    peak_flops_per_s: str
    peak_words: str
    watch: WatchView
    ema_decay: float | None
    recompute: tuple[tuple[str, str], ...] = ()
    """Where layers differ: (argument of recompute_layers, the numbers of its layers as source)."""
    vocab_size: int = 0
    has_data: bool = True
    """Whether data.py says what text there is; else a prepared corpus is given when the program starts."""
    nodes: int = 1
    per_node: int = 1
    autocasts: bool = False
    """Whether narrow numbers are autocast's doing; else FSDP keeps the fp32 weights and computes with narrow ones."""
    scale: ScaleView | None = None
    """In fp16."""
    norms_start_at_zero: bool = False
    """Norms whose weight is stored less one."""
    asks_cuts: bool = False
    """Whether the optimizer has to know what tp cuts."""
    is_offloaded: bool = False
    """Whether the optimizer's states are in the memory of the host."""
    rho: float = 0.0
    """Sophia's scale of the curvature."""
    curvature_every: int = CURVATURE_EVERY

    @property
    def command(self) -> str:
        """What starts it; where there are several nodes, on each of them."""
        program = "train.py" if self.has_data else "train.py --data DIR"
        if self.device == "xla" or self.nodes * self.per_node == 1:
            return f"python {program}"
        meeting = f" --nnodes {self.nodes} --rdzv-backend c10d --rdzv-endpoint HOST:PORT" if self.nodes > 1 else ""
        return f"torchrun --nproc-per-node {self.per_node}{meeting} {program}"

    @property
    def is_narrow(self) -> bool:
        """Whether activations have two bytes."""
        return self.number_format != "fp32"

    @property
    def is_bf16(self) -> bool:
        return self.number_format == "bf16"

    @property
    def asks_bf16(self) -> bool:
        """Whether the number format is found out when the program starts."""
        return self.is_bf16 and self.device == "cpu"

    @property
    def torch_dtype(self) -> str:
        """Of activations."""
        return TORCH_DTYPES[self.number_format]

    @property
    def optimizer_imports(self) -> list[tuple[str, str]]:
        """(module, name) of runtimes/pytorch/optimizers/ that train.py uses."""
        found = [("average", "keep_average")] if self.ema_decay is not None else []
        if self.is_offloaded:
            found.append(("host", "HostAdamW"))
        if self.optimizer != "adamw":
            name = self.optimizer.capitalize()
            found.append((self.optimizer, f"{name}, draws" if self.optimizer == "sophia" else name))
        return sorted(found)

    @property
    def optimizer_class(self) -> str:
        """How far train.py has to know it."""
        if self.is_offloaded:
            return "HostAdamW"
        return {"adamw": "AdamW" if self.has_kernel else _ANY, "sophia": "Sophia"}.get(self.optimizer, _ANY)


NumberFormat = Literal["fp32", "bf16", "fp16"]
TORCH_DTYPES: dict[NumberFormat, str] = {"fp32": "torch.float32", "bf16": "torch.bfloat16", "fp16": "torch.float16"}


def number_format(train: Train) -> NumberFormat:
    """Of activations: where products are in fp8, bf16 lies between them."""
    return train.precision if train.precision in ("fp32", "fp16") else "bf16"


@dataclass(frozen=True)
class ScaleView:
    """Of the loss."""

    start: float
    double_every: int


def _scale(train: Train) -> ScaleView | None:
    if train.precision != "fp16":
        return None
    scaling = train.loss_scale or LossScaling()
    return ScaleView(scaling.start, scaling.double_every_steps)


_ANY = "torch.optim.Optimizer"
_OBJECTIVE_WORDS = {"causal_lm": "predict each next token"}


def lower_train(spec: Spec, plan: TrainPlan, *, origin: str, device: str, kernels: tuple[Kernel, ...]) -> TrainView:
    """The one stage of the spec."""
    assert spec.train is not None
    train, layout = spec.train[0], plan.layout
    batch = solve_batch(train, spec.parallel, layout.data_parallel)
    optimizer, schedule = train.optimizer, train.schedule
    tokens_per_step = batch.global_batch * batch.seq_len
    min_lr_ratio = getattr(schedule, "min_lr_ratio", 0.0)
    flops_per_token = plan.predicted.model_tflops_per_device * 1e12 / plan.predicted.tokens_per_s_per_device
    return TrainView(
        name=spec.name,
        origin=origin,
        objective_words=_OBJECTIVE_WORDS.get(train.objective.kind, train.objective.kind),
        plan_lines=_plan_lines(spec, plan, batch=batch),
        device=device,
        number_format=number_format(train),
        seq_len=batch.seq_len,
        micro_batch=layout.micro_batch,
        micro_batch_reason=f"its activations take {gib(plan.predicted.memory_gib.activations * GIB)}",
        grad_accumulation=layout.grad_accumulation,
        global_batch=batch.global_batch,
        tokens_per_step=tokens_per_step,
        steps=batch.steps,
        steps_reason=_steps_reason(train, batch=batch),
        optimizer=optimizer.name,
        lr=optimizer.lr,
        betas=getattr(optimizer, "betas", (0.0, 0.0)),
        eps=getattr(optimizer, "eps", 0.0),
        weight_decay=optimizer.weight_decay,
        momentum=getattr(optimizer, "momentum", 0.0),
        qkv_rows=_qkv_rows(spec.model),
        schedule=schedule.name,
        warmup_steps=schedule.warmup_steps,
        decay_steps=getattr(schedule, "decay_steps", 0),
        min_lr_ratio=min_lr_ratio,
        lr_span=1.0 - min_lr_ratio,
        grad_clip=train.grad_clip,
        has_z_loss=train.z_loss > 0,
        init_std=train.init_std,
        seed=train.seed,
        data_seed=spec.data.seed if spec.data else 0,
        experts=lower_experts(spec),
        has_kernel=any(kernel.name == "adamw" for kernel in kernels),
        has_validation=spec.data is not None and spec.data.split.valid > 0,
        validate_every=train.validation.every_steps,
        validation_batches=train.validation.batches,
        checkpoint_every=train.checkpoint.every_steps,
        checkpoints_kept=train.checkpoint.keep,
        flops_per_token=scientific(flops_per_token),
        peak_flops_per_s=scientific(
            layout.devices * plan.predicted.model_tflops_per_device * 1e12 / plan.predicted.mfu
        ),
        peak_words=f"{_devices(spec, layout)} in {train.precision}",
        nodes=spec.hardware.nodes if spec.hardware.nodes * _per_node(spec) == layout.devices else 1,
        per_node=_per_node(spec) if spec.hardware.nodes * _per_node(spec) == layout.devices else layout.devices,
        watch=lower_watch(train),
        ema_decay=train.ema_decay,
        autocasts=train.precision != "fp32" and layout.data_parallel * layout.cp == 1,
        scale=_scale(train),
        recompute=_recompute(layout, num_layers=spec.model.num_layers),
        vocab_size=spec.model.vocab_size,
        has_data=spec.data is not None,
        norms_start_at_zero=spec.model.norm.unit_offset,
        is_offloaded=layout.offload is not None,
        rho=getattr(optimizer, "rho", 0.0),
        asks_cuts=layout.tp > 1 and optimizer.name in ("adafactor", "muon"),
    )


def _qkv_rows(model: Model) -> tuple[int, int, int] | None:
    """None: latent attention, whose projections are apart."""
    if model.attention.kind == "mla":
        return None
    kv_heads = 1 if model.attention.kind == "mqa" else model.num_kv_heads
    return model.num_heads * model.head_dim, kv_heads * model.head_dim, kv_heads * model.head_dim


def _plan_lines(spec: Spec, plan: TrainPlan, *, batch: Batch) -> tuple[str, ...]:
    """What the head of the program says about the plan."""
    predicted, accelerator = plan.predicted, spec.hardware.accelerator
    memory = predicted.memory_gib
    parts = {"parameters": memory.parameters, "gradients": memory.gradients, "optimizer": memory.optimizer}
    parts |= {"activations": memory.activations, "buffers": memory.buffers}
    listed = ", ".join(f"{name} {gib(size * GIB)}" for name, size in sorted(parts.items(), key=lambda part: -part[1]))
    return (
        f"Plan: {'' if plan.layout.devices > 1 else 'one '}{_devices(spec, plan.layout)}, {batch.steps:,} steps of {batch.global_batch} sequences of {batch.seq_len:,} tokens, in {spec.train[0].precision if spec.train else ''}.",
        f"Expected: {predicted.step_time_s:.3g} s a step, {predicted.tokens_per_s:,.0f} tokens/s, {gib(memory.peak * GIB)} of {accelerator.memory_gib:.4g} GiB{' a device' if plan.layout.devices > 1 else ''}:",
        f"{listed}.",
        *(
            ("Devices of type npu are those of torch-npu, which torch loads by itself.",)
            if accelerator.kind == "npu"
            else ()
        ),
    )


def _device(spec: Spec) -> str:
    accelerator = spec.hardware.accelerator
    return accelerator.name or accelerator.like or accelerator.kind


_RECOMPUTED = {"full": "whole", "selective": "attention"}


def _recompute(layout: Layout, *, num_layers: int) -> tuple[tuple[str, str], ...]:
    """Runs of layers as ranges."""
    if layout.recompute != "mixed":
        return ()
    runs: dict[str, list[str]] = {}
    first = 0
    for how, group in itertools.groupby(layout.recompute_of_layers(num_layers)):
        last = first + len(list(group))
        if how in _RECOMPUTED:
            runs.setdefault(_RECOMPUTED[how], []).append(f"range({first}, {last})")
        first = last
    return tuple(
        (name, ranges[0] if len(ranges) == 1 else f"[{', '.join(f'*{each}' for each in ranges)}]")
        for name, ranges in sorted(runs.items(), reverse=True)
    )


def _devices(spec: Spec, layout: Layout) -> str:
    device = prose(_device(spec))
    return f"{layout.devices:,} x {device}" if layout.devices > 1 else device


def _per_node(spec: Spec) -> int:
    return spec.hardware.per_node or spec.hardware.accelerator.per_node


def _steps_reason(train: Train, *, batch: Batch) -> str:
    """Why so many steps."""
    if train.tokens is None or train.tokens == batch.tokens:
        return f"{count(batch.tokens)} tokens"
    return f"{count(train.tokens)} tokens, rounded up to whole steps"
