"""What the language admits and no backend lowers yet: diagnostics that name the place and what works today.

`refuse_spec` needs the spec alone: nothing of llmc could treat such a spec, so `llmc plan` refuses it too.
`refuse_program` is for what can be planned and not yet built.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...spec.diagnostics import diagnose
from ..backends.table import BACKENDS
from ..deploy.refuse import refuse_deploy
from .model import longest_sequence
from .optimizer import offload_layout_faults, optimizer_faults, optimizer_layout_faults
from .pipeline import pipeline_faults
from .precision import precision_faults, precision_layout_faults
from .refuse_experts import refuse_experts
from .refuse_serving import refuse_server
from .spmd import spmd_faults, spmd_layout_faults
from .watch import watch_faults

if TYPE_CHECKING:
    from ...spec.base import Path
    from ...spec.diagnostics import Diagnostic
    from ...spec.document import Spec
    from ...spec.training import Train
    from ..planner.layout import Layout
    from ..planner.plan import Plan

_SECTIONS = {
    "compress": "compression of a trained model",
    "eval": "evaluation of a trained model",
}
"""Sections that no pass reads yet."""


def refuse_spec(spec: Spec) -> Iterator[Diagnostic]:
    """What neither a plan nor a program can be made of yet."""
    for section, what in _SECTIONS.items():
        if getattr(spec, section) is not None:
            yield _refused(
                f"`{section}` ({what}) is not lowered yet; model, data, train and serve are", (section,), part="key"
            )
    if spec.train is not None and len(spec.train) > 1:
        message = f"{len(spec.train)} training stages are not lowered yet; a single one is"
        yield _refused(message, ("train", 1), part="key")
    if spec.serve is not None and spec.serve.speculative is not None:
        message = "speculative decoding is not lowered yet; plain decoding is: `speculative: null`"
        yield _refused(message, ("serve", "speculative"), part="key")


def refuse_program(spec: Spec, plan: Plan) -> Iterator[Diagnostic]:
    """What can be planned, and not yet built."""
    yield from refuse_spec(spec)
    if spec.assume is not None:
        message = "`assume` describes another program, to be planned and not built; without it ours is"
        yield _refused(message, ("assume",), part="key")
    accelerator = spec.hardware.accelerator
    if accelerator.kind not in BACKENDS:
        message = f"programs for a {accelerator.kind} are not lowered yet; those for {_either(BACKENDS)} are"
        yield _refused(message, ("hardware", "accelerator"))
    if spec.train is None and spec.serve is None:
        yield _refused("a spec without `train` or `serve` has no program; give one of them", ("model",), part="key")
    yield from _model(spec)
    if accelerator.kind == "tpu":
        for place, message in spmd_faults(spec):
            yield _refused(message, place, part="key")
    if accelerator.kind == "npu":
        yield from _ascend(spec)
    for number, stage in enumerate(spec.train or ()):
        yield from _training(spec, stage, ("train", number))
        for name, message in watch_faults(stage, plan.train, kind=accelerator.kind):
            yield _refused(message, ("train", number, "watch", name), part="key")
    if plan.train is not None:
        yield from refuse_layout(spec, plan.train.layout)
    if spec.serve is not None:
        yield from refuse_server(spec, plan)
    yield from refuse_deploy(spec, plan)


def _model(spec: Spec) -> Iterator[Diagnostic]:
    model = spec.model
    if model.kind != "decoder":
        yield _refused(f"models of kind {model.kind} are not lowered yet; kind decoder is", ("model", "kind"))
    if model.attention.kind == "mla" and model.norm.unit_offset and model.attention.latent_norm_eps != model.norm.eps:
        message = (
            f"norms of latents with another epsilon ({model.attention.latent_norm_eps:g}) than the others"
            f" ({model.norm.eps:g}) are not lowered yet for norms with `unit_offset`; with the same one they are"
        )
        yield _refused(message, ("model", "attention", "latent_norm_eps"))
    if model.head.normalize:
        message = "a head with normalised rows (Baichuan 2) is not lowered yet; a plain one is: `normalize: false`"
        yield _refused(message, ("model", "head", "normalize"))
    scaling = getattr(model.position, "scaling", None)
    longest = longest_sequence(spec)
    if scaling is not None and scaling.kind == "dynamic" and longest > model.max_seq_len:
        message = (
            f"dynamic scaling of sequences of {longest:,} tokens, beyond `max_seq_len` {model.max_seq_len:,}, is not"
            " lowered yet; linear, llama3, yarn and longrope are, and dynamic within `max_seq_len`"
        )
        yield _refused(message, ("model", "position", "scaling"), part="key")


def refuse_layout(spec: Spec, layout: Layout) -> Iterator[Diagnostic]:
    """Layouts of several devices that can be priced and are not lowered yet; the search leaves them out (planner/train_plan.py)."""
    attention, position = spec.model.attention, spec.model.position.kind
    for message in offload_layout_faults(spec, layout):
        yield _refused(message, ("parallel", "offload"))
    if spec.hardware.accelerator.kind == "tpu":
        for field, message in spmd_layout_faults(spec, layout):
            yield _refused(message, ("parallel", field), part="key")
        return
    for message in optimizer_layout_faults(spec, layout):
        yield _refused(message, ("train", 0, "optimizer", "name"))
    for message in precision_layout_faults(spec, layout):
        yield _refused(message, ("train", 0, "precision"))
    for message in pipeline_faults(spec, layout):
        yield _refused(message, ("parallel",), part="key")
    if spec.model.moe is not None:
        yield from refuse_experts(spec.model, spec.model.moe, layout)
    if layout.tp > 1 and getattr(attention, "qk_norm", None) == "full":
        message = f"a norm over all heads (qk_norm: full) that tp {layout.tp} cuts is not lowered; qk_norm: head is"
        yield _refused(message, ("model", "attention", "qk_norm"))
    if layout.tp > 1 and position == "alibi":
        message = f"ALiBi with heads that tp {layout.tp} cuts is not lowered yet; with tp 1 it is"
        yield _refused(message, ("model", "position"), part="key")
    if layout.cp > 1 and layout.cp_kind == "ring" and spec.hardware.accelerator.kind == "npu":
        message = f"a ring of cp {layout.cp} is not lowered for an npu yet; `cp_kind: ulysses` is"
        yield _refused(message, ("parallel", "cp"), part="key")
    if layout.cp > 1:
        beside = [name for name in ("window", "softcap", "sinks") if getattr(attention, name, None)]
        beside += ["alibi"] if position == "alibi" else []
        if beside:
            message = (
                f"{_either(beside)} in sequences that cp {layout.cp} cuts is not lowered yet; plain causal attention is"
            )
            yield _refused(message, ("model", "attention"), part="key")
    if spec.serve is not None and (layout.tp > 1 or layout.cp > 1 or layout.pp > 1):
        message = "a program that trains with tp, cp or pp serves nothing yet; a spec with `serve` alone, of its weights, does"
        yield _refused(message, ("serve",), part="key")


def _ascend(spec: Spec) -> Iterator[Diagnostic]:
    accelerator = spec.hardware.accelerator
    if accelerator.vendor not in (None, "huawei"):
        name = accelerator.name or accelerator.like or "this NPU"
        message = f"programs for {name} are not lowered yet, though plans are made; of NPUs those for Ascend are"
        yield _refused(message, ("hardware", "accelerator"))


def _training(spec: Spec, stage: Train, path: Path) -> Iterator[Diagnostic]:
    if stage.objective.kind != "causal_lm":
        message = f"the objective {stage.objective.kind} is not lowered yet; causal_lm is"
        yield _refused(message, (*path, "objective"))
    for name, message in (*precision_faults(spec, stage), *optimizer_faults(spec, stage)):
        yield _refused(message, (*path, *name))


def _either(names: object) -> str:
    return " and ".join(names)  # type: ignore[arg-type]


def _refused(message: str, path: Path, *, part: str = "value") -> Diagnostic:
    return diagnose("L301", message, path=path, part="key" if part == "key" else "value")
