"""A plan that comes back from a file: `llmc build --plan plan.json`.

Its layout is kept and priced anew; what it predicts is not read. It must be for this very spec (its hash), say nothing that
the spec contradicts, and be a layout that this version can plan. Each of these is a diagnostic that points into plan.json.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ...spec.base import Path as KeyPath
from ...spec.base import place
from ...spec.batch import fixed_dp, solve_batch
from ...spec.compose import compose
from ...spec.diagnostics import Diagnostic, Label, SpecError, diagnose
from ...spec.nodes import SourceMap, sites
from ...spec.source import SourceText
from .difference import differing_values
from .enumerate import given
from .pins import NotPins, pin_serving, pin_training, pins_of_layout, pins_of_serve_layout
from .plan import Plan

if TYPE_CHECKING:
    from ...spec.document import Spec
    from .layout import Layout

MAX_BYTES = 1 << 20
MAX_LISTED = 6


@dataclass(frozen=True)
class GivenPlan:
    """A plan and the places of its values in the file."""

    plan: Plan
    name: str
    sources: SourceMap

    def locate(self, diagnostic: Diagnostic) -> Diagnostic:
        """Point at the plan's layout where a diagnostic speaks of `parallel` or of `serve.layout`."""
        path = diagnostic.path or ()
        inside: KeyPath | None = None
        if path[:1] == ("parallel",):
            inside = ("train", "layout", *path[1:2])
        elif path[:2] == ("serve", "layout"):
            inside = ("serve", "layout", *path[2:3])
        site = self.sources.site(inside) if inside is not None else None
        if site is None:
            return diagnostic
        return replace(diagnostic, span=site.value if inside in self.sources.sites else site.key)


def spec_sha256(spec: Spec) -> str:
    """Of the resolved spec, so that comments, order and shorthands do not count."""
    return _sha256(spec.model_dump(mode="json"))


def _sha256(resolved: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(resolved, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def plan_with_spec(plan: Plan, spec: Spec) -> Plan:
    """As `--out` writes it: with the resolved spec, so that a reader can tell what has changed since."""
    return plan.model_copy(update={"spec": spec.model_dump(mode="json")})


def carried_spec(plan: Plan) -> Spec | None:
    """The spec that a plan of `--out` was made for; None where it carries none."""
    if plan.spec is None:
        return None
    from ...spec.document import Spec

    spec = Spec.model_validate_json(json.dumps(plan.spec))
    place(spec)
    return spec


def read_plan(path: Path) -> GivenPlan:
    """A plan from a file; SpecError with P242 where it is none."""
    name = path.as_posix()
    try:
        if path.stat().st_size > MAX_BYTES:
            raise SpecError([diagnose("P242", f"{name} has more than {MAX_BYTES:,} bytes: no plan does")])
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        words = getattr(fault, "strerror", None) or "it is not UTF-8"
        raise SpecError([diagnose("P242", f"the plan {name} cannot be read: {words}")]) from None
    tree, _ = compose(SourceText(name, text))  # JSON is YAML: this gives every value its place
    sources = SourceMap(dict(sites(tree))) if tree is not None else SourceMap()
    try:
        data = json.loads(text, object_pairs_hook=_once)
    except ValueError as fault:
        raise SpecError([diagnose("P242", f"{name} is not JSON: {fault}")]) from None
    if isinstance(data, list) and len(data) == 1:  # what `llmc plan --json` prints
        data, sources = data[0], SourceMap({path[1:]: site for path, site in sources.sites.items() if path[:1] == (0,)})
    if not isinstance(data, dict):
        raise SpecError([diagnose("P242", f"{name} holds no plan")])
    try:
        plan = Plan.from_json(data)
    except ValidationError as problem:
        raise SpecError(list(_not_a_plan(problem, sources))) from None
    if plan.spec is not None and plan.spec_sha256 != _sha256(plan.spec):
        site = sources.site(("spec",))
        message = f"the spec inside {name} was edited: its hash is no longer `spec_sha256`"
        help = "a plan's layout can be edited; a spec is changed in its own file"
        raise SpecError([diagnose("P240", message, span=site.key if site else None, help=help)])
    return GivenPlan(plan, name, sources)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"`{twice}` is given twice in one object")
    return found


def _not_a_plan(problem: ValidationError, sources: SourceMap) -> Iterator[Diagnostic]:
    for error in problem.errors()[:MAX_LISTED]:
        path = tuple(part for part in error["loc"] if isinstance(part, (str, int)))
        site = sources.site(path)
        said = error["msg"][:1].lower() + error["msg"][1:]
        yield diagnose("P242", f"`{'.'.join(map(str, path))}` of the plan: {said}", span=site.value if site else None)


def faults_of(found: GivenPlan, spec: Spec) -> Iterator[Diagnostic]:
    """P240 for another spec, P241 for what the spec contradicts."""
    if found.plan.spec_sha256 != spec_sha256(spec):
        yield _other_spec(found, spec)
        return
    try:
        pinned(spec, found)
    except NotPins as problem:
        yield diagnose("P241", f"the plan's {problem}")
        return
    for section in ("train", "serve"):
        if getattr(spec, section) is not None and getattr(found.plan, section) is None:
            yield diagnose(
                "P241", f"the spec has a `{section}` section and the plan has none", path=(section,), part="key"
            )
    if found.plan.train is not None and spec.train is not None:
        layout = found.plan.train.layout
        yield from _not_a_layout(found, spec, layout)
        for name, written in _kept(spec, layout):
            if getattr(layout, name) != written:
                yield _contradicts(found, ("train", "layout", name), getattr(layout, name), ("parallel", name), written)
        if spec.parallel.offload == "none" and layout.offload is not None:
            place_in_plan = ("train", "layout", "offload")
            yield _contradicts(found, place_in_plan, layout.offload, ("parallel", "offload"), "none")
    if found.plan.serve is not None and spec.serve is not None:
        yield from _serve_faults(found, spec)


def _not_a_layout(found: GivenPlan, spec: Spec, layout: Layout) -> Iterator[Diagnostic]:
    """Another number of devices or sequences than the spec's, and values that mean nothing with the rest."""
    devices = spec.hardware.num_devices
    if layout.devices != devices:
        message = f"the plan's layout is for {layout.devices:,} devices, the machine has {devices:,}"
        yield _fault(found, "dp_shard", message)
        return
    assert spec.train is not None
    batch = solve_batch(spec.train[0], spec.parallel, fixed_dp(spec.parallel)).global_batch
    sequences = layout.micro_batch * layout.grad_accumulation * layout.data_parallel
    if batch is not None and batch != sequences:
        parts = f"micro_batch {layout.micro_batch} × grad_accumulation {layout.grad_accumulation}"
        message = f"{parts} × {layout.data_parallel} data-parallel ranks of the plan make {sequences:,} sequences a step, the spec's global_batch is {batch:,}"
        yield _fault(found, "grad_accumulation", message)
    for name, plain, why in _void(layout):
        if getattr(layout, name) != plain:
            yield _fault(found, name, f"{name} {getattr(layout, name)} of the plan means nothing: {why}")


def _void(layout: Layout) -> Iterator[tuple[str, object, str]]:
    if layout.shards == 1:
        yield "zero", 0, "nothing is sharded"
    if layout.tp == 1:
        yield "sequence_parallel", False, "tp is 1"
    if layout.pp == 1:
        yield "virtual_stages", 1, "pp is 1"
    if layout.cp == 1:
        yield "cp_kind", None, "cp is 1"


def _fault(found: GivenPlan, name: str, message: str) -> Diagnostic:
    site = found.sources.site(("train", "layout", name))
    return diagnose("P241", message, span=site.value if site else None)


def _other_spec(found: GivenPlan, spec: Spec) -> Diagnostic:
    site = found.sources.site(("spec_sha256",))
    help = f"`llmc plan SPEC --out {found.name}` plans the spec as it is now"
    if found.plan.spec is None:
        notes = ["the plan does not carry its spec, so what differs is not known; `--out` writes one that does"]
        message = f"{found.name} was planned for another spec"
    else:
        values = differing_values(found.plan.spec, spec.model_dump(mode="json"))
        notes = [f"{path}: {_shown(before)} in the plan, {_shown(after)} in the spec" for path, before, after in values]
        notes = notes[:MAX_LISTED] + ([f"and {len(notes) - MAX_LISTED} more"] if len(notes) > MAX_LISTED else [])
        keys = f"{len(values)} value{'s' if len(values) > 1 else ''}"
        message = f"{found.name} was planned for another spec: {keys} changed since"
    return diagnose("P240", message, span=site.value if site else None, notes=notes, help=help)


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"


def _kept(spec: Spec, layout: Layout) -> Iterator[tuple[str, Any]]:
    """What the spec fixes of a layout, as far as it means something there."""
    means_nothing = {
        "zero": layout.shards == 1,
        "schedule": layout.pp == 1,
        "virtual_stages": layout.pp == 1,
        "sequence_parallel": layout.tp == 1,
        "cp_kind": layout.cp == 1,
    }
    for name, value in asdict(given(spec.parallel)).items():
        if name != "is_auto" and value not in (None, "auto") and not means_nothing.get(name, False):
            yield name, value


def _serve_faults(found: GivenPlan, spec: Spec) -> Iterator[Diagnostic]:
    assert found.plan.serve is not None
    assert spec.serve is not None
    layout = found.plan.serve.layout
    for name, written in spec.serve.layout.model_dump(exclude_none=True).items():
        if getattr(layout, name) != written:
            yield _contradicts(
                found, ("serve", "layout", name), getattr(layout, name), ("serve", "layout", name), written
            )
    if layout.weights not in spec.serve.weights.dtype:
        allowed = ", ".join(spec.serve.weights.dtype)
        yield _contradicts(
            found, ("serve", "layout", "weights"), layout.weights, ("serve", "weights", "dtype"), allowed
        )
    if layout.kv_dtype != spec.serve.kv_cache.dtype:
        written = spec.serve.kv_cache.dtype
        yield _contradicts(
            found, ("serve", "layout", "kv_dtype"), layout.kv_dtype, ("serve", "kv_cache", "dtype"), written
        )


def _contradicts(found: GivenPlan, at: KeyPath, value: object, path: KeyPath, written: object) -> Diagnostic:
    site = found.sources.site(at)
    return diagnose(
        "P241",
        f"the plan has {at[-1]} {value}, the spec says {written}",
        path=path,
        span=site.value if site else None,
        labels=[Label("the spec", path=path)],
        help="change the spec, or leave the degree to the planner there",
    )


def pinned(spec: Spec, found: GivenPlan) -> Spec:
    """The spec with the plan's layouts fixed: what the planner then prices."""
    if spec.train is not None and found.plan.train is not None:
        spec = pin_training(spec, pins_of_layout(found.plan.train.layout), rest_open=False)
    if spec.serve is not None and found.plan.serve is not None:
        spec = pin_serving(spec, pins_of_serve_layout(found.plan.serve.layout))
        assert spec.serve is not None
        weights = spec.serve.weights.model_copy(update={"dtype": (found.plan.serve.layout.weights,)})
        spec = spec.model_copy(update={"serve": spec.serve.model_copy(update={"weights": weights})})
    return spec


def not_kept(found: GivenPlan, plan: Plan) -> Iterator[Diagnostic]:
    """P241 where pricing the plan's layout gave another one: this version cannot plan it as it stands."""
    for section in ("train", "serve"):
        asked, got = getattr(found.plan, section), getattr(plan, section)
        if asked is None or got is None:
            continue
        for name, value in vars(asked.layout).items():
            other = getattr(got.layout, name)
            if other != value and name in type(asked.layout).__annotations__:
                site = found.sources.site((section, "layout", name))
                message = f"the plan has {name} {value}; with the rest of its layout that can only be {other}"
                yield diagnose("P241", message, span=site.value if site else None)
