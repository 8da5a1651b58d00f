"""Generated trees as committed files in tests/golden/trees: `make goldens` rewrites them, and the diff is read as code."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from architectures import ARCHITECTURES
from programs import NPU, TINY, TPU, plan_of, tiny_spec, tree_of
from syrupy.assertion import SnapshotAssertion

from llmc.compiler.pipeline import build
from llmc.compiler.planner.layout import Layout

Compare = Callable[[str, Mapping[str, str]], None]


@pytest.fixture
def golden(request: pytest.FixtureRequest, root: Path, snapshot: SnapshotAssertion) -> Compare:
    """Compares a tree with the committed one of that name. `snapshot` marks the test as one with goldens."""
    is_update = bool(request.config.getoption("update_snapshots"))

    def compare(name: str, texts: Mapping[str, str]) -> None:
        folder = root / "tests" / "golden" / "trees" / name
        if is_update:
            write(folder, texts)
        found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        assert sorted(found) == sorted(texts)
        for path in texts:
            assert found[path].read_text(encoding="utf-8") == texts[path], f"{name}/{path}: see `make goldens`"

    return compare


def write(folder: Path, texts: Mapping[str, str]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for path, text in texts.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")


def test_tree_of_the_demo(golden: Compare, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    result = build("examples/tiny-code.yaml")
    assert result.tree is not None, result.diagnostics
    golden("tiny-code", result.tree.texts)


def test_tree_of_a_program_for_ascend(golden: Compare, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    result = build("examples/7-ascend.yaml")
    assert result.tree is not None, result.diagnostics
    golden("ascend", {path: text for path, text in result.tree.texts.items() if path.endswith(".py")})


def test_tree_of_a_gpt2_trained_in_fp32_on_a_gpu(golden: Compare) -> None:
    hardware = {"accelerator": TINY["hardware"]["accelerator"] | {"name": "gpu", "kind": "gpu"}}
    golden("gpt2-gpu", tree_of(tiny_spec(without=("serve",), hardware=hardware, model=ARCHITECTURES["gpt2"])).texts)


def test_tree_of_two_shards_in_fp16(golden: Compare) -> None:
    spec = tiny_spec(without=("serve",), train=TINY["train"] | {"precision": "fp16"})
    layout = Layout(dp_shard=2, zero=3, micro_batch=2, grad_accumulation=2)
    texts = tree_of(spec, plan=plan_of(spec, layout=layout)).texts
    golden("llama-fp16", {path: texts[path] for path in ("train.py", "parallel.py", "kernels/linear_cross_entropy.py")})


def test_model_in_fp8(golden: Compare) -> None:
    spec = tiny_spec(without=("serve",), train=TINY["train"] | {"precision": "fp8"}, model=ARCHITECTURES["gpt2"])
    layout = Layout(dp_shard=2, zero=3, tp=2, sequence_parallel=True, micro_batch=4)
    golden("gpt2-fp8", {"model.py": tree_of(spec, plan=plan_of(spec, layout=layout)).texts["model.py"]})


def test_tree_for_a_slice_of_tpus(golden: Compare) -> None:
    spec = tiny_spec(without=("serve",), hardware=TPU, train=TINY["train"] | {"precision": "bf16"})
    layout = Layout(dp_shard=4, zero=3, tp=2, sequence_parallel=True, micro_batch=1, grad_accumulation=2)
    golden("llama-tpu", tree_of(spec, plan=plan_of(spec, layout=layout)).texts)


def test_tree_of_experts_on_a_slice_of_tpus(golden: Compare) -> None:
    model = ARCHITECTURES["mixtral"]
    bounded = {**model, "moe": model["moe"] | {"capacity_factor": 1.25}}
    spec = tiny_spec(without=("serve",), hardware=TPU, train=TINY["train"] | {"precision": "bf16"}, model=bounded)
    layout = Layout(dp_shard=8, ep=4, zero=3, micro_batch=1)
    texts = tree_of(spec, plan=plan_of(spec, layout=layout)).texts
    golden("mixtral-tpu", {path: texts[path] for path in ("model.py", "parallel.py")})


def test_tree_of_a_server_on_a_tpu(golden: Compare) -> None:
    kept = {"weights": {"dtype": "bf16"}, "kv_cache": {"dtype": "bf16"}}
    hardware, serve = TPU | {"topology": "1x1"}, TINY["serve"] | {"shapes": "fixed"} | kept
    texts = tree_of(tiny_spec(without=("train", "data"), hardware=hardware, serve=serve, model={"head_dim": 128})).texts
    names = ("kernels/decode_attention.py", "kernels/decode_attention_tpu.py", "model.py", "serve.py")
    golden("tpu-served", {name: texts[name] for name in names})


def test_tree_of_a_server_on_four_tpus(golden: Compare) -> None:
    kept = {"weights": {"dtype": "bf16"}, "kv_cache": {"dtype": "bf16"}}
    hardware, serve = TPU | {"topology": "2x2"}, TINY["serve"] | {"shapes": "fixed"} | kept
    model = {"head_dim": 128, "num_heads": 8, "num_kv_heads": 4}
    spec = tiny_spec(without=("train", "data"), hardware=hardware, serve=serve, model=model)
    texts = tree_of(spec, plan=plan_of(spec, tp=4)).texts
    golden("tpu-tp-served", {name: texts[name] for name in ("model.py", "parallel.py", "serve.py")})


def test_tree_of_a_server_with_weights_in_four_bits(golden: Compare) -> None:
    serve = TINY["serve"] | {"weights": {"dtype": "int4"}, "kv_cache": {"dtype": "bf16"}}
    spec = tiny_spec(without=("train", "data"), serve=serve, model=ARCHITECTURES["qwen2"])
    golden("qwen2-int4-served", tree_of(spec).texts)


def test_tree_of_a_server_with_weights_in_bf16(golden: Compare) -> None:
    serve = TINY["serve"] | {"weights": {"dtype": "bf16"}, "kv_cache": {"dtype": "bf16"}}
    texts = tree_of(tiny_spec(without=("train", "data"), serve=serve, model=ARCHITECTURES["llama"])).texts
    names = ("README.md", "kernels/bf16_linear.cpp", "kernels/bf16_linear.py", "model.py", "serve.py")
    golden("llama-bf16-served", {name: texts[name] for name in names})


def test_tree_of_a_server_on_several_gpus(golden: Compare) -> None:
    """Fewer key/value heads than ranks, a vocabulary that they do not divide, keys, two replicas."""
    hardware = {"accelerator": TINY["hardware"]["accelerator"] | {"name": "gpu", "kind": "gpu", "per_node": 8}}
    serve = TINY["serve"] | {"weights": {"dtype": "bf16"}, "kv_cache": {"dtype": "bf16"}, "api": {"keys": True}}
    spec = tiny_spec(without=("train", "data"), hardware=hardware, serve=serve, model={"vocab_size": 509})
    texts = tree_of(spec, plan=plan_of(spec, tp=4, replicas=2)).texts
    golden("llama-tp-served", {name: texts[name] for name in ("model.py", "router.py", "serve.py", "surface.json")})


def test_tree_of_a_server_in_stages_with_experts_spread(golden: Compare) -> None:
    hardware = {"accelerator": TINY["hardware"]["accelerator"] | {"per_node": 8}}
    spec = tiny_spec(without=("train", "data"), hardware=hardware, model=ARCHITECTURES["deepseek-v3"])
    texts = tree_of(spec, plan=plan_of(spec, tp=4, ep=2, pp=2)).texts
    golden("deepseek-v3-pp-ep-served", {name: texts[name] for name in ("model.py", "serve.py")})


def test_tree_of_a_server_for_ascend(golden: Compare) -> None:
    serve = TINY["serve"] | {"weights": {"dtype": "bf16"}, "kv_cache": {"dtype": "bf16"}}
    spec = tiny_spec(without=("train", "data"), hardware=NPU, serve=serve, model=ARCHITECTURES["qwen3"])
    texts = tree_of(spec).texts
    kernels = [name for name in texts if name.startswith("kernels/") and name.endswith(".py")]
    golden("ascend-served", {name: texts[name] for name in ("model.py", "serve.py", *kernels)})


@pytest.mark.parametrize("accelerator", ["cpu", "gpu", "npu", "tpu"])
def test_a_readme_names_files_that_are_there(accelerator: str) -> None:
    """Of programs that train and serve, of servers alone, and of several servers."""
    hardware = {
        "cpu": TINY["hardware"],
        "gpu": {"accelerator": TINY["hardware"]["accelerator"] | {"name": "gpu", "kind": "gpu", "per_node": 8}},
        "npu": NPU,
        "tpu": TPU | {"topology": "2x2"},
    }[accelerator]
    spread = {} if accelerator == "npu" else {"tp": 2}
    served = TINY["serve"] | {"weights": {"dtype": "bf16"}, "kv_cache": {"dtype": "bf16"}, "shapes": "fixed"}
    alone = tiny_spec(without=("train", "data"), hardware=hardware, serve=served, model={"num_kv_heads": 2})
    trained = tiny_spec(without=("serve",), hardware=hardware)
    layout = Layout(dp_shard=4, zero=3, micro_batch=1)
    plans = [
        (alone, plan_of(alone)),
        (alone, plan_of(alone, replicas=2, **spread)),
        (trained, plan_of(trained, layout=layout)),
    ]
    for spec, plan in plans:
        texts = tree_of(spec, plan=plan).texts
        table = [line.split(" | ") for line in texts["README.md"].splitlines() if line.startswith("| `")]
        named = {name for row in table for name in re.findall(r"`([\w./]+(?:/|\.\w+))`", " ".join(row[:2]))}
        assert {"model.py", "plan.json"} <= named
        there = {*texts, "claims.json"} if plan.train is not None else {*texts}  # a build adds the planner's claims
        assert [name for name in named if not any(path.startswith(name) for path in there)] == []


@pytest.mark.parametrize("name", ["gemma3", "bloom", "sinks"])
def test_tree_of_a_served_model(name: str, golden: Compare) -> None:
    golden(f"{name}-served", tree_of(tiny_spec(without=("train", "data"), model=ARCHITECTURES[name])).texts)
