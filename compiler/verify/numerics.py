"""Is a layout's program the same computation as the program for one device? Asked of a small model, in float64.

Both programs come from the templates that the real one comes from, so what is proved is the way they are put together:
which collective stands where, what is divided by what, which rank has which part. Ranks are processes of this machine.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ...spec import catalog
from ...spec.base import place
from ...spec.hardware import Accelerator, Hardware
from ...spec.training import Train, Watch
from ..emit.tree import render_program, write_tree
from ..lower.lower import lower
from ..lower.views import Place
from ..planner.layout import Layout
from .claims import Claim
from .shrink import small_layout, small_spec

if TYPE_CHECKING:
    from ...spec.document import Spec
    from ..planner.plan import Plan

CLOSE = {"loss": 1e-6, "gradient": 1e-9, "weight": 1e-9}
"""Largest difference as a share of the norm; the loss travels in fp32."""


MOST_PROCESSES = 8
SMALL = 10_000_000
"""Of the order of a model's parameters: what trains for three steps in a moment."""


def check_numerics(spec: Spec, plan: Plan, *, built: Path) -> Iterator[Claim]:
    """Loss, gradients and weights after three steps, over all ranks.

    A program that this machine can run is run as it was built; of others a small one is built for the purpose.
    """
    assert plan.train is not None
    runs_here = _runs_here(spec, plan.train.layout)
    layout = plan.train.layout if runs_here else small_layout(plan.train.layout)
    small = spec if runs_here else small_spec(spec, plan.train.layout, layout)
    small = small.model_copy(
        update={"hardware": _this_machine(layout.devices), "serve": None, "train": _unwatched(small)}
    )
    place(small)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        reference = folder / "reference.safetensors"
        _build(small, plan, alone_of(small, layout), folder / "alone")
        if not runs_here:
            _build(small, plan, layout, folder / "ranks")
        _parity("alone", folder / "alone", reference)
        found = json.loads(_parity("ranks", built if runs_here else folder / "ranks", reference))
    title = f"{{}} of {layout.devices} ranks{'' if runs_here else ', small model'}, float64: as on one device"
    if "error" in found:
        yield Claim("numerics", title.format("a step"), "yes", f"rank {found['rank']}: {found['error']}")
        return
    for name, difference in found.items():
        is_close = difference <= CLOSE[name]
        said = "yes" if is_close else f"off by {difference:.1e} of its norm"
        yield Claim("numerics", title.format(name), "yes", said, hint="" if is_close else _HINTS[name])


def alone_of(spec: Spec, layout: Layout) -> Layout:
    """One device that takes all sequences of a step at once; where a micro-batch is looked at by itself, in the same ones."""
    turns = layout.data_parallel * layout.grad_accumulation
    moe = spec.model.moe
    looks_at_one = spec.train is not None and spec.train[0].optimizer.name == "sophia"  # of all ranks
    if looks_at_one:
        return Layout(micro_batch=layout.micro_batch * layout.data_parallel, grad_accumulation=layout.grad_accumulation)
    if moe is not None and moe.router.balance == "aux_loss":
        return Layout(micro_batch=layout.micro_batch, grad_accumulation=turns)
    return Layout(micro_batch=layout.micro_batch * turns)


def _unwatched(spec: Spec) -> tuple[Train, ...]:
    """One device has nobody to watch, and what is watched for changes no number."""
    return tuple(stage.model_copy(update={"watch": Watch()}) for stage in spec.train or ())


_HINTS = {
    "loss": "ranks see other tokens, or divide by another number of them",
    "gradient": "a sum over ranks is missing, doubled or over the wrong group",
    "weight": "the optimizer does not see what one device's would",
}


def _runs_here(spec: Spec, layout: Layout) -> bool:
    """Whether the program itself is small enough, and is for this kind of machine."""
    assert spec.train is not None
    is_plain = spec.hardware.accelerator.kind == "cpu" and spec.train[0].precision == "fp32"
    width = spec.model.hidden_size * max(spec.model.intermediate_size, spec.model.vocab_size)
    return is_plain and layout.devices <= MOST_PROCESSES and width * spec.model.num_layers <= SMALL


def _this_machine(devices: int) -> Hardware:
    entry = catalog.accelerator("cpu")
    known = {key: value for key, value in entry.items() if key in Accelerator.model_fields}
    return Hardware.model_validate({"accelerator": known, "per_node": devices})


def _build(spec: Spec, plan: Plan, layout: Layout, folder: Path) -> None:
    assert plan.train is not None
    small = plan.model_copy(update={"train": plan.train.model_copy(update={"layout": layout}), "serve": None})
    program = lower(spec, small, place=Place(spec_file=folder / "small.yaml", out_dir=folder))
    write_tree(render_program(program, locate=lambda *_: None), folder)


def _parity(what: str, folder: Path, reference: Path) -> str:
    command = [sys.executable, "-W", "ignore", "-m", "llmc.runtimes.pytorch.parity", what, str(folder), str(reference)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the small program for {what} failed:\n{done.stderr[-2000:]}")
    return done.stdout
