"""Rules of the hardware section."""

from __future__ import annotations

from collections.abc import Iterator

from ..diagnostics import Diagnostic, Edit, Fix, Label, diagnose
from ..hardware import Hardware

TOPOLOGY = ("hardware", "topology")


def topology_needs_a_torus(hardware: Hardware) -> Iterator[Diagnostic]:
    """Only some accelerators are wired as a torus, of two or three dimensions."""
    if hardware.topology is None:
        return
    accelerator = hardware.accelerator
    sides = hardware.topology.split("x")
    label = Label("", ("hardware", "accelerator"))
    if accelerator.torus is None:
        message = f"{_name(hardware)} is not wired as a torus; give `nodes` and `per_node` in place of `topology`"
        yield diagnose("S310", message, path=TOPOLOGY, labels=[label], fixes=list(_counted(hardware)))
    elif len(sides) != accelerator.torus.dims:
        message = (
            f"the torus of {_name(hardware)} has {accelerator.torus.dims} sides, `{hardware.topology}` has {len(sides)}"
        )
        yield diagnose("S311", message, path=TOPOLOGY, labels=[label])


def _name(hardware: Hardware) -> str:
    accelerator = hardware.accelerator
    return accelerator.name or accelerator.like or "the accelerator"


def _counted(hardware: Hardware) -> Iterator[Fix]:
    """As many devices, counted by nodes."""
    nodes, rest = divmod(hardware.num_devices, hardware.accelerator.per_node)
    if nodes and not rest:
        edits = (
            Edit("remove", TOPOLOGY),
            Edit("set", ("hardware", "nodes"), nodes),
            Edit("set", ("hardware", "per_node"), hardware.accelerator.per_node),
        )
        yield Fix(f"`nodes: {nodes}` with `per_node: {hardware.accelerator.per_node}` is as many devices", edits)


def topology_stands_alone(hardware: Hardware) -> Iterator[Diagnostic]:
    """The sides of a torus say how many devices there are; nodes and per_node say it again."""
    if hardware.topology is None:
        return
    for name in ("nodes", "per_node"):
        if name in hardware.model_fields_set and getattr(hardware, name) is not None:
            path = ("hardware", name)
            yield diagnose(
                "S117",
                f"`topology: {hardware.topology}` is {hardware.num_devices:,} devices; `{name}` may not be given with it",
                path=path,
                part="key",
                labels=[Label("", TOPOLOGY)],
                fixes=[Fix(f"leave out `{name}`", (Edit("remove", path),))],
            )


def slices_have_a_topology(hardware: Hardware) -> Iterator[Diagnostic]:
    """Nodes are counted as nodes; slices are tori."""
    if hardware.slices > 1 and hardware.topology is None:
        path = ("hardware", "slices")
        fixes = [
            Fix(
                f"`nodes: {hardware.slices}` is as many machines",
                (Edit("remove", path), Edit("set", ("hardware", "nodes"), hardware.slices)),
            )
        ]
        message = f"{hardware.slices} slices need the sides of one, which `topology` gives, such as 4x4"
        yield diagnose("S318", message, path=path, part="key", fixes=fixes)


def only_processors_are_calibrated(hardware: Hardware) -> Iterator[Diagnostic]:
    """What `llmc doctor --calibrate` measures is of a CPU; other devices go by fitted constants."""
    accelerator = hardware.accelerator
    if accelerator.kind == "cpu":
        return
    rates = (accelerator.products.fp32, accelerator.products.bf16)
    given = (
        ("op_us", accelerator.op_us is not None),
        ("products", any(rate is not None for rate in rates)),
        ("kernels", accelerator.kernels is not None),
    )
    for name, is_there in given:
        if is_there:
            path = ("hardware", "accelerator", name)
            message = f"`{name}` is measured of a CPU, and {_name(hardware)} is a {accelerator.kind}"
            fixes = [Fix(f"leave out `{name}`", (Edit("remove", path),))]
            yield diagnose("S317", message, path=path, part="key", fixes=fixes)
