"""What is not lowered yet is refused with its place, and never ignored."""

from __future__ import annotations

from typing import Any

import pytest
from programs import TINY, TPU, plan_of, tiny_spec

from llmc.compiler.lower.lower import lower
from llmc.compiler.lower.refuse import refuse_program, refuse_spec
from llmc.compiler.lower.views import Place
from llmc.compiler.planner.layout import Layout
from llmc.spec.diagnostics import SpecError

MLA = {"kind": "mla", "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}

DYNAMIC = {"kind": "rope", "scaling": {"kind": "dynamic", "factor": 2.0}}


def training(**changes: Any) -> dict[str, Any]:
    return {"train": TINY["train"] | changes}


def serving(**changes: Any) -> dict[str, Any]:
    return {"serve": TINY["serve"] | changes}


def accelerator(kind: str, **fields: Any) -> dict[str, Any]:
    return {"hardware": {"accelerator": TINY["hardware"]["accelerator"] | {"kind": kind} | fields}}


@pytest.mark.parametrize(
    ("changes", "place", "words"),
    [
        ({"compress": {"weights": "int8"}}, "compress", "compression"),
        ({"eval": {"tasks": ["x"]}}, "eval", "evaluation"),
        ({"train": [TINY["train"], TINY["train"]]}, "train.1", "2 training stages"),
        (serving(speculative={"draft": "ngram"}), "serve.speculative", "speculative"),
    ],
)
def test_a_spec_that_no_pass_understands_is_refused_before_planning(
    changes: dict[str, Any], place: str, words: str
) -> None:
    (found,) = refuse_spec(tiny_spec(**changes))
    assert (found.code, found.severity) == ("L301", "error")
    assert ".".join(map(str, found.path or ())) == place
    assert words in found.message


@pytest.mark.parametrize(
    ("changes", "place", "words"),
    [
        (accelerator("tpu"), "serve", "a spec with `serve` alone"),
        (serving(weights={"dtype": "int8"}), "serve.weights.dtype", "a program that trains serves with bf16 and fp32"),
        (serving(weights={"dtype": "fp8"}), "serve.weights.dtype", "with bf16, fp32, int8 and int4 it is"),
        (
            {"model": {"attention": MLA, "norm": {"kind": "rmsnorm", "unit_offset": True}}},
            "model.attention.latent_norm_eps",
            "with the same one they are",
        ),
        ({"model": {"kind": "encoder"}}, "model.kind", "kind decoder is"),
        ({"model": {"head": {"normalize": True}}}, "model.head.normalize", "a plain one is"),
        (
            {"model": {"position": DYNAMIC}, "serve": TINY["serve"] | {"max_seq_len": 200}},
            "model.position.scaling",
            "200 tokens",
        ),
        (training(precision="mxfp8"), "train.0.precision", "in bf16, fp32, fp16 and fp8 it is"),
        (
            accelerator("gpu", peak_tflops={"bf16": 312.0, "fp16": 312.0, "int8": 624.0})
            | training(precision="fp8")
            | {"without": ("serve",)},
            "train.0.precision",
            "cpu has no units for fp8; it has them for bf16 and fp16",
        ),
        (training(precision="fp8"), "train.0.precision", "serves nothing yet"),
        (
            training(precision="fp8") | {"without": ("serve",), "model": {"attention": MLA}},
            "train.0.precision",
            "latent attention",
        ),
        (
            training(precision="fp8")
            | {
                "without": ("serve",),
                "model": {"moe": {"num_experts": 4, "experts_per_token": 2, "intermediate_size": 32}},
            },
            "train.0.precision",
            "whose products are grouped",
        ),
        (training(loss_scale={"start": 1024.0}), "train.0.loss_scale", "leave it out"),
        (
            training(precision="fp16", optimizer={"name": "sophia", "lr": 1e-4}),
            "train.0.precision",
            "want a scale of their own",
        ),
        (training(optimizer={"name": "sophia", "lr": 1e-4}, z_loss=1e-4), "train.0.z_loss", "`z_loss: 0` is"),
        (
            training(optimizer={"name": "sophia", "lr": 1e-4})
            | {"model": {"moe": {"num_experts": 4, "experts_per_token": 2, "intermediate_size": 24}}},
            "train.0.optimizer.name",
            "sophia with experts",
        ),
        (training(objective="dpo"), "train.0.objective", "causal_lm is"),
        (serving(kv_cache={"dtype": "fp8"}), "serve.kv_cache.dtype", "in bf16, fp32 and int8 it is"),
        ({"without": ("train", "serve", "data")}, "model", "no program"),
    ],
)
def test_what_cannot_be_built_is_refused_with_what_works(changes: dict[str, Any], place: str, words: str) -> None:
    spec = tiny_spec(**changes)
    found = list(refuse_program(spec, plan_of(spec)))
    assert [(each.code, ".".join(map(str, each.path or ()))) for each in found] == [("L301", place)]
    assert words in found[0].message


@pytest.mark.parametrize(
    ("layout", "changes", "words"),
    [
        (Layout(pp=2), {}, "1f1b over 2 ranks needs 2 micro-batches"),
        (Layout(pp=2, schedule="gpipe", virtual_stages=2), {}, "interleaved_1f1b is"),
        (Layout(pp=2, schedule="zero_bubble", grad_accumulation=5), {}, "in 2 rounds of equal size"),
        (Layout(pp=2, schedule="dualpipe", grad_accumulation=4), {}, "two a rank"),
        (Layout(pp=2, schedule="zero_bubble", recompute="full"), {}, "would compute it again each time"),
        (Layout(pp=2, schedule="zero_bubble", dp_shard=2, zero=3), {}, "zero 1 and 2 do not"),
        (
            Layout(pp=2, schedule="zero_bubble", grad_accumulation=4),
            training(precision="fp8"),
            "gradients of weights by themselves",
        ),
        (Layout(tp=4, zero=1), training(precision="fp8"), "24 feed-forward numbers on a device"),
        (Layout(pp=2, grad_accumulation=2), {"without": ()}, "serves nothing yet"),
        (
            Layout(pp=2, grad_accumulation=2),
            training(optimizer={"name": "sophia", "lr": 1e-4}),
            "sophia's estimates through 2 stages",
        ),
        (Layout(tp=2), {"without": ()}, "serves nothing yet"),
        (Layout(tp=2), {"model": {"attention": {"kind": "gqa", "qk_norm": "full"}}}, "a norm over all heads"),
        (Layout(tp=2), {"model": {"position": {"kind": "alibi"}}}, "ALiBi"),
        (
            Layout(tp=2),
            {"model": {"moe": {"num_experts": 4, "experts_per_token": 2, "intermediate_size": 25}}},
            "a width of 25 that tp 2 does not divide",
        ),
        (
            Layout(dp_shard=6, zero=3, ep=2),
            {"model": {"moe": {"num_experts": 4, "experts_per_token": 2, "intermediate_size": 25}}},
            "2 experts of 50 rows, shared by 3 ranks of ZeRO",
        ),
    ],
)
def test_layouts_that_are_not_lowered_are_refused(layout: Layout, changes: dict[str, Any], words: str) -> None:
    spec = tiny_spec(**{"without": ("serve",), **changes})
    (found,) = refuse_program(spec, plan_of(spec, layout=layout))
    assert words in found.message


def test_lower_raises_all_that_stands_against_a_program(tmp_path) -> None:
    spec = tiny_spec(model={"kind": "encoder"}, train=TINY["train"] | {"precision": "nvfp4"})
    with pytest.raises(SpecError) as error:
        lower(spec, plan_of(spec), place=Place(tmp_path / "tiny.yaml", tmp_path))
    assert len(error.value.diagnostics) == 2


def test_a_plan_for_trainium_is_no_program_for_ascend() -> None:
    trainium = {"accelerator": {**TINY["hardware"]["accelerator"], "name": "trn2", "kind": "npu", "vendor": "aws"}}
    (found,) = refuse_program(spec := tiny_spec(without=("serve",), hardware=trainium), plan_of(spec))
    assert "programs for trn2 are not lowered yet" in found.message


MOE = {"num_experts": 4, "experts_per_token": 2}
BOUNDED = MOE | {"capacity_factor": 1.25}


@pytest.mark.parametrize(
    ("layout", "model", "place", "words"),
    [
        (Layout(dp_shard=4, pp=2, zero=3), {}, "parallel.pp", "data parallelism are"),
        (Layout(dp_shard=8, zero=1), {}, "parallel.zero", "(zero: 3)"),
        (Layout(dp_shard=4, cp=2, cp_kind="ring", zero=3), {}, "parallel.cp_kind", "ulysses"),
        (Layout(dp_shard=2, tp=4, zero=3), {}, "parallel.tp", "2 key/value heads"),
        (
            Layout(dp_shard=8, zero=3),
            {"attention": {"kind": "gqa", "window": 16, "global_every": 2}},
            "model.attention.window",
            "one for all layers",
        ),
        (
            Layout(dp_shard=8, zero=3),
            {"attention": {"kind": "gqa", "sinks": True}},
            "model.attention.sinks",
            "windows and caps",
        ),
        (Layout(dp_shard=8, zero=3), {"position": {"kind": "alibi"}}, "model.position", "rotary"),
        (Layout(dp_shard=8, ep=4, zero=3), {"moe": MOE}, "model.moe", "`capacity_factor` bounds them"),
        (Layout(dp_shard=4, tp=2, zero=3), {"moe": BOUNDED}, "parallel.tp", "dp and ep are"),
        (Layout(dp_shard=8, zero=3, recompute="full"), {"moe": BOUNDED}, "parallel.recompute", "none and selective"),
    ],
)
def test_what_programs_for_tpus_do_not_have_is_refused(
    layout: Layout, model: dict[str, Any], place: str, words: str
) -> None:
    spec = tiny_spec(without=("serve",), hardware=TPU, model=model)
    found = list(refuse_program(spec, plan_of(spec, layout=layout)))
    assert [(each.code, ".".join(map(str, each.path or ()))) for each in found] == [("L301", place)]
    assert words in found[0].message


@pytest.mark.parametrize(
    ("changes", "place", "words"),
    [
        (
            accelerator("gpu", name="v100-sxm-16g"),
            "serve.weights.dtype",
            "int8 weights on this gpu is not lowered yet; on a cpu and on a gpu with bf16 it is",
        ),
        ({"model": {"attention": MLA}}, "serve.weights.dtype", "latent attention (mla) with int8 weights"),
        (
            {"model": {"moe": {"num_experts": 4, "experts_per_token": 2}}},
            "serve.weights.dtype",
            "experts with int8 weights are not lowered yet",
        ),
        (
            serving(weights={"dtype": "int8", "symmetric": False}),
            "serve.weights.symmetric",
            "int8 weights with an offset are not lowered yet",
        ),
    ],
)
def test_weights_in_few_bits_are_of_dense_servers_on_a_cpu(changes: dict[str, Any], place: str, words: str) -> None:
    spec = tiny_spec(without=("train", "data"), **{**serving(weights={"dtype": "int8"}), **changes})
    found = [each for each in refuse_program(spec, plan_of(spec)) if "int8" in each.message]
    assert [".".join(map(str, each.path or ())) for each in found] == [place]
    assert words in found[0].message


def test_activations_in_int8_are_of_weights_in_few_bits_on_a_cpu() -> None:
    def words(weights: str, **fields: Any) -> list[str]:
        spec = tiny_spec(
            without=("train", "data"), **serving(weights={"dtype": weights, "activations": "int8"}), **fields
        )
        return [each.message for each in refuse_program(spec, plan_of(spec)) if "activations" in each.message]

    assert words("int8") == words("int4") == []
    assert words("bf16") == [
        "activations in int8 with bf16 weights are not lowered; with int8 and int4 weights they are"
    ]
    gpu = accelerator("gpu", name="h100-sxm-80g")
    assert words("int8", **gpu) == ["activations in int8 on a gpu are not lowered yet; on a cpu they are"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (accelerator("gpu", name="h100-sxm-80g"), "a KV cache in int8 on a gpu is not lowered yet; on a cpu it is"),
        ({"hardware": TPU}, "a KV cache in int8 on a tpu"),
        ({"model": {"attention": MLA}}, "latent attention (mla) with a KV cache in int8"),
    ],
)
def test_a_cache_in_int8_is_of_heads_on_a_cpu(changes: dict[str, Any], words: str) -> None:
    serve = serving(weights={"dtype": "bf16"}, kv_cache={"dtype": "int8"})
    spec = tiny_spec(without=("train", "data"), **serve | changes)
    (found,) = (each for each in refuse_program(spec, plan_of(spec)) if "int8" in each.message)
    assert found.path == ("serve", "kv_cache", "dtype")
    assert words in found.message


DEVICES = {"accelerator": TINY["hardware"]["accelerator"] | {"per_node": 4}}


@pytest.mark.parametrize(
    ("degrees", "changes", "words"),
    [
        ({"tp": 2, "ep": 2}, {}, "the model has no experts that ep 2 could spread"),
        ({"tp": 2}, {"weights": {"dtype": "int8"}}, "int8 weights over 2 devices are not lowered yet"),
        ({"pp": 2}, {"weights": {"dtype": "int4"}}, "int4 weights over 2 devices are not lowered yet"),
        ({"tp": 4}, {"shapes": "fixed"}, "`shapes: fixed` with tp 4 is not lowered yet"),
        ({"tp": 2}, {"model": {"position": {"kind": "alibi"}}}, "ALiBi with heads that tp 2 cuts"),
        ({"tp": 2}, {"model": {"attention": {"kind": "gqa", "qk_norm": "full"}}}, "a norm over all heads"),
        ({"tp": 4}, {"model": {"intermediate_size": 90}}, "a feed-forward width of 90 that tp 4 does not divide"),
    ],
)
def test_servers_of_several_devices_that_are_not_lowered_are_refused(
    degrees: dict[str, int], changes: dict[str, Any], words: str
) -> None:
    model = changes.get("model", {})
    serve = TINY["serve"] | {name: value for name, value in changes.items() if name != "model"}
    spec = tiny_spec(without=("train", "data"), model=model, serve=serve, hardware=DEVICES)
    (found,) = refuse_program(spec, plan_of(spec, **degrees))
    assert found.code == "L301"
    assert words in found.message


@pytest.mark.parametrize(
    ("degrees", "hardware", "place", "words"),
    [
        ({"tp": 4}, {"topology": "2x2"}, "serve.layout.tp", "tp 4 on TPUs needs it to divide the 2 key/value heads"),
        ({"tp": 2}, {"topology": "4x4"}, "serve.layout.tp", "a replica of 2 chips on 4 hosts is not lowered yet"),
        ({"tp": 2}, {"slices": 2}, "serve.layout.tp", "a replica of 2 chips on 2 hosts is not lowered yet"),
        ({"tp": 2}, {"topology": None, "nodes": 2, "per_node": 1}, "serve.layout.tp", "2 chips on 2 hosts"),
        ({"pp": 2}, {}, "serve.layout.pp", "stages (pp 2) on TPUs are not lowered yet; tp is"),
        ({"replicas": 3}, {"topology": "4x4"}, "serve.layout.replicas", "3 replicas on 4 hosts of TPUs"),
        ({"tp": 8, "replicas": 2}, {}, "serve.layout.tp", "several replicas of 8 chips each are not lowered yet"),
    ],
)
def test_servers_on_tpus_have_the_chips_of_one_host(
    degrees: dict[str, int], hardware: dict[str, Any], place: str, words: str
) -> None:
    wanted = {name: each for name, each in (TPU | hardware).items() if each is not None}
    model = {"num_heads": 8, "num_kv_heads": 8} if degrees.get("tp") == 8 else {}
    serve = TINY["serve"] | {"shapes": "fixed"}
    spec = tiny_spec(without=("train", "data"), serve=serve, hardware=wanted, model=model)
    (found,) = refuse_program(spec, plan_of(spec, **degrees))
    assert (found.code, ".".join(map(str, found.path or ()))) == ("L301", place)
    assert words in found.message


@pytest.mark.parametrize(("target", "is_refused"), [("kubernetes", True), ("docker", True), ("systemd", False)])
def test_containers_of_servers_on_tpus_are_refused(target: str, is_refused: bool) -> None:
    hardware, serve = TPU | {"topology": "1x2"}, TINY["serve"] | {"shapes": "fixed"}
    own = {"kubernetes": {"image": "registry.example/tiny:1"}, "systemd": {"folder": "/srv/tiny"}}.get(target, {})
    spec = tiny_spec(without=("train", "data"), serve=serve, hardware=hardware, deploy={"target": target} | own)
    found = [(each.code, each.path) for each in refuse_program(spec, plan_of(spec, tp=2))]
    assert found == ([("L301", ("deploy", "target"))] if is_refused else [])
    several = [(each.code, each.path) for each in refuse_program(spec, plan_of(spec, replicas=2))]
    assert several == [("L301", ("deploy", "target"))]


def test_a_server_on_tpus_has_any_degree_that_divides_the_heads() -> None:
    hardware, serve = TPU | {"topology": "2x2"}, TINY["serve"] | {"shapes": "fixed"}
    spec = tiny_spec(without=("train", "data"), serve=serve, hardware=hardware, model={"num_kv_heads": 4})
    assert list(refuse_program(spec, plan_of(spec, tp=4))) == []


def test_a_program_that_trains_serves_with_one_device() -> None:
    spec = tiny_spec(hardware=DEVICES)
    (found,) = refuse_program(spec, plan_of(spec, tp=2))
    assert "a program that trains serves replicas of one device, not of 2" in found.message
