"""config.json both ways: published files, all presets against transformers, and what is rejected."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmc.compiler.frontend.model import build_model
from llmc.spec import catalog
from llmc.spec.hf.parts import set_expert_layers
from llmc.spec.hf_config import HF_TYPES, UnsupportedConfig, from_hf_config, stored_format, to_hf_config
from llmc.spec.model import Model

from .hf_configs import CONFIGS

NOT_IN_TRANSFORMERS = {
    "baichuan-13b": "position.kind",
    "baichuan2-7b": "head.normalize",
    "baichuan2-13b": "head.normalize",
    "gpt-7b-gqa": "num_kv_heads",
}
"""Presets that no type of transformers can state, and a field that stands in the way."""

PRESETS = [name for name in catalog.list_presets() if catalog.canonical_name(name, folder=catalog.PRESETS) == name]
TRAINING_ONLY = ("aux_loss_weight", "z_loss_weight")


def model_of(name: str) -> Model:
    fields = catalog.preset(name)
    del fields["source"]
    return Model.model_validate(fields)


def comparable(model: Model) -> dict:
    """A model's fields, without its name, without what only training reads, and without unused sizes."""
    fields = model.model_dump(exclude={"preset", "family", "hf"})
    if fields["moe"] is not None:
        fields["moe"]["router"] = {k: v for k, v in fields["moe"]["router"].items() if k not in TRAINING_ONLY}
    if fields["attention"]["kind"] == "mla":
        del fields["head_dim"]
    return fields


@pytest.fixture(scope="module")
def transformers():
    """The oracle, quiet."""
    module = pytest.importorskip("transformers")
    module.logging.set_verbosity_error()
    return module


@pytest.mark.parametrize("name", CONFIGS)
def test_a_published_config_is_the_preset_of_that_name(name: str):
    assert comparable(Model.model_validate(from_hf_config(CONFIGS[name]))) == comparable(model_of(name))


@pytest.mark.parametrize("name", [name for name in PRESETS if name not in NOT_IN_TRANSFORMERS])
def test_a_config_that_was_written_reads_back_as_the_same_model(name: str):
    model = model_of(name)
    assert comparable(Model.model_validate(from_hf_config(to_hf_config(model)))) == comparable(model)


@pytest.mark.parametrize("name", [name for name in PRESETS if name not in NOT_IN_TRANSFORMERS])
def test_transformers_has_the_same_model(name: str, transformers):
    """Its parameter count on the meta device, and the config it would save itself (the layout of version 5)."""
    import torch

    model = model_of(name)
    config = to_hf_config(model)
    del config["architectures"]
    theirs = transformers.AutoConfig.for_model(**config)
    with torch.device("meta"):
        parameters = transformers.AutoModelForCausalLM.from_config(theirs).parameters()
    assert build_model(model, name=name).num_parameters() == sum(parameter.numel() for parameter in parameters)
    assert comparable(Model.model_validate(from_hf_config(theirs.to_dict()))) == comparable(model)


@pytest.mark.parametrize(("name", "field"), NOT_IN_TRANSFORMERS.items())
def test_a_model_that_no_type_can_state_is_not_written(name: str, field: str):
    with pytest.raises(UnsupportedConfig) as error:
        to_hf_config(model_of(name))
    assert field in str(error.value)


@pytest.mark.parametrize("hf_type", [hf_type for hf_type in HF_TYPES if hf_type.writes], ids=lambda t: t.model_type)
def test_each_type_is_written_for_some_preset(hf_type):
    """So the tests above cover every declaration."""
    names = [name for name in PRESETS if name not in NOT_IN_TRANSFORMERS]
    assert any(to_hf_config(model_of(name))["model_type"] == hf_type.model_type for name in names)


def test_the_type_that_a_checkpoint_came_with_is_preferred():
    plain = model_of("llama-2-7b").model_copy(update={"family": None})
    assert to_hf_config(plain)["model_type"] == "llama"
    assert to_hf_config(plain, prefer="mistral")["model_type"] == "mistral"
    assert to_hf_config(model_of("llama-2-7b").model_copy(update={"family": "phi3"}))["model_type"] == "phi3"
    assert to_hf_config(plain, prefer="gpt2")["model_type"] == "llama"


def test_the_layouts_of_transformers_4_and_5_say_the_same():
    old = CONFIGS["llama-3.1-8b"]
    new = {key: value for key, value in old.items() if key not in ("rope_theta", "rope_scaling")}
    new["rope_parameters"] = {**old["rope_scaling"], "rope_theta": old["rope_theta"]}
    assert from_hf_config(new) == from_hf_config(old)


def test_fields_that_only_training_reads_do_not_stop_an_export():
    fields = model_of("mixtral-8x7b").model_dump(exclude_none=True)
    fields["moe"]["router"] |= {"z_loss_weight": 0.001, "aux_loss_weight": 0.5}
    assert to_hf_config(Model.model_validate(fields))["model_type"] == "mixtral"


def test_a_window_as_long_as_the_model_is_no_window():
    config = {**CONFIGS["mistral-7b"], "sliding_window": 32768}
    assert from_hf_config(config)["attention"]["window"] is None


def test_stored_format_names_the_quantisation_of_the_weights():
    assert stored_format(CONFIGS["kimi-k2"]) == "fp8"
    assert stored_format(CONFIGS["llama-3.1-8b"]) is None


LLAMA, GEMMA_2, QWEN_3 = CONFIGS["llama-3.1-8b"], CONFIGS["gemma-2-27b"], CONFIGS["qwen3-30b-a3b"]
REJECTED = {
    "an unknown type": ({"model_type": "mamba"}, "model_type"),
    "no type": ({"hidden_size": 8}, "model_type"),
    "a missing key": ({"model_type": "llama", "hidden_size": 8}, "intermediate_size"),
    "an unknown activation": ({**LLAMA, "hidden_act": "mish"}, "hidden_act"),
    "an unknown key": ({**LLAMA, "residual_gate": True}, "residual_gate"),
    "an unknown rope scaling": ({**LLAMA, "rope_scaling": {"rope_type": "mrope", "factor": 2}}, "rope_scaling"),
    "an unknown key of a rope scaling": (
        {**LLAMA, "rope_scaling": {**LLAMA["rope_scaling"], "twist": 3}},
        "rope_scaling.twist",
    ),
    "a partial rotation in Llama": ({**LLAMA, "partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    "a value of the wrong kind": ({**LLAMA, "num_attention_heads": "many"}, "model_type"),
    "layers without end": ({**LLAMA, "num_hidden_layers": 10**12}, "num_hidden_layers"),
    "experts that begin too early": ({**QWEN_3, "mlp_only_layers": list(range(1, 48, 2))}, "mlp_only_layers"),
    "no heads": ({**LLAMA, "num_attention_heads": 0}, "model_type"),
    "a window pattern": ({**GEMMA_2, "layer_types": ["full_attention"] + ["sliding_attention"] * 45}, "layer_types"),
    "a chunked attention": ({**GEMMA_2, "layer_types": ["chunked_attention"] * 46}, "layer_types"),
    "bidirectional attention": ({**GEMMA_2, "use_bidirectional_attention": True}, "use_bidirectional_attention"),
    "scattered dense layers": ({**QWEN_3, "mlp_only_layers": [5, 9]}, "mlp_only_layers"),
    "Falcon's ALiBi": ({**CONFIGS["falcon-40b"], "alibi": True}, "alibi"),
    "norms after the residual": (
        {**CONFIGS["bloom-7b1"], "apply_residual_connection_post_layernorm": True},
        "apply_residual_connection_post_layernorm",
    ),
    "scores scaled by depth": (
        {**CONFIGS["gpt2"], "scale_attn_by_inverse_layer_idx": True},
        "scale_attn_by_inverse_layer_idx",
    ),
    "sparse layers of another stride": ({**CONFIGS["kimi-k2"], "moe_layer_freq": 2}, "moe_layer_freq"),
    "another clamp": ({**CONFIGS["gpt-oss-20b"], "swiglu_limit": 9.0}, "swiglu_limit"),
    "an embedding of another width": (
        {
            "model_type": "opt",
            "hidden_size": 1024,
            "ffn_dim": 4096,
            "num_hidden_layers": 24,
            "vocab_size": 50272,
            "max_position_embeddings": 2048,
            "num_attention_heads": 16,
            "word_embed_proj_dim": 512,
        },
        "word_embed_proj_dim",
    ),
}


@pytest.mark.parametrize("case", REJECTED)
def test_what_cannot_be_expressed_is_rejected_by_name(case: str):
    config, field = REJECTED[case]
    with pytest.raises(UnsupportedConfig) as error:
        from_hf_config(config)
    assert error.value.field == field
    assert error.value.why


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("attention", {"kind": "gqa", "softcap": 30.0}),
        ("attention", {"kind": "gqa", "qk_norm": "full"}),
        ("embedding", {"norm": True}),
        ("block", {"kind": "sequential", "norms": "post"}),
        ("position", {"kind": "none"}),
        ("attention", {"kind": "gqa", "sinks": True}),
        ("norm", {"kind": "rmsnorm", "unit_offset": True}),
        ("moe", {"num_experts": 8, "experts_per_token": 2, "capacity_factor": 1.25}),
    ],
)
def test_an_export_never_loses_a_feature(field: str, value: dict):
    model = Model.model_validate({**model_of("llama-3-8b").model_dump(), "family": None, field: value})
    with pytest.raises(UnsupportedConfig):
        to_hf_config(model)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=6,
)


@given(name=st.sampled_from(sorted(CONFIGS)), data=st.data())
@settings(max_examples=400)
def test_a_damaged_config_is_read_or_rejected_and_never_crashes(name: str, data: st.DataObject):
    config = dict(CONFIGS[name])
    for key in data.draw(st.lists(st.sampled_from(sorted(config)), min_size=1, max_size=3)):
        config[key] = data.draw(JSON)
    with suppress(UnsupportedConfig):
        assert isinstance(from_hf_config(config), dict)


@pytest.mark.parametrize(
    ("flags", "first", "every"),
    [
        ([True] * 6, 0, 1),
        ([False, True, True, True], 1, 1),
        ([False, True, False, True, False], 0, 2),
        ([False, False, False, True, False, True], 2, 2),
        ([False, False, True, False], 0, 3),
        ([False] * 3, 3, 1),
    ],
)
def test_layers_with_experts_become_a_first_and_a_stride(flags: list[bool], first: int, every: int):
    values = {"num_layers": len(flags)}
    set_expert_layers(values, flags, key="mlp_only_layers")
    assert (values["moe"]["first_dense_layers"], values["moe"]["every"]) == (first, every)


def test_reading_one_config_leaves_the_next_untouched():
    """Declarations are shared; a value of one model must not stay behind in them."""
    granite = {
        "model_type": "granite",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "vocab_size": 96,
        "max_position_embeddings": 32,
        "num_attention_heads": 4,
        "residual_multiplier": 0.22,
    }
    before = from_hf_config(LLAMA)
    assert from_hf_config(granite)["block"]["residual_scale"] == 0.22
    assert from_hf_config(LLAMA) == before
