"""What servers with kernels take on this machine: little programs that are built for it, each in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..compiler.lower.serving import SPIN_COUNT
from ..compiler.pipeline import PlanEntry, build
from ..compiler.planner.serve_simulation import played_load

if TYPE_CHECKING:
    from ..runtimes.pytorch.calibrate import Calibration, ProductTimes
    from ..runtimes.serving.arrivals import ClosedLoop

TRIED_S = 2.0
"""Of a server, for each figure."""
SHALLOW, DEEP = 2, 10
"""Layers of the servers that are measured."""
HIDDEN, VOCAB = 64, 32_000
SERVER = """llmc: 1
name: measured
model: {{family: llama, hidden_size: {hidden}, num_layers: {layers}, num_heads: 1, num_kv_heads: 1, intermediate_size: {hidden}, vocab_size: {vocab}, max_seq_len: 1024}}
hardware: {{accelerator: cpu}}
serve: {{max_seq_len: 1024, weights: {{dtype: {weights}}}, kv_cache: {{dtype: bf16}}, layout: {{max_batch: {most}}}}}
"""
WHOLE = """llmc: 1
extends: here.yaml
name: measured
model: {family: llama, hidden_size: 768, num_layers: 12, num_heads: 12, num_kv_heads: 4, intermediate_size: 2048, vocab_size: 32000, max_seq_len: 512}
serve: {max_seq_len: 512, weights: {dtype: bf16}, kv_cache: {dtype: bf16}, layout: {max_batch: 4}, workload: {input_tokens: 64, output_tokens: 32, concurrency: 1}}
"""
"""A server with something to compute: 100M parameters."""
PROMPT = 64
PRODUCTS = 4
"""Of a layer: queries with keys and values, output, gate with up, down."""
LEAST_S, LEAST_STRETCH = 1e-7, 0.1
MANY, ANSWERS, ANSWER = 4, 12, 64
"""Answers at a time, how many, and their tokens."""


class Stretch(NamedTuple):
    """How much longer kernels take in a server with clients than by themselves: all are on the same cores."""

    reading: float = 1.0
    computing: float = 1.0


BY_THEMSELVES = Stretch()


@dataclass(frozen=True)
class KernelTimes:
    """What servers with kernels take here."""

    step_s: float
    layer_s: float
    launch_s: float
    request_s: float
    first_token_s: float
    attention_flops_per_s: float
    products: Mapping[str, ProductTimes]
    stretch: Stretch = BY_THEMSELVES


def measure_kernels(found: Calibration) -> KernelTimes | None:
    """Of little servers, each in a process of its own. None without a C++ compiler: there are no kernels then."""
    from ..runtimes.kernels.compile import find_compiler
    from ..runtimes.serving.arrivals import ClosedLoop

    if find_compiler() is None:
        print("no C++ compiler on this machine: servers with kernels are not measured", file=sys.stderr)
        return None
    print("measuring servers with kernels, about a minute; compiling them the first time takes another", flush=True)
    with tempfile.TemporaryDirectory() as name:
        programs = [("bf16", SHALLOW), ("bf16", DEEP), ("int8", SHALLOW), ("int4", SHALLOW)]
        times = [_measured_server(Path(name), weights=weights, layers=layers) for weights, layers in programs]
        loads = {at_a_time: ClosedLoop(at_a_time, [(16, ANSWER)] * (ANSWERS + at_a_time)) for at_a_time in (1, MANY)}
        alone, together = _over_http(Path(name, "bf16-2"), loads).values()
    shallow, deep, eight, four = times
    products = {label: _product_times(each) for label, each in (("bf16", shallow), ("int8", eight), ("int4", four))}
    layer_s = (deep["token_s"] - shallow["token_s"]) / (DEEP - SHALLOW)
    launch_s = max(min(products["bf16"].launch_s, layer_s / PRODUCTS), LEAST_S)  # of a step that is recorded
    head_s = 2 * HIDDEN * VOCAB / found.read_bytes_per_s
    return KernelTimes(
        step_s=max(alone["tpot_p50_ms"] / 1e3 - SHALLOW * layer_s - head_s, LEAST_S),
        layer_s=max(layer_s - PRODUCTS * launch_s, LEAST_S),
        launch_s=launch_s,
        request_s=max((together["tpot_p50_ms"] - alone["tpot_p50_ms"]) / 1e3 / (MANY - 1), LEAST_S),
        first_token_s=max(alone["ttft_p50_ms"] / 1e3 - shallow["token_s"], LEAST_S),
        attention_flops_per_s=shallow["attention_flops_per_s"],
        products=products,
    )


def measure_stretch(text: str, kernels: KernelTimes) -> Stretch:
    """Of a server of 100M parameters, one answer at a time: what it takes over what its plan by `text`, the calibration so far, says."""
    from ..runtimes.serving.arrivals import ClosedLoop

    print("measuring a server with something to compute, about twenty seconds", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "here.yaml").write_text(text, encoding="utf-8")
        entry = _build(WHOLE, folder / "program")
        load = ClosedLoop(1, [(PROMPT, ANSWER // 2)] * (2 * ANSWERS))
        (measured,) = _over_http(folder / "program", {1: load}).values()
    assert entry.spec is not None
    assert entry.spec.serve is not None
    assert entry.serve is not None
    return stretch_of(measured, played_load(entry.serve.found.good[0], entry.spec.serve, load), kernels)


def stretch_of(measured: Mapping[str, float], planned: Mapping[str, float], kernels: KernelTimes) -> Stretch:
    """From the figures of answers that are alone. Beside what was measured over HTTP already, a token takes the reading of all weights and
    one row's arithmetic, and a prompt the same reading and the arithmetic of its rows."""

    def parts(figures: Mapping[str, float]) -> tuple[float, float]:
        token_s = figures["tpot_p50_ms"] / 1e3 - kernels.step_s - kernels.request_s
        prompt_s = figures["ttft_p50_ms"] / 1e3 - kernels.first_token_s - kernels.step_s - kernels.request_s
        row_s = (prompt_s - token_s) / (PROMPT - 1)
        return token_s - row_s, row_s

    (found_read_s, found_row_s), (read_s, row_s) = parts(measured), parts(planned)
    return Stretch(max(found_read_s / read_s, LEAST_STRETCH), max(found_row_s / row_s, LEAST_STRETCH))


def _build(spec: str, out: Path) -> PlanEntry:
    """The program of a spec, which lies beside it; what was planned for it."""
    from ..compiler.emit.tree import write_tree

    file = out.with_suffix(".yaml")
    file.write_text(spec, encoding="utf-8")
    result = build(file, out)
    assert result.tree is not None, [each.message for each in result.diagnostics]
    write_tree(result.tree, out)
    return result.entry


def _measured_server(folder: Path, *, weights: str, layers: int) -> dict[str, Any]:
    out = folder / f"{weights}-{layers}"
    _build(SERVER.format(hidden=HIDDEN, vocab=VOCAB, layers=layers, weights=weights, most=MANY), out)
    command = [sys.executable, "-m", "llmc.runtimes.pytorch.calibrate_server", str(out), str(TRIED_S)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=_environment())
    return json.loads(done.stdout)


def _over_http(program: Path, loads: Mapping[int, ClosedLoop]) -> dict[int, dict[str, float]]:
    """What answers take, so many at a time."""
    from ..runtimes.serving.bench import Target, measure
    from ..runtimes.serving.bench_report import figures

    command = [sys.executable, str(program / "serve.py"), "--random", "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=_environment())
    try:
        assert server.stdout is not None
        target = Target(server.stdout.readline().removeprefix("serving on ").strip(), "measured", token_ids=VOCAB)

        asyncio.run(measure(target, max(loads.items())[1]))  # the first ones prepare
        return {
            number: figures(asyncio.run(measure(target, load)), slo={}, predicted={}) for number, load in loads.items()
        }
    finally:
        server.terminate()
        server.wait(60)


def _environment() -> dict[str, str]:
    """That of a server, without what may turn kernels off."""
    own = {name: value for name, value in os.environ.items() if name != "LLMC_KERNELS"}
    return {"GOMP_SPINCOUNT": str(SPIN_COUNT)} | own


def _product_times(found: Mapping[str, Any]) -> ProductTimes:
    from ..runtimes.pytorch.calibrate import ProductTimes

    return ProductTimes(**found["products"])
