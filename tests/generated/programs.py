"""Builds programs from small specs and imports what was generated, each build by itself."""

from __future__ import annotations

import copy
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from llmc.compiler.emit.tree import Tree, render_program, write_tree
from llmc.compiler.lower.lower import lower
from llmc.compiler.lower.views import Place
from llmc.compiler.planner.layout import Layout
from llmc.compiler.planner.plan import (
    Memory,
    ModelFacts,
    Plan,
    ServeLayout,
    ServeMemory,
    ServePlan,
    ServePrediction,
    Time,
    TrainPlan,
    TrainPrediction,
)
from llmc.spec.base import place
from llmc.spec.document import Spec

SIBLINGS = ("data", "kernels", "model", "parallel", "serve", "train")
TINY: dict[str, Any] = {
    "name": "tiny",
    "model": {
        "hidden_size": 64,
        "num_layers": 3,
        "num_heads": 4,
        "num_kv_heads": 2,
        "intermediate_size": 96,
        "vocab_size": 512,
        "max_seq_len": 128,
        "attention": {"kind": "gqa"},
        "position": {"kind": "rope"},
        "mlp": {"activation": "swiglu"},
        "norm": {"kind": "rmsnorm"},
    },
    "hardware": {
        "accelerator": {
            "name": "cpu",
            "kind": "cpu",
            "memory_gib": 8,
            "memory_gb_s": 20,
            "peak_tflops": {"fp32": 0.2, "bf16": 0.4},
            "per_node": 1,
        }
    },
    "data": {"sources": [{"source": "python-stdlib"}], "tokenizer": {"train": "bpe"}},
    "train": {"objective": "causal_lm", "steps": 20, "seq_len": 64, "global_batch": 8, "precision": "fp32"},
    "serve": {"max_seq_len": 128, "weights": {"dtype": "fp32"}, "kv_cache": {"dtype": "fp32"}},
}
"""A spec as data, for tests that vary it."""
NPU: dict[str, Any] = {
    "accelerator": TINY["hardware"]["accelerator"] | {"name": "ascend-910b", "kind": "npu", "vendor": "huawei"}
}
TPU: dict[str, Any] = {
    "accelerator": {
        "name": "tpu-v5e",
        "kind": "tpu",
        "memory_gib": 16,
        "memory_gb_s": 819,
        "peak_tflops": {"bf16": 197},
        "torus": {"dims": 2, "gb_s": 50},
        "per_node": 8,
    },
    "topology": "2x4",
}
"""A slice of eight, for `hardware`."""


def tiny_spec(*, without: tuple[str, ...] = (), **changes: Any) -> Spec:
    """TINY with sections replaced or, for `model`, fields of it replaced."""
    data = copy.deepcopy(TINY)
    data["model"].update(changes.pop("model", {}))
    data.update(changes)
    spec = Spec.model_validate({key: value for key, value in data.items() if key not in without})
    place(spec)
    return spec


def plan_of(spec: Spec, *, layout: Layout | None = None, **served: int) -> Plan:
    """A plan with made-up figures: lowering only prints them. `served` are degrees of the server's layout."""
    memory = Memory(peak=1.0, parameters=0.2, gradients=0.2, optimizer=0.4, activations=0.15, buffers=0.05)
    names = ("compute", "recompute", "tp_comm", "dp_comm", "pp_comm", "cp_comm", "ep_comm", "bubble", "optimizer")
    time = Time(**dict.fromkeys(names, 0.0), exposed_comm=0.0)
    predicted = TrainPrediction(
        step_time_s=1.0,
        step_time_low_s=0.8,
        step_time_high_s=1.2,
        tokens_per_s=512.0,
        tokens_per_s_per_device=512.0,
        model_tflops_per_device=0.1,
        mfu=0.25,
        memory_gib=memory,
        time_s=time,
        device_hours=0.1,
        cost_usd=None,
        energy_mwh=None,
    )
    train = None
    if spec.train is not None:
        layout = layout or Layout(micro_batch=4, grad_accumulation=(spec.train[0].global_batch or 4) // 4)
        train = TrainPlan(layout=layout, predicted=predicted, fits=True)
    facts = ModelFacts(parameters=123_456, active_parameters=123_456)
    serve = serve_plan_of(spec, **served) if spec.serve is not None else None
    return Plan(name=spec.name, spec_sha256=None, model=facts, train=train, serve=serve)


def serve_plan_of(spec: Spec, *, tp: int = 1, pp: int = 1, ep: int = 1, replicas: int = 1) -> ServePlan:
    assert spec.serve is not None
    layout = ServeLayout(
        tp=tp,
        pp=pp,
        ep=ep,
        replicas=replicas,
        max_batch=4,
        prefill_chunk=64,
        weights=spec.serve.weights.dtype[0],
        kv_dtype=spec.serve.kv_cache.dtype,
    )
    predicted = ServePrediction(
        ttft_p50_ms=20.0,
        ttft_p99_ms=60.0,
        tpot_p50_ms=5.0,
        tpot_p99_ms=9.0,
        output_tokens_per_s=200.0,
        output_tokens_per_s_per_device=200.0,
        requests_per_s=3.0,
        memory_gib=ServeMemory(peak=0.5, weights=0.3, kv_cache=0.1, buffers=0.1),
        kv_cache_tokens=512,
    )
    return ServePlan(layout=layout, predicted=predicted, meets_slo=True, devices=tp * pp * replicas)


def tree_of(spec: Spec, *, plan: Plan | None = None) -> Tree:
    """What a build of the spec writes; the spec stands in specs/tiny.yaml, the build goes to build/<name>."""
    where = Place(spec_file=Path("specs/tiny.yaml"), out_dir=Path("build") / spec.name)
    return render_program(lower(spec, plan or plan_of(spec), place=where), locate=lambda key: None)


def build(spec: Spec, folder: Path, *, plan: Plan | None = None) -> Path:
    write_tree(tree_of(spec, plan=plan), folder)
    return folder


@contextmanager
def imported(folder: Path, *names: str) -> Iterator[list[ModuleType]]:
    """The named modules of a build. Builds share their modules' names, so what was imported is forgotten at the end."""
    sys.path.insert(0, str(folder))
    try:
        yield [importlib.import_module(name) for name in names]
    finally:
        sys.path.remove(str(folder))
        forget_programs()


def forget_programs() -> None:
    """The next import of `model` or one of its siblings reads the program on the path."""
    for name in list(sys.modules):
        if name.partition(".")[0] in SIBLINGS:
            del sys.modules[name]
