"""Launch files as committed files in tests/golden/launch: `make goldens` rewrites them, and the diff is read as code."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion
from trees import cpus, gpus, launch_texts, serving, tpus, training

IMAGE = {"image": "registry.example/tiny:1.0"}
EIGHT_NODES = gpus("h100-sxm-80g", nodes=8, per_node=8)
RACKS = gpus("gb200", nodes=32, per_node=4)
TWO_GPUS = gpus("h100-sxm-80g", nodes=1, per_node=2)
TWO_SLICES = tpus("tpu-v5p", "2x2x4", slices=2)
ASCEND = gpus("ascend-910b", nodes=8, per_node=8)
CLOUD = {"project": "research", "zone": "us-east5-a", "run_dir": "/mnt/runs/tiny"}
NETWORK = {"network": {"interface": "bond0", "hca": "mlx5", "gid_index": 3}}

CASES: dict[str, Any] = {
    "torchrun-one-node": lambda: training({"target": "torchrun"}, cpus(2)),
    "torchrun-8x8-roce": lambda: training({"target": "torchrun", **NETWORK}, gpus("mi300x", nodes=8, per_node=8)),
    "slurm-8x8": lambda: training(
        {"target": "slurm", "partition": "gpu", "time_limit_h": 24.0, "nodes_per_switch": 4, **NETWORK}, EIGHT_NODES
    ),
    "slurm-racks": lambda: training({"target": "slurm", "container": "registry.example/tiny:1.0"}, RACKS),
    "kubernetes-jobset": lambda: training({"target": "kubernetes", **IMAGE, "claim": "runs", **NETWORK}, EIGHT_NODES),
    "kubernetes-pytorchjob": lambda: training({"target": "kubernetes", **IMAGE, "train_as": "pytorchjob"}, EIGHT_NODES),
    "kubernetes-slices": lambda: training({"target": "kubernetes", **IMAGE, "claim": "runs", "queue": "research"}, TWO_SLICES),
    "queued-resource": lambda: training({"target": "queued_resource", **CLOUD}, tpus("tpu-v5e", "2x4")),
    "queued-resource-slices": lambda: training({"target": "queued_resource", **CLOUD, "spot": True, "environment": {"OWN": "a 'b'"}}, TWO_SLICES),
    "slurm-ascend": lambda: training({"target": "slurm", "network": {"interface": "eth0"}}, ASCEND),
    "kubernetes-ascend": lambda: training({"target": "kubernetes", **IMAGE}, ASCEND),
    "kubernetes-deployment": lambda: serving({"target": "kubernetes", **IMAGE, "autoscaler": "hpa"}, TWO_GPUS, replicas=2),
    "kubernetes-leader-worker-set": lambda: serving({"target": "kubernetes", **IMAGE, "autoscaler": "keda"}, EIGHT_NODES, tp=16),
    "kubernetes-inference-service": lambda: serving({"target": "kubernetes", **IMAGE, "serve_as": "inference_service"}, TWO_GPUS),
    "kubernetes-llm-inference-service": lambda: serving(
        {"target": "kubernetes", **IMAGE, "serve_as": "llm_inference_service", "claim": "runs"}, TWO_GPUS, tp=2
    ),
    "ray-train": lambda: training({"target": "ray"}, EIGHT_NODES),
    "ray-serve": lambda: serving({"target": "ray", "weights": "/models/tiny"}, TWO_GPUS, replicas=2),
    "docker": lambda: serving({"target": "docker"}, TWO_GPUS, replicas=2),
    "docker-guarded": lambda: serving({"target": "docker"}, cpus(1), api={"keys": True, "tls": True, "requests_per_minute": 60}),
    "systemd": lambda: serving({"target": "systemd", "folder": "/srv/tiny"}, TWO_GPUS, replicas=2, api={"keys": True}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_launch_files(name: str, request: pytest.FixtureRequest, root: Path, snapshot: SnapshotAssertion) -> None:
    """`snapshot` marks the test as one with goldens."""
    folder = root / "tests/golden/launch" / name
    texts = {path.removeprefix("launch/"): text for path, text in launch_texts(*CASES[name]()).items()}
    if request.config.getoption("update_snapshots"):
        shutil.rmtree(folder, ignore_errors=True)
        for path, text in texts.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    assert sorted(found) == sorted(texts)
    for path, text in texts.items():
        assert found[path].read_text(encoding="utf-8") == text, f"{name}/{path}: see `make goldens`"
