"""`--why-not tp=16`: those degrees fixed, everything else the planner's, and what decides against them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...spec.diagnostics import Diagnostic
from .explain import against, is_plain_loss, signed
from .figures import gib, milliseconds, percent_more, wrap
from .pins import SERVE_FIELDS, TRAIN_FIELDS, NotPins, Pins, pin_serving, pin_training, read_pins
from .plan import ServePlan
from .terms import changes
from .words import engine_words, layout_line

if TYPE_CHECKING:
    from ..cost.memory import Ledger
    from ..pipeline import PlanEntry
    from .serve_plan import ServeOutcome
    from .train_plan import TrainOutcome

CLASSES = ("parameters", "gradients", "optimizer", "activations", "buffers")


def why_not(entry: PlanEntry, question: str) -> list[str]:
    """Lines that answer one question; NotPins where it is none for this spec."""
    assert entry.spec is not None
    pins = read_pins(question)
    has_train = entry.train is not None and entry.train.plan is not None and entry.train.plan.fits
    has_serve = entry.serve is not None and entry.serve.plan is not None
    for_train = {name: value for name, value in pins.items() if name in TRAIN_FIELDS}
    for_serve = {name: value for name, value in pins.items() if name in SERVE_FIELDS}
    lines = ["", f"  why not {', '.join(f'{name} {value}' for name, value in pins.items())}?"]
    answered = False
    if has_train and entry.train is not None and for_train == pins:
        lines, answered = lines + _training(entry, entry.train, pins), True
    if has_serve and entry.serve is not None and for_serve == pins:
        lines, answered = lines + _serving(entry, entry.serve, pins), True
    if not answered:
        known = (TRAIN_FIELDS if has_train else ()) + (SERVE_FIELDS if has_serve else ())
        raise NotPins(f"`{question}`: this plan has {', '.join(dict.fromkeys(known)) or 'no layout'}")
    return lines


def _training(entry: PlanEntry, train: TrainOutcome, pins: Pins) -> list[str]:
    from .train_plan import plan_training

    assert entry.spec is not None
    layout = train.chosen.layout
    if all(getattr(layout, name) == value for name, value in pins.items()):
        return ["     the chosen layout has it"]
    asked = plan_training(pin_training(entry.spec, pins), train.work.graph)
    if asked.plan is None or not asked.plan.fits:
        return _impossible(asked, train)
    best = asked.chosen
    lines = wrap(f"the best with it: {layout_line(best.layout)}", indent="     ", hanging="       ")
    lines += against(train.work, best, train.chosen)
    return [*lines, *_verdict(train, asked)]


def _verdict(train: TrainOutcome, asked: TrainOutcome) -> list[str]:
    best, chosen = asked.chosen, train.chosen
    if best.time.total < chosen.time.total and (chosen.is_tight or not best.is_tight):
        faster = percent_more(best.time.total, chosen.time.total)
        if abs(best.time.total / chosen.time.total - 1) >= 0.005:
            return wrap(
                f"it is faster ({faster}): the spec fixes other degrees, or the search did not try this one",
                indent="     ",
            )
    lines = []
    if is_plain_loss(best, chosen):
        found = changes(train.work, best, chosen)
        lines = wrap(f"decided by {found[0].name}: {signed(found[0].seconds)} a step" if found else "", indent="     ")
    if asked.found.misfits:
        miss = asked.found.nearest_miss
        assert miss is not None
        text = f"{asked.found.num_misfits:,} more layouts with it do not fit"
        lines += wrap(f"{text}: nearest {layout_line(miss.layout)}, {gib(miss.ledger.peak)}", indent="     ")
    return lines


def _impossible(asked: TrainOutcome, train: TrainOutcome) -> list[str]:
    """The rule, the number of devices or the class of memory that leaves nothing."""
    miss = asked.found.nearest_miss
    if miss is None:
        return _told(asked.diagnostics)
    memory = train.work.machine.memory_bytes
    lines = wrap(
        f"nothing with it fits: the nearest of {asked.found.num_misfits:,} needs {gib(miss.ledger.peak)} of {gib(memory)}:"
        f" {layout_line(miss.layout)}",
        indent="     ",
        hanging="       ",
    )
    return [*lines, *wrap(f"decided by {_memory(miss.ledger, train.chosen.ledger)}", indent="     ")]


def _memory(there: Ledger, here: Ledger) -> str:
    """The class that grew most beside the chosen layout."""
    growth = {name: getattr(there, name) - getattr(here, name) for name in CLASSES}
    name = max(growth, key=lambda each: growth[each])
    return f"{name}: {gib(getattr(there, name))} a device (chosen: {gib(getattr(here, name))})"


def _told(diagnostics: tuple[Diagnostic, ...]) -> list[str]:
    lines = []
    for each in diagnostics:
        if each.severity == "error":
            lines += wrap(f"no: {each.message}", indent="     ", hanging="       ")
            for note in each.notes:
                lines += wrap(note, indent="       ")
            if each.help:
                lines += wrap(f"help: {each.help}", indent="       ")
    return lines or ["     no layout has it"]


def _serving(entry: PlanEntry, serve: ServeOutcome, pins: Pins) -> list[str]:
    from .serve_plan import plan_serving

    assert entry.spec is not None
    assert serve.plan is not None
    chosen = serve.plan
    if all(getattr(chosen.layout, name) == value for name, value in pins.items()):
        return ["     the chosen engine has it"]
    tried = [*serve.found.good, *serve.found.bad]
    asked = plan_serving(pin_serving(entry.spec, pins), tried[0].engine.graph, folder=serve.folder)
    if asked.plan is None or not asked.plan.meets_slo:
        nearest = [f"     the nearest: {engine_words(asked.plan.layout)}"] if asked.plan is not None else []
        return [*nearest, *_told(asked.diagnostics)]
    lines = wrap(f"the best with it: {engine_words(asked.plan.layout)}", indent="     ", hanging="       ")
    return [*lines, *wrap(f"decided by {_serve_verdict(asked.plan, chosen)}", indent="     ", hanging="       ")]


def _serve_verdict(asked: ServePlan, chosen: ServePlan) -> str:
    there, here = asked.predicted, chosen.predicted
    times = (
        f"{milliseconds(there.tpot_p50_ms)} a token ({percent_more(there.tpot_p50_ms, here.tpot_p50_ms)}), "
        f"first token p99 {milliseconds(there.ttft_p99_ms)} ({percent_more(there.ttft_p99_ms, here.ttft_p99_ms)})"
    )
    if asked.devices > chosen.devices:
        return f"devices: {asked.devices} for the same load (chosen: {chosen.devices}); it has {times}"
    if asked.layout.weights != chosen.layout.weights:
        return f"the weights' format: {asked.layout.weights} comes after {chosen.layout.weights} in the spec; it has {times}"
    return f"time: {times}"
