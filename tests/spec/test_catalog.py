"""The catalog: every entry is complete, has a source, and has the name that people look for."""

import re
import subprocess
import sys

import pytest

from llmc.compiler.frontend.model import build_model
from llmc.spec import catalog
from llmc.spec.hardware import Accelerator, Host, Storage
from llmc.spec.model import Model

MEASURED_ACCELERATORS = (
    *("a100-sxm-40g", "a100-sxm-80g", "ascend-910b", "b200", "b300", "gb200", "gb300", "h100-96g-hbm2e-500w"),
    *(
        "h100-sxm-80g",
        "mi300x",
        "tpu-v6e",
        "a10",
        "a100",
        "a100-40g",
        "a100-80g",
        "ascend-910c-die",
        "gh200",
        "h100-80g",
    ),
    *("h100-80g-hbm3", "h200", "inferentia2", "l40s", "mi250", "t4", "trainium1"),
)
"""Names in public tables of measurements."""

NAMED_ACCELERATORS = (
    *(
        "v100",
        "t4",
        "a10g",
        "l4",
        "l40s",
        "a100-sxm-40g",
        "a100-sxm-80g",
        "h100-sxm-80g",
        "h100-pcie-80g",
        "h800",
        "h200",
    ),
    *("b200", "b300", "gb200", "gb300", "mi250x", "mi300x", "mi325x", "mi355x", "tpu-v4", "tpu-v5e", "tpu-v5p"),
    *("tpu-v6e", "tpu-v7x", "trainium1", "trainium2", "ascend-910a", "ascend-910b", "ascend-910c", "cpu"),
)

MEASURED_MODELS = """
    aquila-7b aquila2-34b aquila2-7b baichuan-13b baichuan2-13b baichuan2-7b bloom-7b1 bloom-proto-177b bloom-proto-178b
    bloom-proto-184b bloom-proto-195b bloom-proto-203b chatglm3-6b codellama-34b deepseek-like-tiny-moe
    deepseek-v2-trunc-4l deepseek-v3 deepseek-v3-trunc-4l gemma-7b gpt-175.0b gpt-1t gpt-22b gpt-3.6b gpt-39.1b gpt-7b-gqa
    gpt-oss-120b gpt3-15b gpt3-175b gpt3-20b gpt3-5b internlm-65b internlm-7b kimi-k2 llama-13b llama-33b llama-65b
    llama2-13b llama2-70b llama2-7b llama3-70b llama3-8b llama3.1-405b llama3.1-405b-trunc-4l llama3.1-70b minicpm-2b
    mistral-7b mixtral-8x22b mixtral-8x7b mpt-125m mpt-13b mpt-1b mpt-70b mpt-760m mpt-7b mtnlg-530b nemotron3-22b
    nemotron3-8b qwen-14b qwen-7b qwen1.5-0.5b qwen1.5-7b qwen2-1.5b qwen2-7b qwen3-30b-a3b deepseek-r1 falcon-180b
    gpt-neox-20b internlm-20b kimi-k2-thinking llama-2-13b llama-2-70b llama-2-7b llama-3-70b llama-3-8b llama-3.1-70b
    llama-3.1-8b llama-3.3-70b llama-7b minimax-m2.5 qwen3-32b
""".split()  # noqa: SIM905
"""Names in public tables of measurements, lower-case."""

NAMED_MODELS = """
    gpt2 gpt2-medium gpt2-large gpt2-xl llama-7b llama-13b llama-65b llama-2-7b llama-2-13b llama-2-70b llama-3-8b
    llama-3-70b llama-3.1-8b llama-3.1-70b llama-3.1-405b llama-3.2-1b llama-3.2-3b mistral-7b mixtral-8x7b mixtral-8x22b
    qwen2-0.5b qwen2-1.5b qwen2-7b qwen2-72b qwen2.5-0.5b qwen2.5-1.5b qwen2.5-3b qwen2.5-7b qwen2.5-14b qwen2.5-32b
    qwen2.5-72b qwen3-0.6b qwen3-1.7b qwen3-4b qwen3-8b qwen3-14b qwen3-32b qwen3-30b-a3b qwen3-235b-a22b gemma-2b gemma-7b
    gemma-2-2b gemma-2-9b gemma-2-27b gemma-3-1b gemma-3-4b gemma-3-12b gemma-3-27b phi-2 phi-3-mini phi-3-medium falcon-7b
    falcon-40b bloom-7b1 bloom-176b deepseek-v2 deepseek-v3 gpt-oss-20b gpt-oss-120b kimi-k2 gpt-j-6b gpt-neox-20b starcoder
    internlm-7b internlm-20b smollm-135m smollm-360m smollm-1.7b smollm2-135m smollm2-360m smollm2-1.7b tinyllama-1.1b
""".split()  # noqa: SIM905

PUBLISHED_PARAMETERS = {
    # what the model cards and safetensors indices on Hugging Face print; a tied head counts once
    "gpt2": 124_439_808,
    "gpt2-xl": 1_557_611_200,
    "llama-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "mistral-7b": 7_241_732_096,
    "mistral-nemo-12b": 12_247_782_400,
    "mixtral-8x7b": 46_702_792_704,
    "mixtral-8x22b": 140_620_634_112,
    "qwen-7b": 7_721_324_544,
    "qwen1.5-0.5b": 463_987_712,
    "qwen1.5-moe-a2.7b": 14_315_784_192,
    "qwen2-72b": 72_706_203_648,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-32b": 32_763_876_352,
    "qwen3-0.6b": 596_049_920,
    "qwen3-32b": 32_762_123_264,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-235b-a22b": 235_093_634_560,
    "gemma-2b": 2_506_172_416,
    "gemma-7b": 8_537_680_896,
    "gemma-2-9b": 9_241_705_984,
    "gemma-2-27b": 27_227_128_320,
    "gemma-3-1b": 999_885_952,
    "phi-2": 2_779_683_840,
    "phi-3-mini": 3_821_079_552,
    "phi-4-mini": 3_836_021_760,
    "falcon-7b": 6_921_720_704,
    "falcon-40b": 41_303_293_952,
    "bloom-7b1": 7_069_016_064,
    "bloom-176b": 176_247_271_424,
    "gpt-j-6b": 6_050_882_784,
    "gpt-neox-20b": 20_554_567_680,
    "pythia-12b": 11_846_072_320,
    "starcoder": 15_517_456_384,
    "starcoder2-15b": 15_957_889_024,
    "tinyllama-1.1b": 1_100_048_384,
    "smollm2-135m": 134_515_008,
    "opt-6.7b": 6_658_473_984,
    "mpt-7b": 6_649_286_656,
    "deepseek-v2": 235_741_434_880,
    "deepseek-v2-lite": 15_706_484_224,
    "gpt-oss-20b": 20_914_757_184,
    "gpt-oss-120b": 116_829_156_672,
    "minimax-m2.5": 228_689_748_992,
    "internlm2-7b": 7_737_708_544,
    "chatglm3-6b": 6_243_584_000,
    "minicpm-2b": 2_724_880_896,
    "baichuan-13b": 13_264_901_120,
    "baichuan2-7b": 7_505_973_248,
    "baichuan2-13b": 13_896_668_160,
    "yi-34b": 34_388_917_248,
    "stablelm-3b": 2_795_443_200,
}


def model_of(name: str) -> Model:
    """A preset as the loader would see it."""
    fields = catalog.preset(name)
    del fields["source"]
    return Model.model_validate({**fields, "preset": name})


@pytest.mark.parametrize("name", catalog.list_presets())
def test_a_preset_is_a_complete_model_with_a_source(name: str):
    assert re.fullmatch(r"[a-z0-9]+([.-][a-z0-9]+)*", name)
    assert len(catalog.preset(name)["source"]) > 10
    assert model_of(name).num_layers > 0


@pytest.mark.parametrize("name", catalog.list_families())
def test_a_family_is_a_style_without_dimensions(name: str):
    style = catalog.family(name)
    assert len(style.pop("source")) > 10
    dimensions = {"hidden_size", "num_layers", "num_heads", "intermediate_size", "vocab_size", "max_seq_len"}
    assert not dimensions & set(style)
    if style.get("attention", {}).get("kind") == "mla":
        style["attention"] |= {"kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16}
    if "moe" in style:
        style["moe"] |= {"num_experts": 4, "experts_per_token": 2}
    model = Model.model_validate({**dict.fromkeys(dimensions, 64), "num_heads": 4, "num_layers": 2, **style})
    assert build_model(model, name=name).num_parameters() > 0


@pytest.mark.parametrize("name", sorted({*MEASURED_MODELS, *NAMED_MODELS}))
def test_a_known_model_has_a_preset(name: str):
    assert name in catalog.list_presets()


@pytest.mark.parametrize("name", sorted({*MEASURED_ACCELERATORS, *NAMED_ACCELERATORS}))
def test_a_known_accelerator_has_an_entry(name: str):
    assert name in catalog.list_accelerators()


@pytest.mark.parametrize("name", sorted(PUBLISHED_PARAMETERS))
def test_a_preset_has_the_published_number_of_parameters(name: str):
    assert build_model(model_of(name), name=name).num_parameters() == PUBLISHED_PARAMETERS[name]


@pytest.mark.parametrize("name", catalog.list_accelerators())
def test_every_figure_of_an_accelerator_has_an_origin(name: str):
    entry = catalog.accelerator(name)
    source, assumed = entry.pop("source"), entry.pop("assumed", {})
    Accelerator.model_validate(entry)
    figures = set(entry) - {"vendor", "kind", "architecture"}
    origins = {field.split(".")[0] for field in (*source, *assumed)}
    assert figures == origins
    assert all(len(text) > 2 for text in (*source.values(), *assumed.values()))


@pytest.mark.parametrize(
    ("folder", "kind", "name"),
    [
        *((catalog.HOSTS, Host, name) for name in catalog.list_names(catalog.HOSTS)),
        *((catalog.STORAGES, Storage, name) for name in catalog.list_names(catalog.STORAGES)),
    ],
)
def test_every_figure_of_a_host_or_storage_has_an_origin(folder: str, kind: type[Host | Storage], name: str):
    entry = catalog.entry(folder, name)
    source, assumed = entry.pop("source"), entry.pop("assumed", {})
    described = kind.model_validate(entry)
    assert set(entry) - {"kind"} == {*source, *assumed}
    assert all(len(text) > 10 for text in (*source.values(), *assumed.values()))
    if isinstance(described, Storage) and described.write_gb_s is not None:
        assert described.host_write_gb_s < described.write_gb_s


@pytest.mark.parametrize("name", catalog.list_accelerators())
def test_figures_of_an_accelerator_are_plausible(name: str):
    device = Accelerator.model_validate(
        {key: value for key, value in catalog.accelerator(name).items() if key not in ("source", "assumed")}
    )
    peaks = device.peak_tflops
    half = peaks.bf16 or peaks.fp16
    assert half is not None
    assert peaks.fp32 is None or peaks.fp32 < half
    assert peaks.fp8 is None or peaks.fp8 >= half
    assert device.intra_node.gb_s is not None
    assert device.inter_node.gb_s is not None
    assert device.inter_node.gb_s <= device.intra_node.gb_s < device.memory_gb_s
    if device.torus is not None:  # each axis has two links, and together they are the device's bandwidth
        assert 2 * device.torus.dims * device.torus.gb_s == device.intra_node.gb_s


@pytest.mark.parametrize("folder", [catalog.PRESETS, catalog.ACCELERATORS])
def test_another_name_leads_to_an_entry_and_not_to_a_further_name(folder: str):
    names = {catalog.PRESETS: catalog.list_presets, catalog.ACCELERATORS: catalog.list_accelerators}[folder]()
    others = {name: catalog.canonical_name(name, folder=folder) for name in names}
    others = {name: target for name, target in others.items() if name != target}
    assert len(others) > 5
    assert all(catalog.canonical_name(target, folder=folder) == target for target in others.values())


def test_another_name_gives_the_same_entry():
    assert catalog.preset("llama2-7b") == catalog.preset("llama-2-7b")
    assert catalog.accelerator("a100") == catalog.accelerator("a100-sxm-80g")


def test_a_preset_of_another_kind_drops_its_familys_options():
    assert catalog.family("bloom")["attention"] == {"kind": "mha", "qkv_bias": True, "out_bias": True}
    merged = catalog.merge(catalog.family("bloom"), {"attention": {"kind": "gqa"}, "norm": {"eps": 1e-6}})
    assert merged["attention"] == {"kind": "gqa"}
    assert merged["norm"] == {"kind": "layernorm", "eps": 1e-6}


def test_an_entry_may_be_changed_without_changing_the_catalog():
    catalog.preset("gpt2")["attention"]["qkv_bias"] = False
    catalog.accelerator("cpu")["peak_tflops"]["bf16"] = 1e9
    assert catalog.preset("gpt2")["attention"]["qkv_bias"] is True
    assert catalog.accelerator("cpu")["peak_tflops"]["bf16"] < 10


def test_an_unknown_name_is_a_key_error():
    for look_up in (catalog.preset, catalog.family, catalog.accelerator):
        with pytest.raises(KeyError):
            look_up("../hardware/cpu")


def test_listing_names_parses_no_yaml():
    code = (
        "import sys\nfrom llmc.spec import catalog\n"
        "assert catalog.list_presets() and catalog.list_families() and catalog.list_accelerators()\n"
        "print(sorted(name for name in sys.modules if name.startswith('ruamel.yaml')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
