"""Compile a graph for a TPU slice that is not there, with the compiler that TPUs use (libtpu). Run in the environment `tpu`.

    python compile_for_tpu.py GRAPH.mlir TOPOLOGY DEVICES OUT.hlo [--quick] [--donate-all]

prints a line of JSON: `memory` in bytes a device, or `refused` with what the compiler said. Imports nothing of llmc.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"  # nothing may look for a real TPU
os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # nor ask a cloud about one
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")
os.environ.setdefault("TPU_MIN_LOG_LEVEL", "3")
os.environ.setdefault(
    "ALLOW_MULTIPLE_LIBTPU_LOAD", "true"
)  # several compilers side by side: there is no device to share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("graph", type=Path)
    parser.add_argument("topology", help="such as v5p:4x4x8")
    parser.add_argument("devices", type=int)
    parser.add_argument("--slices", type=int, default=1, help="how many of the topology; devices are those of all")
    parser.add_argument("out", type=Path, help="where the compiled program's text goes")
    parser.add_argument("--quick", action="store_true", help="optimise little: half the time, nearly the same memory")
    parser.add_argument("--donate-all", action="store_true", help="every argument's memory may be used for results")
    args = parser.parse_args()
    print(json.dumps(compiled(args)))


def compiled(args: argparse.Namespace) -> dict[str, Any]:
    import jax  # pyright: ignore[reportMissingImports]
    from jax._src.interpreters import mlir  # pyright: ignore[reportMissingImports]
    from jax._src.lib import xla_client  # pyright: ignore[reportMissingImports]
    from jaxlib.mlir import ir  # pyright: ignore[reportMissingImports]

    devices = devices_of(args.topology, slices=args.slices)[: args.devices]
    options = options_for(devices)
    if args.quick:
        options.executable_build_options.exec_time_optimization_effort = -1.0
    started_s = time.perf_counter()
    with mlir.make_ir_context():
        module = ir.Module.parse(args.graph.read_text(encoding="utf-8"))
        annotate_arguments(module, donates_all=args.donate_all)
        try:
            done = devices[0].client.compile(module, xla_client.DeviceList(tuple(devices)), options)
        except jax.errors.JaxRuntimeError as fault:
            return {"refused": str(fault), "seconds": time.perf_counter() - started_s}
    args.out.write_text(done.hlo_modules()[0].to_string(), encoding="utf-8")
    memory = done.get_compiled_memory_stats()
    names = ("argument", "output", "alias", "temp", "generated_code")
    return {
        "memory": {name: getattr(memory, f"{name}_size_in_bytes") for name in names},
        "peak": memory.peak_memory_in_bytes,
        "seconds": time.perf_counter() - started_s,
    }


def devices_of(topology: str, *, slices: int = 1) -> list[Any]:
    """Devices that are not there, in the plan's order."""
    from jax.experimental import topologies  # pyright: ignore[reportMissingImports]

    own: dict[str, Any] = {"chip_config_name": "megacore"} if topology.startswith("v4:") else {}
    if slices > 1:
        own["num_slices"] = slices
    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology, **own).devices
    places = {each.id: (getattr(each, "slice_index", 0), tuple(each.coords)[::-1]) for each in devices}
    return sorted(devices, key=lambda each: places[each.id])


def options_for(devices: list[Any]) -> Any:
    """One program on all devices."""
    import numpy as np
    from jax._src.lib import xla_client  # pyright: ignore[reportMissingImports]

    options = xla_client.CompileOptions()
    options.num_replicas, options.num_partitions = 1, len(devices)
    build = options.executable_build_options
    build.num_replicas, build.num_partitions = 1, len(devices)
    build.use_spmd_partitioning, build.use_shardy_partitioner = True, False
    build.allow_spmd_sharding_propagation_to_parameters = [True]
    build.allow_spmd_sharding_propagation_to_output = [True]
    numbers = np.array([[each.id for each in devices]], np.int32)
    build.device_assignment = xla_client.DeviceAssignment.create(numbers)
    return options


def annotate_arguments(module: Any, *, donates_all: bool) -> None:
    """Arguments are cut as the graph says right after it takes them; results take the memory of what they replace."""
    from jaxlib.mlir import ir  # pyright: ignore[reportMissingImports]

    (main,) = (each for each in module.body.operations if each.attributes["sym_name"].value == "main")
    arguments = list(main.regions[0].blocks[0].arguments)
    known = main.attributes["arg_attrs"] if "arg_attrs" in main.attributes else [{} for _ in arguments]
    found = []
    for argument, own in zip(arguments, known, strict=True):
        attributes = {each.name: each.attr for each in own} if own else {}
        users = [use.owner for use in argument.uses]
        for user in users:
            if is_annotation(user):
                attributes["mhlo.sharding"] = user.attributes["mhlo.sharding"]
        readers = [use.owner for user in users for use in (user.results[0].uses if is_annotation(user) else ())]
        readers += [user for user in users if not is_annotation(user)]
        is_summed = len(readers) == 1 and readers[0].name == "stablehlo.add"  # a gradient, which is added to
        if is_summed or donates_all:
            attributes["jax.buffer_donor"] = ir.BoolAttr.get(True)
        found.append(ir.DictAttr.get(attributes))
    main.attributes["arg_attrs"] = ir.ArrayAttr.get(found)


def is_annotation(operation: Any) -> bool:
    return operation.name == "stablehlo.custom_call" and operation.attributes["call_target_name"].value == "Sharding"


if __name__ == "__main__":
    main()
