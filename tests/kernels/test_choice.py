"""Which kernels a program has: by device, precision and layout; what is left alone comes with its reason."""

from __future__ import annotations

from typing import Any

import pytest
from architectures import ARCHITECTURES
from programs import TINY, plan_of, tiny_spec

from llmc.compiler.ir import facts
from llmc.compiler.kernels.add_norm import AddNorm, norm_block
from llmc.compiler.kernels.chips import CHIPS, chip_of
from llmc.compiler.kernels.setting import Setting
from llmc.compiler.kernels.table import KERNELS, choose_kernels, left_alone
from llmc.compiler.kernels.tiles import attention_tiles
from llmc.compiler.kernels.tpus import TPUS, Tpu, tpu_attention_tiles, tpu_of
from llmc.compiler.kernels.weight_only_linear import WeightOnlyLinear
from llmc.compiler.lower.kernels import serving_kernels
from llmc.compiler.lower.model import longest_sequence
from llmc.compiler.pipeline import build_graph, run_passes
from llmc.compiler.planner.layout import Layout
from llmc.spec.hardware import Accelerator

ONE = Layout()
DATA = Layout(dp_shard=8, zero=3)


def setting(
    *, precision: str = "bf16", layout: Layout = ONE, name: str = "h100-sxm-80g", kind: str = "gpu", **fields: Any
) -> Setting:
    device = TINY["hardware"]["accelerator"] | {"name": name, "kind": "cpu" if name == "cpu" else kind}
    device |= {"architecture": "hopper"} if name.startswith("h100") else {}
    spec = tiny_spec(
        without=("serve",), hardware={"accelerator": device}, train=TINY["train"] | {"precision": precision}, **fields
    )
    assert spec.train is not None
    return Setting(spec, spec.train[0], grad_accumulation=1, longest=longest_sequence(spec), layout=layout)


def chosen(**changes: Any) -> dict[str, str]:
    return {kernel.name: kernel.language for kernel in choose_kernels(setting(**changes))}


EVERYTHING = {"adamw", "add_rms_norm", "causal_attention", "linear_cross_entropy", "swiglu"}


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, EVERYTHING),
        ({"precision": "fp32"}, {"add_rms_norm", "linear_cross_entropy", "swiglu"}),
        ({"layout": DATA}, EVERYTHING - {"adamw"}),
        ({"layout": Layout(tp=2, sequence_parallel=True)}, {"add_rms_norm", "causal_attention", "swiglu"}),
        ({"layout": Layout(pp=2, grad_accumulation=4)}, {"causal_attention", "linear_cross_entropy", "swiglu"}),
        ({"layout": Layout(cp=2, cp_kind="ring")}, {"add_rms_norm", "linear_cross_entropy", "swiglu"}),
        ({"model": ARCHITECTURES["gpt2"]}, {"adamw", "add_layer_norm", "causal_attention", "linear_cross_entropy"}),
        ({"model": ARCHITECTURES["gemma2"]}, {"geglu_tanh", "linear_cross_entropy"}),
        ({"model": ARCHITECTURES["qwen3"]}, EVERYTHING - {"causal_attention"}),
        ({"name": "v100"}, {"linear_cross_entropy"}),
    ],
)
def test_gpu_programs_have_the_kernels_that_apply(changes: dict[str, Any], names: set[str]) -> None:
    found = chosen(**changes)
    assert set(found) == names
    assert set(found.values()) == ({"triton"} if changes.get("name") != "v100" else {"pytorch"})
    others = left_alone(setting(**changes))
    assert len(found) + len(others) == len(KERNELS)
    assert all(others.values())


def test_a_cpu_has_kernels_in_cpp() -> None:
    found = chosen(name="cpu")
    everywhere = {"adamw", "add_rms_norm", "causal_attention", "linear_cross_entropy"}
    assert set(found) == {*everywhere, "embed", "linear", "swiglu_linear"}
    assert found["causal_attention"] == "cpp"


@pytest.mark.parametrize(
    ("layout", "kernel", "words"),
    [
        (DATA, "adamw", "fused step takes sharded weights"),
        (Layout(tp=2), "linear_cross_entropy", "parts of the vocabulary"),
        (Layout(cp=2, cp_kind="ring"), "causal_attention", "keys travel between ranks"),
        (Layout(pp=2), "add_norm", "hand on one tensor"),
    ],
)
def test_what_is_left_alone_has_its_reason(layout: Layout, kernel: str, words: str) -> None:
    assert words in left_alone(setting(layout=layout))[kernel]


def test_ranks_of_tp_have_kernels_of_their_own_sizes() -> None:
    whole = {kernel.name: kernel for kernel in choose_kernels(setting())}
    part = {kernel.name: kernel for kernel in choose_kernels(setting(layout=Layout(tp=2)))}
    assert 2 * part["swiglu"].size == whole["swiglu"].size  # pyright: ignore[reportAttributeAccessIssue]
    assert 2 * part["causal_attention"].num_heads == whole["causal_attention"].num_heads  # pyright: ignore[reportAttributeAccessIssue]


def test_what_a_norm_spares_is_what_the_graph_says_it_reads() -> None:
    """In bf16 throughout, as FSDP has it: the norm's own read of the residual stream."""
    found = setting(layout=DATA)
    norm = next(kernel for kernel in choose_kernels(found) if isinstance(kernel, AddNorm))
    graph = run_passes(build_graph(found.spec))
    op = next(op for op in graph.ops("rms_norm") if op.block is not None)
    read = op.line.inputs[0].size({**op.sizes, **facts.extent(batch=1, tokens=1)}) * 2
    assert norm.spared_bytes == read


def test_a_fused_norm_keeps_less_only_where_the_stream_is_wider() -> None:
    narrow, wide = (
        next(kernel for kernel in choose_kernels(setting(layout=layout)) if isinstance(kernel, AddNorm))
        for layout in (DATA, ONE)
    )
    assert narrow.spared_kept_bytes == 0
    assert wide.spared_kept_bytes == 2 * 64
    assert wide.price.endswith("128 more kept for the backward pass")


@pytest.mark.parametrize("chip", [each for each in CHIPS.values() if not each.is_npu], ids=lambda chip: chip.target)
@pytest.mark.parametrize("head_dim", [16, 64, 80, 128, 256])
def test_every_chip_has_tiles_for_every_head(chip: Any, head_dim: int) -> None:
    tiles = attention_tiles(heads=40, head_dim=head_dim, pairs=head_dim // 2, copied=512, number_bytes=2, chip=chip)
    for tile in (tiles.forward, tiles.keys, tiles.queries):
        assert tile.num_warps * chip.warp in (128, 256)
        assert f"of {chip.shared_bytes // 1024} KiB" in tile.comment[1]


def test_chips_go_by_name_and_architecture() -> None:
    def target(**fields: Any) -> str | None:
        device = {"kind": "gpu", "memory_gib": 80, "memory_gb_s": 2000, "peak_tflops": {"bf16": 300}} | fields
        chip = chip_of(Accelerator.model_validate(device))
        return chip.target if chip else None

    assert target(architecture="hopper") == "sm_90"
    assert target(name="mi355x", vendor="amd") == "gfx950"
    assert target(name="a10") == "sm_86"
    assert target(name="mine") == "sm_80"
    assert target(name="v100-sxm-16g", vendor="nvidia") is None
    assert target(name="arc-pro-b60", vendor="intel") is None
    assert target(kind="tpu") is None
    assert target(name="ascend-910b3", vendor="huawei", kind="npu") == "Ascend910B3"
    assert target(name="ascend-910a", vendor="huawei", kind="npu") is None


def test_npus_have_triton_where_torch_npu_has_no_op_that_pays() -> None:
    found = chosen(name="ascend-910b", kind="npu")
    assert found == {"adamw": "triton", "add_rms_norm": "triton", "linear_cross_entropy": "triton", "swiglu": "npu"}
    assert (
        "takes scaled_dot_product_attention" in left_alone(setting(name="ascend-910b", kind="npu"))["causal_attention"]
    )
    assert chosen(name="ascend-910b", kind="npu", model=ARCHITECTURES["gemma2"])["geglu_tanh"] == "triton"


def test_servers_for_ascend_have_the_ops_of_torch_npu() -> None:
    npu = "ascend-910b"
    assert served("bf16", name=npu) == ["paged_attention.npu", "add_rms_norm.npu", "swiglu.npu"]
    assert served("fp32", name=npu) == []  # its attention knows no fp32
    assert served("bf16", name=npu, model=ARCHITECTURES["gemma3"]) == ["swiglu.npu"]  # windows, weights less one
    assert served("bf16", name=npu, model=ARCHITECTURES["qwen3"])[0] == "paged_attention.npu"
    assert "paged_attention.npu" not in served("bf16", name=npu, model=ARCHITECTURES["latent"])


def test_rounded_activations_make_products_of_integers() -> None:
    """The head's too."""
    device = TINY["hardware"]["accelerator"] | {"name": "cpu", "kind": "cpu"}
    for weights, bits in (("int8", [8]), ("int4", [4])):
        asked = {"dtype": weights, "activations": "int8"}
        serve = TINY["serve"] | {"weights": asked, "kv_cache": {"dtype": "bf16"}}
        spec = tiny_spec(without=("train", "data"), hardware={"accelerator": device}, serve=serve)
        found = [each for each in serving_kernels(spec, plan_of(spec)) if isinstance(each, WeightOnlyLinear)]
        assert [each.bits for each in found] == bits
        assert all(each.rounds_inputs for each in found)


def served(weights: str, *, name: str = "h100-sxm-80g", **fields: Any) -> list[str]:
    """Kernels of a server, by name; `cpp` or `triton` behind."""
    kind = "cpu" if name == "cpu" else "npu" if name.startswith("ascend") else "gpu"
    device = TINY["hardware"]["accelerator"] | {"name": name, "kind": kind}
    cache = "fp32" if weights == "fp32" else "bf16"
    serve = TINY["serve"] | {"weights": {"dtype": weights}, "kv_cache": {"dtype": cache}}
    spec = tiny_spec(without=("train", "data"), hardware={"accelerator": device}, serve=serve, **fields)
    return [f"{each.name}.{each.language}" for each in serving_kernels(spec, plan_of(spec))]


def test_servers_on_gpus_have_kernels_for_few_bits_and_running_answers() -> None:
    always = ["decode_attention.triton", "sampling.triton"]
    assert served("int4") == ["int4_linear.triton", *always]
    assert served("int8") == ["int8_linear.triton", *always]
    assert served("bf16") == served("fp32") == always
    assert served("bf16", model=ARCHITECTURES["gemma3"]) == [
        "sampling.triton"
    ]  # its heads are normed, its windows differ
    moe = ["sampling.triton", "choose_experts.triton", "expert_linear.triton"]
    assert served("bf16", model=ARCHITECTURES["mixtral"]) == ["decode_attention.triton", *moe]
    assert served("bf16", model=ARCHITECTURES["deepseek-v3"]) == [moe[0], moe[2]]  # latent attention, groups of experts
    assert served("bf16", name="v100-sxm-16g") == []
    assert served("bf16", name="cpu")[0] == "bf16_linear.cpp"


SLICE = Layout(dp_shard=4, zero=3, tp=2)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"layout": SLICE}, {"add_rms_norm", "causal_attention"}),
        ({"layout": Layout(dp_shard=8, zero=3, recompute="full")}, {"causal_attention"}),
        ({"layout": SLICE, "precision": "fp32", "model": ARCHITECTURES["qwen3"]}, {"add_rms_norm", "causal_attention"}),
        ({"layout": SLICE, "model": ARCHITECTURES["gpt2"]}, {"add_layer_norm", "causal_attention"}),
    ],
)
def test_programs_for_tpus_have_kernels_in_pallas(changes: dict[str, Any], names: set[str]) -> None:
    found = setting(name="tpu-v5e", kind="tpu", **changes)
    kernels = choose_kernels(found)
    assert {kernel.name for kernel in kernels} == names
    assert {kernel.language for kernel in kernels} == {"pallas"}
    assert len(names) + len(left_alone(found)) == len(KERNELS)
    assert found.chip_name == "tpu-v5e (v5e)"


def test_heads_of_a_device_are_those_that_tp_and_swapped_tokens_leave() -> None:
    layout = Layout(dp_shard=2, zero=3, tp=2, cp=2, cp_kind="ulysses")
    whole, part = (
        next(
            kernel
            for kernel in choose_kernels(setting(name="tpu-v5e", kind="tpu", layout=each))
            if kernel.name == "causal_attention"
        )
        for each in (ONE, layout)
    )
    assert 4 * part.num_heads == whole.num_heads  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("tpu", TPUS.values(), ids=lambda tpu: tpu.target)
def test_every_tpu_has_blocks_for_every_head_and_row(tpu: Tpu) -> None:
    for head_dim, longest in ((64, 100), (80, 4096), (128, 8192), (256, 131072)):
        for number_bytes in (2, 4):
            tiles = tpu_attention_tiles(head_dim, longest=longest, number_bytes=number_bytes, tpu=tpu)
            for tile in (tiles.forward, tiles.keys, tiles.queries):
                assert tile.queries % 128 == tile.keys % 128 == 0
                assert f"of the {tpu.vmem_bytes >> 20} MiB" in tile.comment[0]
    assert norm_block(16384, number_bytes=2, tpu=tpu).tokens >= 16
    assert (
        tpu_of(
            Accelerator.model_validate(
                {"kind": "gpu", "memory_gib": 80, "memory_gb_s": 2000, "peak_tflops": {"bf16": 300}}
            )
        )
        is None
    )
