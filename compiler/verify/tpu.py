"""`llmc verify` of a program for TPUs: its graphs, at the plan's shapes and on its mesh, compiled by the compiler of TPUs.

Two models of few layers are compiled and the rest is told from them: each layer adds the same. The verdict on memory is the
compiler's own; what devices send is read from the compiled program.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cost.memory import RUNTIME_BYTES
from .claims import Claim
from .dry import DryRunError
from .environments import ROOT, importable, python_of
from .groups import axis_of, coordinates
from .hlo import PERMUTE, RING, Collective, collectives_of

if TYPE_CHECKING:
    from ..planner.layout import Layout
    from ..planner.plan import TrainPlan

TARGET = "tpu.json"
FEW = (1, 2)
"""Layers of the two models."""
WITHIN = 0.05
TRAFFIC_WITHIN = 0.15
"""A ring that the compiler builds of permutations leaves out a hop, and norms travel beside matrices."""
REFUSED_WITHIN = 0.10
_NEEDS = re.compile(r"\(([\d.]+)([GM])\) exceeds available HBM")
_UNITS = {"G": 1 << 30, "M": 1 << 20}
NOT_HERE = "the TPU compiler's verdict: `make setup-xla` brings torch-xla and libtpu"


@dataclass(frozen=True)
class Compiled:
    """What the compiler says of a graph, on one device."""

    layers: int
    arguments: int
    """Weights, gradients and a batch; results take the place of those that they replace."""
    peak: int
    """Most that is alive at once, arguments included."""
    allocated: int
    """What the compiler sets aside: the peak, and holes that it could not fill."""
    collectives: tuple[Collective, ...]
    refused: str = ""
    """What the compiler said against it; the figures are then those that it named, or 0."""


def is_for_tpus(folder: Path) -> bool:
    return (folder / TARGET).exists()


def check_tpu(
    folder: Path, plan: TrainPlan, *, progress: Callable[[str], None], layers: Sequence[int] = FEW
) -> Iterator[Claim]:
    """The claims that the compiler can judge; with `layers` of one number, the model of so many alone."""
    target = json.loads((folder / TARGET).read_text(encoding="utf-8"))
    found = [compiled_program(folder, target, layers=each, progress=progress) for each in layers]
    fewer, more = found[0], found[-1]
    refused = next((each for each in found if each.refused), None)
    if refused is not None:
        yield _refusal(refused, fewer, more, plan, target)
        return
    yield from _memory(fewer, more, plan, target)
    yield from _traffic(fewer, more, plan.layout, target)


def _memory(fewer: Compiled, more: Compiled, plan: TrainPlan, target: dict[str, Any]) -> Iterator[Claim]:
    """States to 5 %; the whole too, and whether it fits."""
    memory = plan.predicted.memory_gib
    gib = 1 << 30
    states = (memory.parameters + memory.gradients) * gib
    arguments, peak = (_at(fewer, more, target["layers"], name) for name in ("arguments", "peak"))
    yield Claim("memory", "weights and gradients of a device", round(states), arguments, "bytes", WITHIN)
    needed = _needed(peak, plan)
    each, kept = (
        (more.peak - fewer.peak) / max(1, more.layers - fewer.layers),
        memory.activations * gib / target["layers"],
    )
    hint = (
        f"a layer adds {each / gib:.3f} GiB where the plan has {kept / gib:.3f} of activations; the loss and what is beside layers"
        f" come to {(peak - target['layers'] * each) / gib:.2f} GiB, states included (planned: {memory.peak - memory.activations:.2f})"
    )
    yield Claim("memory", "all that a device holds at most", round(memory.peak * gib), needed, "bytes", WITHIN, hint)
    fits = "yes" if needed <= target["hbm_bytes"] else "no"
    yield Claim("memory", f"{target['layers']} layers fit into {target['hbm_bytes'] / gib:.4g} GiB", "yes", fits)


def _at(fewer: Compiled, more: Compiled, layers: int, name: str) -> int:
    """A figure of the whole model: each layer adds what one more added."""
    first, last = getattr(fewer, name), getattr(more, name)
    if more.layers == fewer.layers:
        return last
    return round(first + (last - first) * (layers - fewer.layers) / (more.layers - fewer.layers))


def _needed(peak: int, plan: TrainPlan) -> int:
    """AdamW's moments lie beside the graph that accumulates: they are no arguments of it. The runtime's own is beside all graphs."""
    return peak + round(plan.predicted.memory_gib.optimizer * (1 << 30)) + round(RUNTIME_BYTES["tpu"])


def _refusal(refused: Compiled, fewer: Compiled, more: Compiled, plan: TrainPlan, target: dict[str, Any]) -> Claim:
    """A program that the compiler refused. It names what it would set aside, weights, gradients and the batch included."""
    said = refused.refused.splitlines()[0][:200]
    if not refused.peak:
        return Claim("memory", f"{refused.layers} layers compile", "yes", said)
    planned = round(plan.predicted.memory_gib.peak * (1 << 30))
    needed = _needed(_at(fewer, more, target["layers"], "peak"), plan)
    name = f"{target['layers']} layers, which do not fit"
    return Claim("memory", name, planned, needed, "bytes", REFUSED_WITHIN, said)


def _traffic(fewer: Compiled, more: Compiled, layout: Layout, target: dict[str, Any]) -> Iterator[Claim]:
    """No group that the plan has no axis for; what a layer's weights and gradients come to."""
    groups = Counter(_axis(each, layout) for each in more.collectives)
    strange = sorted(name for name in groups if name.startswith("devices "))
    yield Claim("traffic", "groups that are no axis of the plan", "none", ", ".join(strange) or "none")
    shards = layout.shards if layout.zero == 3 else 1
    if shards == 1 or more.layers == fewer.layers:
        return
    gathers = 3 if layout.recompute == "full" else 2
    counts = Counter(each.kind for each in more.collectives)
    counts.subtract(Counter(each.kind for each in fewer.collectives))
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()) if count)
    carried = [sum(_carried(each, layout, shards) for each in one.collectives) for one in (fewer, more)]
    name = f"a layer's weights and gradients, {gathers} gathers and a sum; compiled to {kinds}"
    planned = (gathers + 1) * target["matrix_bytes"]
    yield Claim("traffic", name, planned, carried[1] - carried[0], "bytes", TRAFFIC_WITHIN)


def _axis(each: Collective, layout: Layout) -> str:
    """Of a permutation only a pair is known, of a ring's first step: that of tp where they differ in nothing else."""
    if each.kind in (PERMUTE, RING):
        one, other = (coordinates(layout, device) for device in each.group)
        return "tp" if {name for name in one if one[name] != other[name]} == {"tp"} else "world"
    if not each.group:
        return "world"
    return axis_of(layout, 0, each.group) or f"devices {', '.join(map(str, each.group[:4]))}, …"


def _carried(each: Collective, layout: Layout, shards: int) -> int:
    """Bytes of weights, or of their gradients, that a collective gathers or sums up over the shards.

    On a torus of three sides the compiler gathers by an all-reduce too, of shards with zeros around them.
    """
    if each.kind == "all-to-all" or (layout.tp > 1 and _axis(each, layout) == "tp"):
        return 0
    if each.kind == RING:
        return each.num_bytes * shards
    if each.kind == PERMUTE:  # a hop of a ring: of `shards` parts, each goes to all others
        return each.num_bytes * shards // (shards - 1)
    return each.num_bytes * (len(each.group) if each.kind == "reduce-scatter" else 1)


def compiled_program(folder: Path, target: dict[str, Any], *, layers: int, progress: Callable[[str], None]) -> Compiled:
    """The first so many layers of a program, compiled for its slice."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        progress(f"the graph of {layers} layers")
        staged(folder, out, layers=layers)
        progress(f"{layers} layers compiled for {target['topology']}")
        graph, slices = out / "accumulate.mlir", target["slices"]
        return compiled(graph, target["topology"], target["devices"], layers=layers, slices=slices)


def staged(folder: Path, out: Path, *, layers: int) -> None:
    """accumulate.mlir and update.mlir of a program."""
    python = python_of("xla")
    assert python is not None, NOT_HERE
    with importable() as environment:
        _run([python, "-m", "llmc.runtimes.xla.stage", folder, out, "--layers", str(layers)], environment)


def compiled(graph: Path, topology: str, devices: int, *, layers: int, slices: int = 1, quick: bool = True) -> Compiled:
    """A graph's memory and collectives. Compiling with little effort takes half the time and gives nearly the same memory."""
    python = python_of("tpu")
    assert python is not None, NOT_HERE
    out = graph.with_suffix(".hlo")
    script = ROOT / "runtimes" / "xla" / "compile_for_tpu.py"
    flags = ["--slices", str(slices), *(["--quick"] if quick else [])]
    command = [python, script, graph, topology, str(devices), out, *flags]
    said = json.loads(_run(command, dict(os.environ)).splitlines()[-1])
    if "refused" in said:
        named = _NEEDS.search(said["refused"])
        needs = round(float(named[1]) * _UNITS[named[2]]) if named else 0
        return Compiled(layers, 0, needs, needs, (), refused=said["refused"])
    memory = said["memory"]
    results = memory["output"] - memory["alias"]
    return Compiled(
        layers=layers,
        arguments=memory["argument"],
        peak=said["peak"],
        allocated=memory["argument"] + memory["temp"] + results + memory["generated_code"],
        collectives=tuple(collectives_of(out.read_text(encoding="utf-8"))),
    )


def _run(command: Sequence[str | Path], environment: dict[str, str]) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DryRunError("\n".join(done.stderr.strip().splitlines()[-6:]))
    return done.stdout
