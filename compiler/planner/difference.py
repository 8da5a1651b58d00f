"""What two specs or two plans differ in: what changes the trained model, what changes the answers, what only how it runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from .plan import Plan

Kind = Literal["convergence", "answers", "execution"]
"""convergence: the trained model would be another one; answers: the same model is served in another format; execution: the
same result by other means."""

KINDS: tuple[tuple[str, Kind], ...] = (
    ("train.*.checkpoint", "execution"),
    ("train.*.validation", "execution"),
    ("model", "convergence"),
    ("data", "convergence"),
    ("train", "convergence"),
    ("compress", "convergence"),
    ("serve.weights", "answers"),
    ("serve.kv_cache.dtype", "answers"),
    ("serve.max_seq_len", "answers"),
    ("serve", "execution"),
    ("hardware", "execution"),
    ("parallel", "execution"),
    ("assume", "execution"),
    ("deploy", "execution"),
    ("eval", "execution"),
    ("name", "execution"),
)
"""Start of a path -> what a difference there means; the first that matches decides, and an unknown key counts as convergence."""
SAID_OTHERWISE = ("llmc", "extends")
"""Keys whose work is done when the spec is resolved."""


@dataclass(frozen=True)
class Difference:
    """One value that differs. `path` is dotted: `train.0.global_batch`, `layout.tp`."""

    path: str
    a: Any
    b: Any
    kind: Kind


def kind_of(path: str) -> Kind:
    """convergence, answers or execution."""
    parts = path.split(".")
    for start, kind in KINDS:
        wanted = start.split(".")
        if len(parts) >= len(wanted) and all(w in ("*", part) for w, part in zip(wanted, parts, strict=False)):
            return kind
    return "convergence"


def differing_values(a: Any, b: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """(dotted path, in a, in b) of each leaf that differs, in the order of a."""
    if isinstance(a, dict) and isinstance(b, dict):
        found = []
        for key in dict.fromkeys((*a, *b)):
            found += differing_values(a.get(key), b.get(key), f"{path}.{key}" if path else str(key))
        return found
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        pairs = enumerate(zip(a, b, strict=True))
        return [found for index, (one, other) in pairs for found in differing_values(one, other, f"{path}.{index}")]
    return [] if a == b else [(path, a, b)]


def differences(a: Plan, b: Plan) -> list[Difference]:
    """Of two plans that carry their specs: values of the specs, the solved batch, and the layouts."""
    assert a.spec is not None
    assert b.spec is not None
    silent = (*SAID_OTHERWISE, "parallel") if a.train is not None and b.train is not None else SAID_OTHERWISE
    found = [
        Difference(path, one, other, kind_of(path))
        for path, one, other in differing_values(a.spec, b.spec)
        if path.partition(".")[0] not in silent  # what `parallel` asks for is in the layouts
    ]
    return [*found, *_solved(a, b, found), *_layouts(a, b)]


def _solved(a: Plan, b: Plan, found: list[Difference]) -> Iterator[Difference]:
    """The global batch where the specs leave it to the layout."""
    if a.train is None or b.train is None or any(each.path.endswith(".global_batch") for each in found):
        return
    sizes = [plan.train.layout for plan in (a, b) if plan.train is not None]
    one, other = (each.data_parallel * each.micro_batch * each.grad_accumulation for each in sizes)
    if one != other:
        yield Difference("train.0.global_batch", one, other, "convergence")


def _layouts(a: Plan, b: Plan) -> Iterator[Difference]:
    for section, one, other in (("layout", a.train, b.train), ("serve.layout", a.serve, b.serve)):
        if one is None or other is None:
            continue
        there, here = (each.model_dump(mode="json")["layout"] for each in (one, other))
        for path, before, after in differing_values(there, here, section):
            is_format = path.endswith((".weights", ".kv_dtype"))
            yield Difference(path, before, after, "answers" if is_format else "execution")
