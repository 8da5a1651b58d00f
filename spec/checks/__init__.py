"""What fields mean together: one small function a rule, run over the sections that are valid by themselves.

A check names the sections it needs as its parameters (`model`, `hardware`, `data`, `stage`, `parallel`, `serve`) and runs if
they are all there; with `stage`, once for each stage of training. So a spec with a typing error in `serve` still hears
about its heads. To add a rule: a function in the file of its section, a code in `../codes/`, a line in CHECKS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from inspect import signature
from typing import Any

from pydantic import ValidationError

from ..base import Node, place
from ..data import Data
from ..diagnostics import Diagnostic
from ..document import Spec
from ..hardware import Hardware
from ..model import Model
from ..nodes import MappingNode, SequenceNode, YamlNode, to_data
from ..parallel import Parallel
from ..serving import Serve
from ..training import Train
from . import layout, machine, model, recipe, server

Check = Callable[..., Iterator[Diagnostic]]

CHECKS: tuple[Check, ...] = (
    model.kv_heads_divide_heads,
    model.kv_heads_suit_the_kind,
    model.rotary_dim_fits_the_head,
    model.position_suits_the_model,
    model.scaling_has_a_factor_a_pair,
    model.window_is_shorter_than_sequences,
    model.enough_experts,
    model.experts_form_groups,
    model.some_layer_has_experts,
    model.shared_options_have_an_expert,
    machine.topology_needs_a_torus,
    machine.topology_stands_alone,
    machine.slices_have_a_topology,
    machine.only_processors_are_calibrated,
    recipe.objective_suits_the_model,
    recipe.batch_is_consistent,
    recipe.schedule_fits_training,
    recipe.sequences_fit_positions,
    recipe.vocabulary_holds_all_bytes,
    recipe.split_leaves_training_text,
    layout.expert_parallel_needs_experts,
    layout.virtual_stages_need_a_schedule,
    server.workload_is_one_of_four,
    server.requests_fit,
    server.sequences_fit_positions,
    server.percentiles_are_ordered,
)


def check(spec: Spec | None, tree: MappingNode) -> Iterator[Diagnostic]:
    """Everything that the rules find, in the spec or in those of its sections that are valid."""
    sections = _sections_of(spec) if spec is not None else _valid_sections(tree)
    stages = sections.pop("train")
    for rule in CHECKS:
        names = _parameters(rule)
        given = {name: sections[name] for name in names if sections.get(name) is not None}
        for stage in stages if "stage" in names else (None,):
            if stage is not None:
                given["stage"] = stage
            if len(given) == len(names):
                yield from rule(**given)


@cache
def _parameters(rule: Check) -> tuple[str, ...]:
    return tuple(signature(rule).parameters)


def _sections_of(spec: Spec) -> dict[str, Any]:
    place(spec)
    return {
        "model": spec.model,
        "hardware": spec.hardware,
        "data": spec.data,
        "train": spec.train or (),
        "parallel": spec.parallel,
        "serve": spec.serve,
    }


def _valid_sections(tree: MappingNode) -> dict[str, Any]:
    """Each section judged by itself; what is not valid is left out."""
    stages = tree.get("train")
    items = stages.items if isinstance(stages, SequenceNode) else ()
    return {
        "model": _section(Model, tree.get("model"), ("model",)),
        "hardware": _section(Hardware, tree.get("hardware"), ("hardware",)),
        "data": _section(Data, tree.get("data"), ("data",)),
        "train": [
            stage for index, item in enumerate(items) if (stage := _section(Train, item, ("train", index))) is not None
        ],
        "parallel": _parallel(tree.get("parallel")),
        "serve": _section(Serve, tree.get("serve"), ("serve",)),
    }


def _section(cls: type[Node], node: YamlNode | None, path: tuple[str | int, ...]) -> Node | None:
    if not isinstance(node, MappingNode):
        return None
    try:
        section = cls.model_validate(to_data(node))
    except ValidationError:
        return None
    place(section, path)
    return section


def _parallel(node: YamlNode | None) -> Node | None:
    if node is None or to_data(node) == "auto":
        return Parallel(rest="auto")
    return _section(Parallel, node, ("parallel",))
