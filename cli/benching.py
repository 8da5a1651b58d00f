"""`llmc run bench`: the spec's workload, sent to a running server, beside what its plan expects of these very requests."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..compiler.pipeline import plan_specs
from .faults import FINE, SPEC_HAS_ERRORS
from .printing import print_diagnostics

if TYPE_CHECKING:
    from ..compiler.planner.serve_plan import ServeOutcome
    from ..runtimes.serving.arrivals import Arrival, ClosedLoop
    from ..spec.document import Spec
    from ..spec.serving import Workload

DEFAULT_REQUESTS = 200
DEFAULT_TOKENS = 64
"""Of prompts and of answers, where neither the spec nor an option says."""


def run_bench(spec_file: Path, overrides: Sequence[str], args: Sequence[str]) -> int:
    """Exit status 1 if a request failed; refusals are answers."""
    options = _parser().parse_args(args)
    (entry,) = plan_specs([spec_file], overrides)
    if entry.spec is None or entry.spec.serve is None:
        print_diagnostics(entry.diagnostics)
        print("llmc run bench: a spec with `serve` says what to send and what to expect", file=sys.stderr)
        return SPEC_HAS_ERRORS
    from ..runtimes.common.errors import RunError

    try:
        return _bench(entry.spec, entry.serve, options, folder=spec_file.parent)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return SPEC_HAS_ERRORS


def _bench(spec: Spec, planned: ServeOutcome | None, options: argparse.Namespace, *, folder: Path) -> int:
    from ..compiler.planner.serve_simulation import played_load
    from ..runtimes.serving.bench import Target, measure
    from ..runtimes.serving.bench_report import figures, plot, table

    assert spec.serve is not None
    target = Target(options.url, spec.name, key=options.key, token_ids=min(options.token_ids, spec.model.vocab_size))
    slo = spec.serve.slo.model_dump(exclude_none=True) if spec.serve.slo else {}
    load = load_of(spec.serve.workload, options, longest=spec.serve.max_seq_len, folder=folder)
    measured = asyncio.run(measure(target, load, seed=options.seed))
    predicted = played_load(planned.found.good[0], spec.serve, load) if planned and planned.found.good else {}
    found = figures(measured, slo=slo, predicted=predicted)
    print(json.dumps(found, indent=2) if options.json else table(found))
    if options.plot is not None:
        plot(measured, options.plot, slo=slo)
        print(f"wrote {options.plot}", file=sys.stderr)
    return FINE if not measured.errors else 1


def load_of(
    workload: Workload | None, options: argparse.Namespace, *, longest: int, folder: Path
) -> Sequence[Arrival] | ClosedLoop:
    """What to send: options first, then the workload of the spec, which lies in `folder`."""
    from ..runtimes.serving.arrivals import bursts, closed_loop, fixed, read_trace, varied

    if options.trace:
        return read_trace(Path(options.trace))
    if workload and workload.trace and not (options.rate or options.concurrency):
        return read_trace(folder / workload.trace)
    asked = options.input_tokens or (workload and workload.input_tokens) or DEFAULT_TOKENS
    answered = options.output_tokens or (workload and workload.output_tokens) or DEFAULT_TOKENS
    lengths = varied(asked, answered, longest=longest) if options.spread else fixed(asked, answered)
    rate = options.rate or (workload and workload.requests_per_s)
    concurrency = options.concurrency or (workload and workload.concurrency)
    if not rate or (options.concurrency and not options.rate):
        return closed_loop(concurrency or 1, num_requests=options.requests, lengths=lengths, seed=options.seed)
    return bursts(rate, burst=options.burst, num_requests=options.requests, lengths=lengths, seed=options.seed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llmc run bench SPEC", description=__doc__, allow_abbrev=False)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of the server: %(default)s")
    parser.add_argument("--key", help="an API key, if the server asks for one")
    parser.add_argument("--requests", type=_count, default=DEFAULT_REQUESTS, metavar="N", help="%(default)s")
    load = parser.add_mutually_exclusive_group()
    load.add_argument("--rate", type=float, metavar="R", help="open loop: requests a second, Poisson")
    load.add_argument("--concurrency", type=_count, metavar="C", help="closed loop: requests in flight")
    load.add_argument(
        "--trace", metavar="FILE", help="recorded requests: a .jsonl of time_s, input_tokens, output_tokens"
    )
    parser.add_argument(
        "--burst", type=_count, default=1, metavar="B", help="requests that come at once, at the same rate"
    )
    parser.add_argument("--input-tokens", type=_count, metavar="N", help="mean length of prompts")
    parser.add_argument("--output-tokens", type=_count, metavar="N", help="mean length of answers")
    parser.add_argument("--spread", action="store_true", help="log-normal lengths with these means, not all the same")
    parser.add_argument("--token-ids", type=_count, default=256, metavar="N", help="prompts are made of ids below this")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="figures as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="a picture of the distributions, such as bench.png")
    return parser


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value
