"""Generated code is formatted, linted and typed as if somebody had written it: every architecture in every variant."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from architectures import ARCHITECTURES
from programs import NPU, TINY, TPU, build, plan_of, tiny_spec

from llmc.compiler.planner.layout import Layout
from llmc.compiler.planner.plan import Plan

GPU = {"accelerator": TINY["hardware"]["accelerator"] | {"name": "gpu", "kind": "gpu"}}
WSD = {"name": "wsd", "warmup_steps": 3, "decay_steps": 5, "min_lr_ratio": 0.1}
SCHEDULES = (
    {"name": "cosine", "warmup_steps": 5, "min_lr_ratio": 0.0},
    {"name": "linear"},
    {"name": "linear", "warmup_steps": 5, "min_lr_ratio": 0.1},
    {"name": "constant"},
    {"name": "constant", "warmup_steps": 5},
    WSD,
    {"name": "inverse_sqrt", "warmup_steps": 5},
    {"name": "inverse_sqrt"},
)
SOURCES = (
    {"source": "python-stdlib", "weight": 0.5},
    {"path": "texts/**/*.jsonl", "text": "content"},
    {"entry": "corpora.mine:documents", "weight": 2.0},
)
CLEAN = {"min_chars": 100, "dedup": "minhash", "languages": ["en", "de"]}


def train(**changes: Any) -> dict[str, Any]:
    return TINY["train"] | changes


WATCHES = {
    "skip": {"divergence": {"policy": "skip", "spike_ratio": None}},
    "roll-back": {"divergence": {"policy": "roll_back"}},
    "lower-rate": {"divergence": {"policy": "lower_rate"}},
}
OPTIMIZERS = ("adafactor", "lion", "muon", "sophia")
OF_RANKS = {"hang_s": 300.0, "stragglers_every_steps": 50}

FEW_BITS = (
    {"model": ARCHITECTURES["gemma2"], "weights": {"dtype": "int8"}},
    {"model": ARCHITECTURES["qwen2"], "weights": {"dtype": "int4"}},
    {"model": ARCHITECTURES["gpt2"], "weights": {"dtype": "int4", "symmetric": False}},
)
VARIANTS: dict[str, dict[str, Any]] = {
    **{f"{name}-trained-and-served": {"model": fields} for name, fields in ARCHITECTURES.items()},
    **{f"{name}-trained": {"model": fields, "without": ("serve",)} for name, fields in ARCHITECTURES.items()},
    **{f"{name}-served": {"model": fields, "without": ("train", "data")} for name, fields in ARCHITECTURES.items()},
    **{f"schedule-{number}": {"train": train(schedule=each)} for number, each in enumerate(SCHEDULES)},
    **{f"watched-{name}": {"train": train(watch=each)} for name, each in WATCHES.items()},
    "watched-visits": {"model": ARCHITECTURES["deepseek-v3"], "train": train(watch=WATCHES["skip"])},
    **{name: {"train": train(optimizer={"name": name, "lr": 1e-3})} for name in OPTIMIZERS},
    "averaged": {"train": train(ema_decay=0.999)},
    "muon-averaged-bf16": {"train": train(precision="bf16", optimizer={"name": "muon", "lr": 1e-3}, ema_decay=0.99)},
    "bf16": {"train": train(precision="bf16", z_loss=1e-4, grad_clip=None)},
    "gpu": {"hardware": GPU},
    "gpu-bf16": {"hardware": GPU, "train": train(precision="bf16")},
    "all-sources": {"data": {"sources": SOURCES, "clean": CLEAN, "tokenizer": {"path": "tokenizer.json"}}},
    **{
        f"few-bits-{number}": {
            "model": each["model"],
            "serve": TINY["serve"] | {"weights": each["weights"]},
            "without": ("train", "data"),
        }
        for number, each in enumerate(FEW_BITS)
    },
    "served-in-bf16": {
        "model": ARCHITECTURES["qwen2"],
        "serve": TINY["serve"] | {"weights": {"dtype": "bf16"}, "kv_cache": {"dtype": "bf16"}},
        "without": ("train", "data"),
    },
    **{
        f"cache-in-int8-{weights}": {
            "model": ARCHITECTURES["llama"],
            "serve": TINY["serve"] | {"weights": {"dtype": weights}, "kv_cache": {"dtype": "int8"}},
            "without": ("train", "data"),
        }
        for weights in ("bf16", "fp32")
    },
    "few-bits-on-a-gpu": {
        "hardware": GPU,
        "model": ARCHITECTURES["qwen2"],
        "serve": TINY["serve"] | {"weights": {"dtype": "int4", "symmetric": False}, "kv_cache": {"dtype": "bf16"}},
        "without": ("train", "data"),
    },
    "experts-on-a-gpu": {
        "hardware": GPU,
        "model": ARCHITECTURES["deepseek-v3"],
        "serve": TINY["serve"] | {"weights": {"dtype": "bf16"}, "kv_cache": {"dtype": "bf16"}},
        "without": ("train", "data"),
    },
    **{
        f"{name}-served-on-an-npu": {
            "hardware": NPU,
            "model": model,
            "serve": TINY["serve"] | {"weights": {"dtype": "bf16"}, "kv_cache": {"dtype": "bf16"}} | changes,
            "without": ("train", "data"),
        }
        for name, model, changes in (
            ("llama", {}, {"shapes": "fixed"}),
            ("interleaved", {"position": {"kind": "rope", "interleaved": True}}, {}),
            *((name, ARCHITECTURES[name], {}) for name in ("gpt2", "gemma3", "latent")),
        )
    },
    "npu-bf16": {"hardware": NPU, "train": train(precision="bf16"), "without": ("serve",)},
    "no-validation": {"data": TINY["data"] | {"split": {"valid": 0.0}}},
}


LAYOUTS = {
    "dp": Layout(dp_replicate=2, micro_batch=4),
    "zero-1": Layout(dp_shard=2, zero=1, micro_batch=2, grad_accumulation=2),
    "zero-3": Layout(dp_shard=2, zero=3, micro_batch=4),
    "offload": Layout(dp_shard=2, zero=2, micro_batch=4, offload="optimizer"),
    "hsdp-cp": Layout(dp_replicate=2, dp_shard=2, cp=2, cp_kind="ring", zero=2, micro_batch=1, grad_accumulation=2),
    "tp": Layout(tp=2, micro_batch=8, recompute="selective"),
    "tp-4": Layout(tp=4, sequence_parallel=True, micro_batch=8, recompute="full"),
    "hsdp-ep": Layout(dp_replicate=2, dp_shard=4, zero=3, ep=2, micro_batch=1),
    "ep-tp": Layout(dp_shard=4, zero=2, ep=4, tp=2, sequence_parallel=True, micro_batch=1, grad_accumulation=2),
    "pp-ep": Layout(pp=3, dp_shard=2, zero=1, ep=2, micro_batch=1, grad_accumulation=4),
    "pp-tp": Layout(pp=3, tp=2, sequence_parallel=True, dp_shard=2, zero=3, micro_batch=1, grad_accumulation=4),
    "dp-cp-tp": Layout(dp_shard=2, zero=3, cp=2, cp_kind="ulysses", tp=2, sequence_parallel=True, micro_batch=4),
}
"""Programs for several devices: of llama on GPUs in bf16, and of models with biases, caps and sinks on a CPU in fp32."""


SLICES = {
    "fsdp": ("llama", "bf16", Layout(dp_shard=8, zero=3, micro_batch=1)),
    "hsdp-tp": (
        "llama",
        "fp32",
        Layout(dp_replicate=2, dp_shard=2, zero=3, tp=2, sequence_parallel=True, micro_batch=2, recompute="full"),
    ),
    "cp": (
        "gpt2",
        "bf16",
        Layout(dp_shard=2, cp=2, cp_kind="ulysses", zero=3, tp=2, micro_batch=1, grad_accumulation=4),
    ),
    "dp": ("qwen3", "fp32", Layout(dp_replicate=8, micro_batch=1, recompute="selective")),
    "one": ("gemma", "bf16", Layout(micro_batch=8)),
}
"""Programs for TPUs: architecture, precision, layout."""


def on_slices() -> Iterator[tuple[str, Any, Plan]]:
    for name, (model, precision, layout) in SLICES.items():
        hardware = TPU if layout.devices > 1 else TPU | {"topology": "1x1"}
        changes = {"hardware": hardware, "train": train(precision=precision)}
        spec = tiny_spec(without=("serve",), model=ARCHITECTURES[model], **changes)
        yield f"{model}-{name}-tpu", spec, plan_of(spec, layout=layout)


def served_on_chips() -> Iterator[tuple[str, Any, Plan]]:
    bf16, heads = {"weights": {"dtype": "bf16"}, "kv_cache": {"dtype": "bf16"}}, {"num_heads": 8, "num_kv_heads": 4}
    for name, model, serve in (
        ("llama", heads | {"head_dim": 128}, bf16),
        ("gemma2", ARCHITECTURES["gemma2"] | heads, {}),
        ("gpt2", ARCHITECTURES["gpt2"], {}),
        ("sinks", ARCHITECTURES["sinks"] | heads, bf16),
    ):
        changes = {"model": model, "serve": TINY["serve"] | serve | {"shapes": "fixed"}}
        spec = tiny_spec(without=("train", "data"), hardware=TPU | {"topology": "2x2"}, **changes)
        yield f"{name}-served-on-chips", spec, plan_of(spec, tp=4)


def watched() -> Iterator[tuple[str, Any, Plan]]:
    for model, hardware, layout, watch in (
        ("llama", GPU, "pp-tp", WATCHES["roll-back"] | OF_RANKS),
        ("llama", TINY["hardware"], "zero-3", OF_RANKS),
        ("deepseek-v3", TINY["hardware"], "hsdp-ep", WATCHES["lower-rate"]),
    ):
        changes = {"model": ARCHITECTURES[model], "hardware": hardware, "train": train(watch=watch)}
        spec = tiny_spec(without=("serve",), **changes)
        yield f"{model}-{layout}-watched", spec, plan_of(spec, layout=LAYOUTS[layout])


def optimized() -> Iterator[tuple[str, Any, Plan]]:
    for name, model, layout in (
        ("muon", "deepseek-v3", "hsdp-ep"),
        ("adafactor", "gpt2", "zero-1"),
        ("lion", "llama", "pp-tp"),
        ("muon", "qwen2-moe", "ep-tp"),
        ("adafactor", "llama", "pp-tp"),
        ("sophia", "gpt2", "hsdp-cp"),
        ("sophia", "gemma2", "tp-4"),
    ):
        changes = train(optimizer={"name": name, "lr": 1e-3}, ema_decay=0.99)
        spec = tiny_spec(without=("serve",), model=ARCHITECTURES[model], train=changes)
        yield f"{model}-{layout}-{name}", spec, plan_of(spec, layout=LAYOUTS[layout])


def distributed() -> Iterator[tuple[str, Any, Plan]]:
    yield from watched()
    yield from optimized()
    for name, layout in LAYOUTS.items():
        if layout.ep > 1:
            continue
        spec = tiny_spec(without=("serve",), hardware=GPU, train=train(precision="bf16"))
        yield f"llama-{name}", spec, plan_of(spec, layout=layout)
    for model, name in (
        ("gpt2", "tp-4"),
        ("gpt2", "hsdp-cp"),
        ("gemma2", "tp"),
        ("sinks", "tp-4"),
        ("llama", "zero-1"),
        ("mixtral", "hsdp-ep"),
        ("qwen2-moe", "ep-tp"),
        ("gpt-oss", "ep-tp"),
        ("switch", "hsdp-ep"),
        ("deepseek-v3", "hsdp-ep"),
        ("mixtral", "pp-ep"),
        ("deepseek-v2", "ep-tp"),
        ("deepseek-v3", "pp-tp"),
        ("latent", "hsdp-cp"),
        ("latent", "dp-cp-tp"),
    ):
        spec = tiny_spec(without=("serve",), model=ARCHITECTURES[model])
        yield f"{model}-{name}-cpu", spec, plan_of(spec, layout=LAYOUTS[name])


def served_together() -> Iterator[tuple[str, Any, Plan]]:
    bf16, guarded = {"weights": {"dtype": "bf16"}, "kv_cache": {"dtype": "bf16"}}, {"api": {"keys": True, "tls": True}}
    for model, hardware, tp, serve in (
        ("llama", GPU, 4, bf16 | guarded),
        ("qwen2", TINY["hardware"], 2, bf16 | {"shapes": "fixed"}),
        ("gemma2", GPU, 2, {}),
        ("gemma3", TINY["hardware"], 2, {}),
        ("sinks", TINY["hardware"], 2, {}),
        ("gpt2", TINY["hardware"], 2, {}),
        ("falcon", GPU, 4, {"shapes": "varying", "ui": True}),
        ("mixtral", TINY["hardware"], 2, {}),
        ("gpt-oss", GPU, 2, bf16),
        ("deepseek-v3", GPU, 4, bf16),
        ("latent", TINY["hardware"], 2, {}),
    ):
        changes = {"model": ARCHITECTURES[model], "hardware": hardware, "serve": TINY["serve"] | serve}
        spec = tiny_spec(without=("train", "data"), **changes)
        yield f"{model}-served-tp-{tp}", spec, plan_of(spec, tp=tp, replicas=2)
    for model, hardware, degrees, serve in (
        ("llama", TINY["hardware"], {"pp": 2}, {"shapes": "fixed"}),
        ("gpt2", GPU, {"pp": 3}, bf16 | guarded),
        ("gemma2", TINY["hardware"], {"pp": 2, "tp": 2}, bf16),
        ("local-alibi", TINY["hardware"], {"pp": 3}, {}),
        ("latent", GPU, {"pp": 2, "tp": 2}, {"shapes": "fixed"}),
        ("mixtral", TINY["hardware"], {"tp": 2, "ep": 2}, {}),
        ("gpt-oss", GPU, {"tp": 4, "ep": 2}, bf16),
        ("qwen2-moe", GPU, {"pp": 2}, bf16),
        ("deepseek-v3", GPU, {"pp": 2, "tp": 2, "ep": 2}, bf16),
    ):
        changes = {"model": ARCHITECTURES[model], "hardware": hardware, "serve": TINY["serve"] | serve}
        spec = tiny_spec(without=("train", "data"), **changes)
        name = "-".join(f"{axis}-{size}" for axis, size in degrees.items())
        yield f"{model}-served-{name}", spec, plan_of(spec, **degrees)


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every variant, built side by side."""
    folder = tmp_path_factory.mktemp("builds")
    for name, changes in VARIANTS.items():
        build(tiny_spec(**changes), folder / name)
    for recompute in ("selective", "full"):
        layout = Layout(micro_batch=4, grad_accumulation=2, recompute=recompute)
        for name in ("llama", "gemma2"):
            spec = tiny_spec(model=ARCHITECTURES[name])
            build(spec, folder / f"{name}-{recompute}", plan=plan_of(spec, layout=layout))
    for name, spec, plan in (*distributed(), *on_slices(), *served_on_chips(), *served_together()):
        build(spec, folder / name, plan=plan)
    return folder


def run(*args: str, folder: Path) -> str:
    """Output of a tool, empty if it found nothing to say."""
    done = subprocess.run([sys.executable, "-m", *args], cwd=folder, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_generated_code_is_formatted(builds: Path) -> None:
    assert run("ruff", "format", "--diff", "--no-cache", ".", folder=builds) == ""


def test_generated_code_passes_the_linter(builds: Path) -> None:
    assert run("ruff", "check", "--no-cache", ".", folder=builds) == ""


@pytest.mark.slow
def test_generated_code_passes_the_type_checker(builds: Path, import_root: Path) -> None:
    names = sorted(path.name for path in builds.iterdir() if path.is_dir())
    settings = {
        "typeCheckingMode": "standard",
        "pythonVersion": "3.11",
        "reportMissingModuleSource": False,
        "executionEnvironments": [{"root": name, "extraPaths": [str(import_root)]} for name in names],
    }
    (builds / "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")
    command = ("basedpyright", "--pythonpath", sys.executable, "--project", "pyrightconfig.json")
    assert run(*command, folder=builds) == ""


def test_programs_stay_short(builds: Path) -> None:
    for name in ("llama-trained-and-served", "gpu-bf16", "gemma3-trained-and-served", "llama-dp-cp-tp"):
        files = ("model.py", "train.py", "data.py", "parallel.py")
        code = sum(
            len((builds / name / file).read_text().splitlines()) for file in files if (builds / name / file).exists()
        )
        assert code < (500 if "-cp-" in name else 400), name


@pytest.mark.parametrize("name", ["llama-trained", "gpt2-served", "no-validation"])
def test_what_a_spec_does_not_ask_for_leaves_no_trace(builds: Path, name: str) -> None:
    absent = {
        "llama-trained": ("cache", "decode", "mask", "window", "cuda", "bias=True", "serve"),
        "gpt2-served": ("rope", "loss", "window", "checkpoint", "cross_entropy", "train"),
        "no-validation": ("valid",),
    }[name]
    files = ("train.py",) if name == "no-validation" else ("model.py",)
    names = {word for file in files for word in words(ast.parse((builds / name / file).read_text()))}
    assert [word for word in absent if any(word in each for each in names)] == []


def words(tree: ast.AST) -> set[str]:
    """Names of all that a program defines and uses, keyword arguments with their constants."""
    found = set()
    for node in ast.walk(tree):
        for field in ("id", "name", "attr", "arg"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                found.add(value)
        if isinstance(node, ast.keyword):
            found.add(f"{node.arg}={ast.unparse(node.value)}")
    return found
