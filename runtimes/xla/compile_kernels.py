"""Compile kernels for TPUs that are not there, with the compiler that TPUs use (libtpu). Run in the environment `tpu`.

    python compile_kernels.py FOLDER TOPOLOGY...

prints a line of JSON for each graph that FOLDER/graphs.json names and each topology: its chip, `seconds`, and `vmem_bytes` that the kernel
takes; or `fault`, what the compiler said against it. Imports nothing of llmc.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path
from typing import Any

from compile_for_tpu import devices_of, options_for  # the file beside this one

_TAKEN = re.compile(r'"used_scoped_memory_configs":\[\{"memory_space":"1","offset":"\d+","size":"(\d+)"')
_TOO_MUCH = re.compile(r"(?:Used|size) ([\d.]+)([KMG]) (?:of|and limit)")
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("topologies", nargs="+", help="such as v5p:2x2x1; kernels are compiled for one chip of it")
    args = parser.parse_args()
    graphs = json.loads((args.folder / "graphs.json").read_text(encoding="utf-8"))
    for topology in args.topologies:
        devices = devices_of(topology)[:1]
        for graph in graphs:
            told = compiled((args.folder / graph["graph"]).read_text(encoding="utf-8"), devices)
            print(json.dumps({**graph, "chip": topology.partition(":")[0], **told}), flush=True)


def compiled(text: str, devices: list[Any]) -> dict[str, Any]:
    import jax  # pyright: ignore[reportMissingImports]
    from jax._src.interpreters import mlir  # pyright: ignore[reportMissingImports]
    from jax._src.lib import xla_client  # pyright: ignore[reportMissingImports]
    from jaxlib.mlir import ir  # pyright: ignore[reportMissingImports]

    started_s = time.perf_counter()
    with mlir.make_ir_context():
        module = ir.Module.parse(text)
        try:
            done = devices[0].client.compile(module, xla_client.DeviceList(tuple(devices)), options_for(devices))
        except jax.errors.JaxRuntimeError as fault:
            return {"seconds": time.perf_counter() - started_s, **_refused(" ".join(str(fault).split()))}
    taken = _TAKEN.findall(done.hlo_modules()[0].to_string())
    return {"seconds": time.perf_counter() - started_s, "vmem_bytes": max(map(int, taken), default=0)}


def _refused(said: str) -> dict[str, Any]:
    """What a kernel would take, where that is what stands against it."""
    needs = _TOO_MUCH.search(said) if "memory space vmem" in said else None
    return {"fault": said[:300]} if needs is None else {"vmem_bytes": round(float(needs[1]) * _UNITS[needs[2]])}


if __name__ == "__main__":
    main()
