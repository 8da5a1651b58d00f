"""Constants of the cost model: each with its origin. Data only; compute.py and step.py hold the formulas.

Sources, by short name:

`kernels`   op tables of the public `aiconfigurator-core` wheel (A100, H100, H200, B200), law fitted on 2-5 % of the points
`training`  592 published training rows, mechanisms with ten to twenty constants by least squares on log ratios
`cpu`       the generated program's own ops, bf16, one thread of a server with avx512_bf16, processor time, best of three
"""

from __future__ import annotations

from dataclasses import dataclass

from .provenance import Origin, Spread


@dataclass(frozen=True)
class Law:
    """Constants of `t0 + max(flops / (e_c · peak), bytes / (e_m · bandwidth))` for one class of ops."""

    launch_s: float
    """t0"""
    compute_share: float
    """e_c: share of the matrix units' peak that is reached."""
    memory_share: float
    """e_m: share of the memory bandwidth that is reached."""
    origin: Origin
    source: str


@dataclass(frozen=True)
class DeviceConstants:
    """What a family of devices reaches of its datasheet."""

    matmul: Law
    matmul_fp8: Law
    attention_share: float
    """Share of the bf16 peak that flash attention tends to with long sequences and large heads."""
    attention_half_tokens: float
    """Sequence at which it reaches half of that."""
    attention_half_head: float
    """Head size at which it reaches half of that."""
    attention_backward: float
    """Time of the backward pass over that of the forward pass."""
    attention_origin: Origin
    attention_source: str
    memory_share: float
    """Share of the memory bandwidth that norms, activations and the optimizer reach."""
    step_overhead_s: float
    micro_batch_overhead_s: float
    moe_layer_overhead_s: float
    spread: Spread
    """Of a whole step's time, for a dense model in 2-byte formats; see `spread_of`."""


ATTENTION_BACKWARD = 2.5 / 0.85
"""Flash attention backward: 2.5 × the forward FLOPs at 0.85 of its rate (`training`)."""
EXPERT_SHARE = 0.78
"""Grouped GEMMs of experts reach this share of a dense one (`training`)."""

_H100 = Law(3.5e-6, 0.72, 0.81, "fitted", "e_c `training` (0.70-0.74), t0 and e_m `kernels`")
_A100 = Law(2.8e-6, 0.76, 0.70, "fitted", "e_c `training`, t0 and e_m `kernels`")
_B200 = Law(4.0e-6, 0.50, 0.88, "fitted", "e_c `training`, t0 and e_m `kernels`")
_KNOWN = Spread(low=0.88, high=1.42)  # 5th and 95th percentile of measured over predicted, 351 dense 2-byte rows
_UNKNOWN = Spread(low=0.68, high=1.7)  # 43 rows: 0.68-1.31; an accelerator never seen is 25-100 % off


def _gpu(bf16: Law, fp8: Law, *, origin: Origin, spread: Spread, attention: float = 0.56) -> DeviceConstants:
    return DeviceConstants(
        matmul=bf16,
        matmul_fp8=fp8,
        attention_share=attention,
        attention_half_tokens=770.0,
        attention_half_head=54.0,
        attention_backward=ATTENTION_BACKWARD,
        attention_origin=origin,
        attention_source="`training`: 0.56 · s/(s+770) · d/(d+54)",
        memory_share=0.80,
        step_overhead_s=0.14,
        micro_batch_overhead_s=1.3e-3,
        moe_layer_overhead_s=1.0e-3,
        spread=spread,
    )


HOPPER = _gpu(_H100, Law(7.0e-6, 0.47, 0.75, "fitted", "`kernels`"), origin="fitted", spread=_KNOWN)
AMPERE = _gpu(_A100, _A100, origin="fitted", spread=_KNOWN)
BLACKWELL = _gpu(_B200, Law(6.3e-6, 0.49, 0.66, "fitted", "`kernels`"), origin="fitted", spread=_KNOWN, attention=0.45)

_ANY = Law(4.0e-6, 0.60, 0.75, "assumed", "between Ampere and Blackwell")
OTHER_GPU = _gpu(_ANY, _ANY, origin="assumed", spread=_UNKNOWN, attention=0.40)
NPU = _gpu(
    Law(10e-6, 0.60, 0.70, "assumed", "carried over from GPUs; one public GEMM figure of 910B is 0.87 of its peak"),
    Law(10e-6, 0.50, 0.70, "assumed", "carried over from GPUs"),
    origin="assumed",
    spread=_UNKNOWN,
    attention=0.35,
)
TPU = DeviceConstants(
    matmul=Law(2.0e-6, 0.72, 0.80, "assumed", "carried over from Hopper; XLA fuses, so fewer launches"),
    matmul_fp8=Law(2.0e-6, 0.60, 0.80, "assumed", "carried over from Hopper"),
    attention_share=0.45,
    attention_half_tokens=770.0,
    attention_half_head=54.0,
    attention_backward=ATTENTION_BACKWARD,
    attention_origin="assumed",
    attention_source="carried over from GPUs",
    memory_share=0.80,
    step_overhead_s=0.02,
    micro_batch_overhead_s=0.2e-3,
    moe_layer_overhead_s=0.5e-3,
    spread=_UNKNOWN,
)
CPU = DeviceConstants(
    matmul=Law(10e-6, 0.82, 0.80, "measured", "`cpu`: products of a training step at 0.81-0.98 of torch.mm's rate"),
    matmul_fp8=Law(10e-6, 0.82, 0.80, "assumed", "as bf16: no fp8 units"),
    attention_share=0.60,
    attention_half_tokens=64.0,
    attention_half_head=16.0,
    attention_backward=1.9,
    attention_origin="measured",
    attention_source="`cpu`: generated kernel at 0.37 of torch.mm's rate forward, 0.50 backward, 256 tokens, heads of 64",
    memory_share=0.50,
    step_overhead_s=5e-3,
    micro_batch_overhead_s=5e-3,
    moe_layer_overhead_s=1e-3,
    spread=Spread(low=0.7, high=1.5),
)

BY_NAME: tuple[tuple[str, DeviceConstants], ...] = (
    ("a100", AMPERE),
    ("a800", AMPERE),
    ("h100", HOPPER),
    ("h200", HOPPER),
    ("h800", HOPPER),
    ("gh200", HOPPER),
    ("b200", BLACKWELL),
    ("b300", BLACKWELL),
    ("gb200", BLACKWELL),
    ("gb300", BLACKWELL),
)
"""What a catalog name starts with -> its family; the rest go by the kind of device."""
BY_KIND: dict[str, DeviceConstants] = {"gpu": OTHER_GPU, "npu": NPU, "tpu": TPU, "cpu": CPU}


NARROW = Spread(low=0.68 / 0.88, high=1.67 / 1.42)
"""What fp8 and fp4 recipes add (74 rows): their share of the products differs from software to software."""
EXPERTS = Spread(low=0.40, high=1.5)
"""What experts add (119 rows): dispatch, imbalance and the software's age are first-order and not known."""


def spread_of(constants: DeviceConstants, *, is_narrow: bool, has_experts: bool) -> Spread:
    """How far off a step's time may be: 90 % of published rows of its kind lie within."""
    low, high = constants.spread.low, constants.spread.high
    for applies, more in ((is_narrow, NARROW), (has_experts, EXPERTS)):
        if applies:
            low, high = low * more.low, high * more.high
    return Spread(low=low, high=high)


def constants_of(*, name: str | None, kind: str) -> DeviceConstants:
    """The constants of a device."""
    for prefix, constants in BY_NAME:
        if name is not None and name.startswith(prefix):
            return constants
    return BY_KIND[kind]


@dataclass(frozen=True)
class Overlap:
    """How much of communication hides behind compute."""

    tp_exposed_sp: float = 0.39  # `training`: Hopper and later, with sequence parallelism
    tp_exposed: float = 0.90  # `training`: without
    fsdp_window: float = 0.80  # `training`: share of a layer's compute that its gathers hide behind
    slowdown: float = 0.38  # `training`: hidden communication slows compute by this share of itself
    ep_exposed: float = 0.38  # `training`
    imbalance: float = 0.5  # `training`: uneven stages count at half their nominal strength


OVERLAP = Overlap()
SCALE_PER_DOUBLING = 0.013
"""`training`: 1.3 % of a step a doubling beyond 8 devices."""
