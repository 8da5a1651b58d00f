"""Number formats that a program does not train in: of a kind of accelerator, of a model, of a layout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ..planner.enumerate import SPLITS_BACKWARD

if TYPE_CHECKING:
    from ...spec.base import Path
    from ...spec.document import Spec
    from ...spec.model import Model
    from ...spec.training import Train
    from ..planner.layout import Layout

_LOWERED = {"tpu": ("bf16", "fp32"), "npu": ("bf16", "fp32", "fp16")}
_ON_OTHERS = ("bf16", "fp32", "fp16", "fp8")
ALIGNED = 16
"""Numbers: fp8 units take rows whose lengths are multiples of it."""


def precision_faults(spec: Spec, stage: Train) -> Iterator[tuple[Path, str]]:
    """(place in the stage, message) of what no layout changes."""
    accelerator, place = spec.hardware.accelerator, ("precision",)
    lowered = _LOWERED.get(accelerator.kind, _ON_OTHERS)
    if stage.precision not in lowered:
        where = f" for a {accelerator.kind}" if accelerator.kind in _LOWERED else ""
        yield place, f"training in {stage.precision} is not lowered{where} yet; in {_listed(lowered)} it is"
    elif stage.precision == "fp8":
        yield from ((place, message) for message in _fp8_faults(spec))
    if stage.loss_scale is not None and stage.precision != "fp16":
        yield ("loss_scale",), f"`loss_scale` is for fp16, and {stage.precision} has the range of fp32: leave it out"
    if stage.precision == "fp16" and stage.optimizer.name == "sophia":
        message = "sophia's estimates want a scale of their own in fp16, which is not lowered yet; in bf16 and fp32 they need none"
        yield place, message


def _fp8_faults(spec: Spec) -> Iterator[str]:
    accelerator, model = spec.hardware.accelerator, spec.model
    if accelerator.kind == "gpu" and accelerator.peak_tflops.fp8 is None:
        has = [name for name, peak in accelerator.peak_tflops.model_dump().items() if peak and name in _ON_OTHERS]
        name = accelerator.name or accelerator.like or "this accelerator"
        yield f"{name} has no units for fp8; it has them for {_listed(has)}"
    if model.moe is not None:
        yield "training in fp8 with experts, whose products are grouped, is not lowered yet; dense models are, and experts in bf16"
    if model.attention.kind == "mla":
        yield "training in fp8 with latent attention is not lowered yet; attention with heads of their own is, and latent in bf16"
    if spec.serve is not None:
        yield "a program that trains in fp8 serves nothing yet; a spec with `serve` alone, of its weights, does"


def precision_layout_faults(spec: Spec, layout: Layout) -> Iterator[str]:
    """The search leaves such layouts out."""
    if spec.train is None or spec.train[0].precision != "fp8":
        return
    if layout.pp > 1 and layout.schedule in SPLITS_BACKWARD:
        yield f"{layout.schedule}, which computes gradients of weights by themselves, is not lowered in fp8 yet; 1f1b and interleaved_1f1b are"
    tokens = layout.micro_batch * spec.train[0].seq_len // layout.cp
    for what, number in {"tokens of a micro-batch": tokens, **_widths(spec.model, layout.tp)}.items():
        if number % ALIGNED:
            yield f"{number} {what} on a device are no multiple of {ALIGNED}, which products in fp8 want; in bf16 they may be any number"


def _widths(model: Model, tp: int) -> dict[str, int]:
    kv_heads = 1 if model.attention.kind == "mqa" else model.num_kv_heads
    heads = model.num_heads // tp
    return {
        "numbers of a hidden state": model.hidden_size,
        "numbers of queries": heads * model.head_dim,
        "numbers of queries, keys and values": (heads + 2 * max(1, kv_heads // tp)) * model.head_dim,
        "feed-forward numbers": model.intermediate_size // tp,
    }


def _listed(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
