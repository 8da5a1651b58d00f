"""A spec with some degrees of its layout fixed: what a question (`--why-not tp=16`) or a plan that was edited asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ...spec.base import place
from ...spec.parallel import Parallel
from ...spec.serving import ServeLayout as WrittenServeLayout
from ...spec.suggest import by_closeness, listing
from .layout import Layout

if TYPE_CHECKING:
    from ...spec.document import Spec
    from .plan import ServeLayout

TRAIN_FIELDS = tuple(each.name for each in fields(Layout) if each.name in Parallel.model_fields)
SERVE_FIELDS = tuple(WrittenServeLayout.model_fields)
Pins = dict[str, int | str | bool]


class NotPins(ValueError):
    """A text that names no degrees, in words."""


def read_pins(text: str) -> Pins:
    """`pp=4,ep=8` -> {"pp": 4, "ep": 8}."""
    pins: Pins = {}
    for piece in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (part.strip() for part in piece.partition("="))
        if not equals or not value:
            raise NotPins(f"`{piece}` is not a degree and its value, such as tp=16")
        known = dict.fromkeys((*TRAIN_FIELDS, *SERVE_FIELDS))
        if name not in known:
            raise NotPins(f"`{name}` is no part of a layout; known: {listing(by_closeness(name, known))}")
        pins[name] = int(value) if value.isdecimal() else {"true": True, "false": False}.get(value, value)
    if not pins:
        raise NotPins("no degree is named; say one, such as tp=16")
    return pins


def pin_training(spec: Spec, pins: Mapping[str, Any], *, rest_open: bool = True) -> Spec:
    """The spec with these fields of `parallel`. The user's own stay where they leave others open; the rest is the planner's."""
    written = spec.parallel.model_dump(exclude_none=True) if spec.parallel.is_auto else {}
    values = {**written, **pins} if rest_open else dict(pins)
    if rest_open:
        values["rest"] = "auto"
    return spec.model_copy(update={"parallel": _placed(Parallel, values, ("parallel",))})


def pin_serving(spec: Spec, pins: Mapping[str, Any]) -> Spec:
    """The spec with these fields of `serve.layout`."""
    assert spec.serve is not None
    values = {**spec.serve.layout.model_dump(exclude_none=True), **pins}
    layout = _placed(WrittenServeLayout, values, ("serve", "layout"))
    return spec.model_copy(update={"serve": spec.serve.model_copy(update={"layout": layout})})


def _placed(kind: type[Any], values: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    try:
        node = kind.model_validate(values)
    except ValidationError as problem:
        first = problem.errors()[0]
        name = ".".join(str(part) for part in first["loc"] if isinstance(part, str) and part in values)
        raise NotPins(f"`{name}={values.get(name)}`: {first['msg'][:1].lower()}{first['msg'][1:]}") from None
    place(node, path)
    return node


def pins_of_layout(layout: Layout) -> Pins:
    """Every field of a layout that its spec could have written: not what only the planner says layer by layer."""
    values = {name: getattr(layout, name) for name in TRAIN_FIELDS}
    return {name: value for name, value in values.items() if value not in (None, "mixed")}


def pins_of_serve_layout(layout: ServeLayout) -> Pins:
    return {name: getattr(layout, name) for name in SERVE_FIELDS}
