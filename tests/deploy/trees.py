"""Launch files of small specs, without the programs that they launch; and the program that the tests launch instead.

`PROGRAM` trains nothing: a loop over gloo that behaves as a generated train.py does towards its launcher (torchrun's variables,
--resume, --run-dir, --max-steps, metrics.jsonl, SIGTERM), so that a launcher's test takes seconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from programs import TINY, plan_of, tiny_spec

from llmc.compiler.deploy.launch import lower_deploy
from llmc.compiler.emit.program import Program
from llmc.compiler.emit.tree import render_program, write_tree
from llmc.compiler.lower.kernels import lower_kernels
from llmc.compiler.lower.serving import lower_serve
from llmc.compiler.planner.layout import Layout
from llmc.compiler.planner.plan import Plan
from llmc.spec.catalog import accelerator
from llmc.spec.document import Spec

SLO = {"ttft_p99_ms": 400.0, "tpot_p50_ms": 30.0, "tpot_p99_ms": 60.0}
STEPS = 20

PROGRAM = Path(__file__).with_name("stand_in.py")


def cpus(num: int, *, nodes: int = 1) -> dict[str, Any]:
    """Machines of CPUs, as many devices on a node as a test has ranks there."""
    return {"accelerator": TINY["hardware"]["accelerator"] | {"per_node": num}, "nodes": nodes}


def gpus(name: str, *, nodes: int, per_node: int) -> dict[str, Any]:
    known = {key: value for key, value in accelerator(name).items() if key not in ("source", "assumed")}
    return {"accelerator": known | {"name": name}, "nodes": nodes, "per_node": per_node}


def tpus(name: str, topology: str, *, slices: int = 1) -> dict[str, Any]:
    known = {key: value for key, value in accelerator(name).items() if key not in ("source", "assumed")}
    return {"accelerator": known | {"name": name}, "topology": topology, "slices": slices}


def training(deploy: dict[str, Any], hardware: dict[str, Any], **changes: Any) -> tuple[Spec, Plan]:
    """A spec that is only trained, on all devices of the hardware, and a plan of it."""
    spec = tiny_spec(without=("serve",), hardware=hardware, deploy=deploy, **changes)
    return spec, plan_of(spec, layout=Layout(dp_shard=spec.hardware.num_devices))


def serving(
    deploy: dict[str, Any],
    hardware: dict[str, Any],
    *,
    replicas: int = 1,
    tp: int = 1,
    pp: int = 1,
    api: dict[str, Any] | None = None,
    weights: str = "fp32",
    **changes: Any,
) -> tuple[Spec, Plan]:
    """A spec that is only served, and a plan of it with so many replicas."""
    serve = (
        TINY["serve"]
        | {"api": api or {}, "weights": {"dtype": weights}}
        | {"slo": SLO, "workload": {"input_tokens": 32, "requests_per_s": 2.0}}
    )
    spec = tiny_spec(without=("train", "data"), hardware=hardware, deploy=deploy, serve=serve, **changes)
    return spec, with_replicas(plan_of(spec), replicas, tp=tp, pp=pp)


def with_replicas(plan: Plan, replicas: int, *, tp: int = 1, pp: int = 1) -> Plan:
    assert plan.serve is not None
    layout = plan.serve.layout.model_copy(update={"replicas": replicas, "tp": tp, "pp": pp})
    found = plan.serve.model_copy(update={"layout": layout, "devices": replicas * tp * pp})
    return plan.model_copy(update={"serve": found})


def launch_texts(spec: Spec, plan: Plan) -> dict[str, str]:
    """Path -> text of the launch files."""
    return {path: text for path, text in _tree(spec, plan).texts.items() if path.startswith("launch/")}


def write_launch(spec: Spec, plan: Plan, folder: Path) -> Path:
    """The launch files with the stand-in as train.py."""
    write_tree(_tree(spec, plan), folder)
    (folder / "train.py").write_text(PROGRAM.read_text(encoding="utf-8"), encoding="utf-8")
    return folder


def _tree(spec: Spec, plan: Plan) -> Any:
    serve = None
    if spec.serve is not None and plan.serve is not None:
        serve = lower_serve(spec, plan.serve, origin="tiny.yaml", device="cpu", kernels=lower_kernels(spec, plan))
    steps = STEPS if spec.train is not None else None
    found = lower_deploy(spec, plan, steps=steps, serve=serve, origin="tiny.yaml")
    program = Program(name=spec.name, files=found.files, texts=found.texts)
    return render_program(program, locate=lambda key: None)
