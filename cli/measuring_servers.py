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
from typing import TYPE_CHECKING, Any

from ..compiler.lower.serving import SPIN_COUNT
from ..compiler.pipeline import build

if TYPE_CHECKING:
    from ..runtimes.pytorch.calibrate import Calibration, ProductTimes

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
PRODUCTS = 4
"""Of a layer: queries with keys and values, output, gate with up, down."""
LEAST_S = 1e-7
MANY, ANSWERS, ANSWER = 4, 12, 64
"""Answers at a time, how many, and their tokens."""


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


def measure_kernels(found: Calibration) -> KernelTimes | None:
    """Of little servers, each in a process of its own. None without a C++ compiler: there are no kernels then."""
    from ..runtimes.kernels.compile import find_compiler

    if find_compiler() is None:
        print("no C++ compiler on this machine: servers with kernels are not measured", file=sys.stderr)
        return None
    print("measuring servers with kernels, about a minute; compiling them the first time takes another", flush=True)
    with tempfile.TemporaryDirectory() as name:
        programs = [("bf16", SHALLOW), ("bf16", DEEP), ("int8", SHALLOW), ("int4", SHALLOW)]
        times = [_measured_server(Path(name), weights=weights, layers=layers) for weights, layers in programs]
        alone, together = _over_http(Path(name, "bf16-2"))
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


def _measured_server(folder: Path, *, weights: str, layers: int) -> dict[str, Any]:
    from ..compiler.emit.tree import write_tree

    spec, out = folder / f"{weights}-{layers}.yaml", folder / f"{weights}-{layers}"
    spec.write_text(
        SERVER.format(hidden=HIDDEN, vocab=VOCAB, layers=layers, weights=weights, most=MANY), encoding="utf-8"
    )
    result = build(spec, out)
    assert result.tree is not None, [each.message for each in result.diagnostics]
    write_tree(result.tree, out)
    command = [sys.executable, "-m", "llmc.runtimes.pytorch.calibrate_server", str(out), str(TRIED_S)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=_environment())
    return json.loads(done.stdout)


def _over_http(program: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Times of answers that are alone, and of MANY at a time."""
    from ..runtimes.serving.arrivals import ClosedLoop
    from ..runtimes.serving.bench import Target, measure
    from ..runtimes.serving.bench_report import figures

    command = [sys.executable, str(program / "serve.py"), "--random", "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=_environment())
    try:
        assert server.stdout is not None
        target = Target(server.stdout.readline().removeprefix("serving on ").strip(), "measured", token_ids=VOCAB)

        def times(at_a_time: int) -> dict[str, float]:
            load = ClosedLoop(at_a_time, [(16, ANSWER)] * (ANSWERS + at_a_time))
            return figures(asyncio.run(measure(target, load)), slo={}, predicted={})

        times(MANY)  # the first ones prepare
        return times(1), times(MANY)
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
