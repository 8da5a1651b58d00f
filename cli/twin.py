"""`llmc run serve SPEC --simulate ACCELERATOR`: the server that the plan describes, with the cost model in place of the machine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..compiler.pipeline import plan_specs
from .faults import DOES_NOT_FIT
from .printing import print_diagnostics

if TYPE_CHECKING:
    from ..compiler.lower.serving import ServeView
    from ..runtimes.serving.simulation import StepTime


def run_twin(spec_file: Path, overrides: Sequence[str], args: Sequence[str]) -> int:
    options = _parser().parse_args(args)
    (entry,) = plan_specs([spec_file], [*overrides, f"hardware.accelerator={options.simulate}"])
    print_diagnostics(entry.diagnostics)
    if entry.spec is None or entry.serve is None or entry.serve.plan is None or not entry.serve.found.good:
        return entry.exit_code or DOES_NOT_FIT
    from ..compiler.lower.serving import lower_serve
    from ..compiler.planner.serve_simulation import step_time

    chosen = entry.serve.found.good[0]
    view = lower_serve(entry.spec, entry.serve.plan, origin=spec_file.name, device="cpu")
    print(
        f"simulated: one of {chosen.replicas} replicas on {chosen.shape.devices} x {options.simulate}", file=sys.stderr
    )
    _serve(view, step_time(chosen.engine), options, num_stages=chosen.shape.pp)
    return 0


def _serve(view: ServeView, step_time: StepTime, options: argparse.Namespace, *, num_stages: int) -> None:
    from ..runtimes.serving.api import create_app
    from ..runtimes.serving.chat_page import chat_page
    from ..runtimes.serving.engine import Engine
    from ..runtimes.serving.intake import Service
    from ..runtimes.serving.kv import KVBlocks
    from ..runtimes.serving.metrics import Metrics
    from ..runtimes.serving.prefix import PrefixBlocks
    from ..runtimes.serving.scheduler import Scheduler
    from ..runtimes.serving.server import serve
    from ..runtimes.serving.twin import StagedTwinRunner, TwinRunner, TwinSampler
    from ..runtimes.serving.vocabulary import open_vocabulary

    vocabulary = open_vocabulary(options.tokenizer, num_embeddings=view.vocab_size)
    blocks = PrefixBlocks if view.has_prefix_cache else KVBlocks
    scheduler = Scheduler(
        blocks(view.num_blocks, block_tokens=view.block_tokens),
        max_batch=view.max_batch,
        max_seq_len=view.max_seq_len,
        prefill_chunk=view.prefill_chunk,
        max_waiting=view.max_waiting,
        max_waiting_tokens=view.max_waiting_tokens,
        max_wait_steps=view.max_wait_steps,
        is_fixed=view.is_fixed,
        steps_under_way=num_stages,
    )
    metrics = Metrics()
    if num_stages > 1:
        runner = StagedTwinRunner(step_time, num_stages=num_stages, speed=options.speed)
    else:
        runner = TwinRunner(step_time, speed=options.speed)
    engine = Engine(runner, TwinSampler(vocabulary.num_tokens), scheduler, metrics=metrics, stall_s=view.stall_s)
    service = Service(name=view.name, engine=engine, vocabulary=vocabulary, metrics=metrics)
    further = [chat_page(service)] if view.has_page else []
    serve(create_app(service, further=further), host=options.host, port=options.port, drain_s=view.drain_s)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llmc run serve SPEC", description=__doc__, allow_abbrev=False)
    parser.add_argument("--simulate", required=True, metavar="ACCELERATOR", help="a name of the catalog")
    parser.add_argument("--speed", type=float, default=1.0, help="times as fast as it would be: %(default)s")
    parser.add_argument("--tokenizer", type=Path, metavar="PATH", help="a tokenizer.json; numbers for text without")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="%(default)s; 0 takes a free one")
    return parser
