"""`llmc doctor --calibrate FILE`: this machine measured, as an entry that specs extend.

What PyTorch does is measured in this process; what servers with kernels do, of little programs that are built for it.
"""

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

from ..compiler.pipeline import build
from .faults import FINE, WRONG_USAGE

if TYPE_CHECKING:
    from ..runtimes.pytorch.calibrate import Calibration, ProductTimes

MANY_ROWS, WEIGHT_SIZE = 128, 1536
WEIGHT_BYTES = {"fp32": 4, "bf16": 2, "int8": 8.25 / 8, "int4": 4.5 / 8}
"""Of the measured products, as runtimes/pytorch/calibrate.py has them; a test compares."""

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

HEAD = """\
# This machine, measured by `llmc doctor --calibrate`: torch {torch}, {threads} {words}, {processor}.
# In a spec: `extends: {file}`. Measure on an idle machine, and again when it changes.
"""


def write_calibration(file: Path) -> int:
    try:
        import torch

        from ..runtimes.pytorch.calibrate import calibrate
    except ImportError as error:
        print(f"llmc doctor --calibrate: {error} (pip install 'llmc-compiler[torch]')", file=sys.stderr)
        return WRONG_USAGE
    print("measuring PyTorch, about fifteen seconds", flush=True)
    found = calibrate()
    kernels = measure_kernels(found)
    text = calibration_text(
        found,
        file=file.name,
        torch=torch.__version__,
        processor=_processor(),
        memory_gib=_memory_gib(),
        kernels=kernels,
    )
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        print(f"llmc doctor --calibrate: {file} cannot be written: {error.strerror}", file=sys.stderr)
        return WRONG_USAGE
    print(text, end="")
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"warning: the load is {load:.1f}: others use this machine, and the figures are too low", file=sys.stderr)
    return FINE


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


PRODUCTS = 4
"""Of a layer: queries with keys and values, output, gate with up, down."""
LEAST_S = 1e-7
MANY, ANSWERS, ANSWER = 4, 12, 64
"""Answers at a time, how many, and their tokens."""


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
    """Without what may turn kernels off."""
    return {name: value for name, value in os.environ.items() if name != "LLMC_KERNELS"}


def _product_times(found: Mapping[str, Any]) -> ProductTimes:
    from ..runtimes.pytorch.calibrate import ProductTimes

    return ProductTimes(**found["products"])


def calibration_text(
    found: Calibration,
    *,
    file: str,
    torch: str,
    processor: str,
    memory_gib: float,
    kernels: KernelTimes | None = None,
) -> str:
    """YAML whose every figure says how it was measured."""
    peaks = ", ".join(f"{name}: {rate / 1e12:.3g}" for name, rate in found.flops_per_s.items())
    rates = "\n".join(f"      {name}: {_rate(name, times, found)}" for name, times in found.products.items())
    words = "thread" if found.threads == 1 else "threads"
    head = HEAD.format(torch=torch, threads=found.threads, words=words, processor=processor, file=file)
    return f"""{head}hardware:
  accelerator:
    like: cpu
    memory_gib: {memory_gib:.1f}  # MemTotal
    memory_gb_s: {found.read_bytes_per_s / 1e9:.1f}  # torch sums 256 MiB of fp32
    peak_tflops: {{{peaks}}}  # torch multiplies matrices of 1024 x 1024
    intra_node: {{link: shared memory, gb_s: {found.copied_bytes_per_s / 2e9:.1f}, domain: 1}}  # half of what torch copies
    products:  # torch.nn.functional.linear with weights of 1536 x 1536: of 128 rows, of one, and with nothing to compute
{rates}
    op_us: {found.op_s * 1e6:.2f}  # torch adds to 16 numbers
{"" if kernels is None else _kernels(kernels, found)}"""


def _kernels(kernels: KernelTimes, found: Calibration) -> str:
    rates = "\n".join(
        f"        {name}: {_rate(name, times, found, launch_s=kernels.launch_s)}"
        for name, times in kernels.products.items()
    )
    attention = kernels.attention_flops_per_s / found.flops_per_s["bf16"]
    return f"""\
    kernels:  # of servers with nothing to compute, of {SHALLOW} and {DEEP} layers: a token of an answer that is alone
      step_us: {kernels.step_s * 1e6:.1f}  # without any layer, over HTTP, with the client on this machine
      layer_us: {kernels.layer_s * 1e6:.1f}  # each layer more
      request_us: {kernels.request_s * 1e6:.1f}  # each answer more in a step
      first_token_us: {kernels.first_token_s * 1e6:.1f}  # over HTTP, beside the step
      attention: {min(attention, 2):.2f}  # of a prompt of 512 tokens, the pairs that are seen
      products:  # as above, with the kernels of linear layers, as layers start them
{rates}
"""


def _rate(name: str, times: ProductTimes, found: Calibration, *, launch_s: float | None = None) -> str:
    """A format's line: times as shares of what this machine could do. `launch_s` is that of a step, where it is not one of its own."""
    alone_s, peak = times.launch_s, found.flops_per_s["fp32" if name == "fp32" else "bf16"]
    flops, size = 2 * MANY_ROWS * WEIGHT_SIZE**2, WEIGHT_BYTES[name] * WEIGHT_SIZE**2
    compute = flops / max(times.many_rows_s - alone_s, 1e-9) / peak
    memory = size / max(times.one_row_s - alone_s, 1e-9) / found.read_bytes_per_s
    return f"{{compute: {min(compute, 2):.2f}, memory: {min(memory, 2):.2f}, launch_us: {(launch_s or alone_s) * 1e6:.1f}}}"


def _processor() -> str:
    from .checking import cpu_model

    return "".join(character if character.isprintable() else "?" for character in cpu_model())


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
