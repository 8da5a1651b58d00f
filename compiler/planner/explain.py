"""Why this plan: each runner-up against the chosen layout term by term, what was ruled out, where the figures come from,
what a slightly better machine would be worth. Lines of text for the report; report/ draws the same as pictures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .figures import gib, milliseconds, percent_more, seconds, wrap
from .shadow import Price
from .terms import Change, Term, changes, terms_of
from .words import engine_words, layout_line

if TYPE_CHECKING:
    from ..cost.workload import Workload
    from .plan import ServePlan
    from .serve_plan import ServeOutcome
    from .train_plan import TrainOutcome
    from .train_search import Priced

SAME = 0.005
"""Layouts whose steps differ by less count as equally fast (train_search.SAME_TIME)."""


def why_lost(work: Workload, other: Priced, chosen: Priced) -> str:
    """One line: the term that grew most and its reason, or what else decided."""
    if other.is_tight and not chosen.is_tight:
        share = other.ledger.peak / work.machine.memory_bytes
        return f"{gib(other.ledger.peak)} fill {share:.0%} of a device: allocators fragment"
    if abs(other.time.total / chosen.time.total - 1) < SAME:
        more = other.ledger.peak - chosen.ledger.peak
        if more > 0.02 * chosen.ledger.peak:
            return f"as fast, and {gib(more)} more memory"
        return "as fast, and more to set up"
    found = changes(work, other, chosen)
    return str(found[0]) if found else "a little of everything"


def is_plain_loss(other: Priced, chosen: Priced) -> bool:
    """Whether a layout lost by its time, and not by what breaks a tie or by filling a device to the brim."""
    is_slower = other.time.total >= (1 + SAME) * chosen.time.total
    return is_slower and not (other.is_tight and not chosen.is_tight)


def runners_up(train: TrainOutcome, others: Sequence[Priced]) -> list[str]:
    """Every runner-up with all of its terms, numbered."""
    lines = ["  runners-up, against the chosen layout"]
    for number, other in enumerate(others, start=1):
        lines += ["", *wrap(f"{number}. {layout_line(other.layout)}", indent="  ", hanging="     ")]
        lines += against(train.work, other, train.chosen)
    return lines


def against(work: Workload, other: Priced, chosen: Priced) -> list[str]:
    """Step and memory of a layout beside the chosen one's, then the terms."""
    slower = other.time.total - chosen.time.total
    more = other.ledger.peak - chosen.ledger.peak
    step = f"step {seconds(other.time.total)} ({signed(slower)}, {percent_more(other.time.total, chosen.time.total)})"
    memory = f"memory {gib(other.ledger.peak)} ({'+' if more >= 0 else '−'}{gib(abs(more))})"
    lines = [f"     {step} · {memory}"]
    found = changes(work, other, chosen)
    width = max((len(change.name) for change in found), default=0)
    for change in found:
        lines += _change_lines(change, width)
    is_tie = abs(slower) < SAME * chosen.time.total
    if is_tie or (other.is_tight and not chosen.is_tight):
        lines += wrap(f"decided by: {why_lost(work, other, chosen)}", indent="       ", hanging="         ")
    return lines


def _change_lines(change: Change, width: int) -> list[str]:
    head = f"{change.name:<{width}}  {signed(change.seconds):>8}  "
    return wrap_plain(head + change.reason, indent="       ", hanging=" " * (7 + len(head)))


def wrap_plain(text: str, *, indent: str, hanging: str) -> list[str]:
    """`wrap` keeps single spaces between words; this keeps the columns of the first line."""
    body = text[: len(hanging) - len(indent)]
    rest = wrap(text[len(body) :], indent=hanging, hanging=hanging)
    return [indent + body + rest[0].strip(), *rest[1:]]


def ruled_out(train: TrainOutcome) -> list[str]:
    """What removed how many candidates, with an example each."""
    found, machine = train.found, train.work.machine
    rows = []
    if found.misfits:
        binding = Counter(miss.ledger.binding for miss in found.misfits)
        for name, count in binding.most_common():
            nearest = min(
                (miss for miss in found.misfits if miss.ledger.binding == name), key=lambda miss: miss.ledger.peak
            )
            text = f"do not fit, {name} the largest part: nearest {gib(nearest.ledger.peak)} of {gib(machine.memory_bytes)}"
            rows.append((count, f"{text}, {layout_line(nearest.layout)}"))
    if found.num_beyond:
        rows.append((found.num_beyond, "not tried: leaner ones with the same degrees do not fit"))
    if found.num_slower:
        rows.append((found.num_slower, "not priced: by bounds on their time they cannot be as fast"))
    for key, count in (+found.broken).most_common():
        rows.append((count, f"{key}: {found.violations[key][1].message}"))
    if not rows:
        return []
    lines = ["", f"  ruled out of {sum(count for count, _ in rows) + len(found.fitting):,} layouts"]
    for count, text in rows:
        lines += wrap_plain(f"{count:>7,}  {text}", indent="  ", hanging=" " * 11)
    return lines


def provenance(train: TrainOutcome) -> list[str]:
    """Each term of the step with the origin of the constant that decides it."""
    terms = terms_of(train.work, train.chosen)
    by_origin: dict[str, list[Term]] = {}
    for term in terms:
        by_origin.setdefault(term.origin, []).append(term)
    total, family = train.chosen.time.total, train.work.machine.constants.architecture
    where = {
        "measured": f"measured on {family}",
        "fitted": f"fitted on published steps and kernels ({family})",
        "assumed": "assumed, or carried over from other devices",
    }
    lines = ["", "  where the step's figures come from"]
    for origin, text in where.items():
        if origin in by_origin:
            share = sum(term.seconds for term in by_origin[origin]) / total
            names = ", ".join(term.name for term in by_origin[origin])
            lines += wrap(f"{share:>4.0%}  {text}: {names}", indent="  ", hanging="        ")
    low, high = train.chosen.time.low, train.chosen.time.high
    text = f"nine of ten such steps are expected between {seconds(low)} and {seconds(high)} ({low / total - 1:+.0%}, {high / total - 1:+.0%})"
    return [*lines, *wrap(text, indent="  ")]


def prices(found: Sequence[Price]) -> list[str]:
    """What a little more of each thing would be worth."""
    if not found:
        return []
    width = max(len(price.change) for price in found)
    lines = ["", "  what a better machine would be worth"]
    for price in found:
        text = worth(price)
        if price.layout is not None:
            line = layout_line(price.layout) if hasattr(price.layout, "recompute") else engine_words(price.layout)  # pyright: ignore[reportArgumentType]
            text += f", by {line}"
        lines += wrap_plain(f"{price.change:<{width}}  {text}", indent="    ", hanging=" " * (6 + width))
    return lines


def worth(price: Price) -> str:
    if not price.saved:
        return "nothing"
    if price.unit == "devices":
        count = round(price.saved)
        return f"{abs(count)} device{'s' if abs(count) > 1 else ''} {'less' if count > 0 else 'more'}"
    return f"{signed(-price.saved)} {price.unit.removeprefix('s ')}"


def serve_runners_up(serve: ServeOutcome, *, at_most: int) -> list[str]:
    """Other engines that hold the objective, with what they cost more."""
    assert serve.plan is not None
    chosen = serve.plan
    lines = []
    for number, other in enumerate(chosen.alternatives[:at_most], start=1):
        predicted = other.predicted
        devices = other.layout.replicas * other.layout.tp * other.layout.pp
        lines += ["", *wrap(f"{number}. {engine_words(other.layout)}", indent="    ")]
        token = f"{milliseconds(predicted.tpot_p50_ms)} a token ({percent_more(predicted.tpot_p50_ms, chosen.predicted.tpot_p50_ms)})"
        first = f"first token p99 {milliseconds(predicted.ttft_p99_ms)} ({percent_more(predicted.ttft_p99_ms, chosen.predicted.ttft_p99_ms)})"
        lines += wrap(f"{token} · {first} · {_serve_why(devices, chosen.devices)}", indent="       ")
    return lines


def limits(plan: ServePlan) -> list[str]:
    """What a replica may hold, and why; how its percentiles were found."""
    lines = ["", "  limits of a replica"] if plan.limits else []
    for limit in plan.limits:
        lines += wrap(f"{limit.name} {limit.value:,}: {limit.inequality}", indent="    ", hanging="      ")
    if plan.disaggregated is not None:
        lines += ["", *wrap(f"fewer would do: {plan.disaggregated}", indent="  ", hanging="    ")]
    found = (
        "in closed form" if plan.simulated_requests is None else f"over {plan.simulated_requests:,} simulated requests"
    )
    return [*lines, "", f"  percentiles {found}"]


def _serve_why(devices: int, chosen: int) -> str:
    if devices > chosen:
        return f"lost by {devices - chosen} more device{'s' if devices - chosen > 1 else ''}"
    return "as many devices: an earlier weight format, or a shorter time per token, won"


def signed(value: float) -> str:
    """`+210 ms`, `−40 ms`"""
    return f"{'+' if value >= 0 else '−'}{seconds(abs(value))}"
