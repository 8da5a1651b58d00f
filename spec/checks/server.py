"""Rules of the serve section."""

from __future__ import annotations

from collections.abc import Iterator

from ..diagnostics import Diagnostic, Edit, Fix, Label, diagnose
from ..model import Model
from ..serving import Serve, Workload
from .recipe import longer_than_model

WORKLOAD = ("serve", "workload")


def workload_is_one_of_four(serve: Serve) -> Iterator[Diagnostic]:
    """A trace, an open loop, a closed loop, or a static batch."""
    load = serve.workload
    if load is None:
        return
    if load.trace is not None:
        yield from _trace_says_all(load)
        return
    missing = [name for name in ("input_tokens", "output_tokens") if getattr(load, name) is None]
    if missing:
        words = " and ".join(f"`{name}`" for name in missing)
        yield diagnose(
            "S312", f"the workload lacks {words}, the mean length of its requests", path=WORKLOAD, part="key"
        )
    if load.requests_per_s is not None and load.concurrency is not None:
        yield _exclusive("requests_per_s", "concurrency", "an open loop has a rate, a closed loop a concurrency")
    elif load.requests_per_s is None and load.concurrency is None:
        message = "the workload has neither `requests_per_s` nor `concurrency`, so it says nothing of the load"
        yield diagnose("S312", message, path=WORKLOAD, part="key")
    else:
        yield from _arrival_suits(load)


def _trace_says_all(load: Workload) -> Iterator[Diagnostic]:
    for name in ("input_tokens", "output_tokens", "requests_per_s", "concurrency", "requests", "arrival"):
        if getattr(load, name) is not None:
            yield _exclusive("trace", name, "a trace holds the lengths and arrival times of its requests")


def _arrival_suits(load: Workload) -> Iterator[Diagnostic]:
    """poisson goes with a rate; closed and static with a concurrency."""
    is_open = load.requests_per_s is not None
    path = (*WORKLOAD, "arrival")
    if load.arrival is not None and (load.arrival == "poisson") != is_open:
        given = "requests_per_s" if is_open else "concurrency"
        message = f"`arrival: {load.arrival}` does not go with `{given}`"
        fix = Fix("leave out `arrival`", (Edit("remove", path),))
        yield diagnose("S312", message, path=path, labels=[Label("", (*WORKLOAD, given))], fixes=[fix])
    if is_open and load.requests is not None:
        message = "`requests` ends a closed loop, and `requests_per_s` makes this an open one"
        fix = Fix("leave out `requests`", (Edit("remove", (*WORKLOAD, "requests")),))
        yield diagnose("S312", message, path=(*WORKLOAD, "requests"), part="key", fixes=[fix])


def _exclusive(kept: str, other: str, why: str) -> Diagnostic:
    """Two keys of a workload that exclude each other."""
    path = (*WORKLOAD, other)
    return diagnose(
        "S312",
        f"`{kept}` and `{other}` exclude each other: {why}",
        path=path,
        part="key",
        labels=[Label("", (*WORKLOAD, kept), part="key")],
        fixes=[
            Fix(f"leave out `{other}`", (Edit("remove", path),)),
            Fix(f"leave out `{kept}`", (Edit("remove", (*WORKLOAD, kept)),)),
        ],
    )


def requests_fit(serve: Serve) -> Iterator[Diagnostic]:
    """input_tokens + output_tokens <= max_seq_len."""
    load = serve.workload
    if load is None or load.input_tokens is None or load.output_tokens is None:
        return
    total = load.input_tokens + load.output_tokens
    if total > serve.max_seq_len:
        path = ("serve", "max_seq_len")
        yield diagnose(
            "S313",
            f"the mean request has {total:,} tokens, `serve.max_seq_len` is {serve.max_seq_len:,}",
            path=path,
            labels=[
                Label(f"{load.input_tokens:,}", (*WORKLOAD, "input_tokens")),
                Label(f"and {load.output_tokens:,}", (*WORKLOAD, "output_tokens")),
            ],
            fixes=[Fix(f"`max_seq_len: {2 * total}` leaves room for longer ones", (Edit("set", path, 2 * total),))],
        )


def sequences_fit_positions(model: Model, serve: Serve) -> Iterator[Diagnostic]:
    yield from longer_than_model(model, serve.max_seq_len, ("serve", "max_seq_len"), "the server accepts")


def percentiles_are_ordered(serve: Serve) -> Iterator[Diagnostic]:
    """A median is at most the 99th percentile."""
    if serve.slo is None:
        return
    for kind in ("ttft", "tpot"):
        median, tail = getattr(serve.slo, f"{kind}_p50_ms"), getattr(serve.slo, f"{kind}_p99_ms")
        if median is not None and tail is not None and median > tail:
            path = ("serve", "slo", f"{kind}_p50_ms")
            yield diagnose(
                "S314",
                f"the median may be {median:g} ms, the 99th percentile {tail:g} ms",
                path=path,
                labels=[Label("", ("serve", "slo", f"{kind}_p99_ms"))],
                fixes=[Fix(f"leave out `{kind}_p50_ms`", (Edit("remove", path),))],
            )
