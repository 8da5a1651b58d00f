"""The machine with the mesh drawn on it: nodes, devices, which ranks they are, and the links that each axis uses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .shapes import WIDTH, Chart, Line, Rect, Shape, Table, Text, fitting

MAX_NODES, MAX_A_NODE = 8, 16
CELL, GAP, PAD = 44.0, 4.0, 10.0
COLOURS = 6


@dataclass(frozen=True)
class Device:
    """What a device is in the mesh: words under one another, and the group that colours it."""

    number: int
    words: tuple[str, ...]
    group: int | None
    """None: the device is not used."""
    title: str


@dataclass(frozen=True)
class AxisRow:
    """One axis: its size, how far its neighbours are apart, what joins them."""

    name: str
    size: int
    stride: int
    link: str
    is_far: bool


def mesh(
    id: str,
    title: str,
    about: str,
    *,
    num_devices: int,
    per_node: int,
    device: Callable[[int], Device],
    axes: Sequence[AxisRow],
    node_name: str = "node",
    link: str = "",
) -> Chart:
    """The first nodes with their devices, then a bar an axis over the devices that one of its groups spans."""
    in_node = min(per_node, MAX_A_NODE)
    nodes = min(-(-num_devices // per_node), MAX_NODES)
    across = min(in_node, 8)
    down = -(-in_node // across)
    node_width, node_height = across * (CELL + GAP) + 2 * PAD, down * (CELL + GAP) + 2 * PAD + 14
    a_row = max(1, int((WIDTH - 8) // (node_width + 12)))
    shapes: list[Shape] = []
    for node in range(nodes):
        x, y = 4 + node % a_row * (node_width + 12), 8 + node // a_row * (node_height + 12)
        shapes += _node(node, x, y, node_width, node_height, in_node, across, num_devices, per_node, device, node_name)
    bottom = 8 + -(-nodes // a_row) * (node_height + 12)
    rest = num_devices - nodes * per_node
    if rest > 0:
        shapes.append(
            Text(
                4,
                bottom + 14,
                f"… and {rest:,} more devices in {-(-rest // per_node):,} {node_name}s",
                "start",
                "value",
            )
        )
        bottom += 24
    if link:
        shapes.append(Text(4, bottom + 14, link, "start", "value"))
        bottom += 22
    shapes += _axes(axes, bottom + 8)
    bottom += 8 + 30 * len(axes)
    rows = tuple(
        (axis.name, f"{axis.size:,}", f"{axis.stride:,}", f"{axis.size * axis.stride:,}", axis.link) for axis in axes
    )
    head = ("axis", "ranks", "devices apart", "devices spanned", "link")
    legend = (("near", f"inside a {node_name}"), ("far", f"between {node_name}s")) if axes else ()
    return Chart(id, title, about, WIDTH, bottom + 8, tuple(shapes), legend, Table(head, rows) if rows else None)


def _node(
    node: int, x: float, y: float, width: float, height: float, in_node: int, across: int,
    num_devices: int, per_node: int, device: Callable[[int], Device], name: str,
) -> list[Shape]:  # fmt: skip
    label = f"{name} {node}" + (f", {in_node} of {per_node} devices" if in_node < per_node else "")
    shapes: list[Shape] = [
        Rect(x, y, width, height, "node", is_mark=False),
        Text(x + PAD, y + 15, fitting(label, width - 2 * PAD), "start", "tick"),
    ]
    for slot in range(in_node):
        number = node * per_node + slot
        if number >= num_devices:
            break
        left = x + PAD + slot % across * (CELL + GAP)
        top = y + PAD + 12 + slot // across * (CELL + GAP)
        found = device(number)
        shapes.append(Rect(left, top, CELL, CELL, _style(found.group), found.title))
        for line, words in enumerate(found.words[:3]):
            shapes.append(Text(left + CELL / 2, top + 13 + 13 * line, fitting(words, CELL + 4), "middle", "cell"))
    return shapes


def _style(group: int | None) -> str:
    return "free" if group is None else f"m{group % COLOURS + 1}"


def _axes(axes: Sequence[AxisRow], top: float) -> list[Shape]:
    shapes: list[Shape] = []
    for row, axis in enumerate(axes):
        y = top + 30 * row
        words = f"{axis.name} {axis.size:,}"
        shapes.append(Text(4, y + 15, words, "start"))
        start = 170.0
        dots = min(axis.size, 12)
        for dot in range(dots):
            shapes.append(
                Rect(
                    start + dot * 22,
                    y + 4,
                    14,
                    14,
                    "far" if axis.is_far else "near",
                    f"{axis.name} rank {dot}",
                    is_mark=False,
                )
            )
        shapes.append(
            Line(
                ((start + 7, y + 11), (start + 7 + 22 * (dots - 1), y + 11)), "wire-far" if axis.is_far else "wire-near"
            )
        )
        end = start + dots * 22 + 4
        if axis.size > dots:
            shapes.append(Text(end, y + 15, "…", "start"))
        apart = "next to each other" if axis.stride == 1 else f"{axis.stride:,} devices apart"
        text = f"{apart}, over {axis.link}"
        shapes.append(Text(end + 16, y + 15, fitting(text, WIDTH - end - 20), "start", "value"))
    return shapes
