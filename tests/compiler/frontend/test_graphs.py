"""Specs of models become graphs: parameter counts that are published, and the text form of whole graphs."""

from __future__ import annotations

import pytest

from llmc.compiler.frontend.model import build_graph
from llmc.compiler.ir.text import print_graph
from llmc.spec.diagnostics import SpecError
from llmc.spec.document import Spec

from ..models import DEEPSEEK_V3, H100, LLAMA_3_8B, MODELS, graph_of

# Sum of p.numel() over transformers' model built on the meta device from the published configuration.
PUBLISHED = {
    "llama-3-8b": 8_030_261_248,
    "gpt2": 124_439_808,
    "falcon-7b": 6_921_720_704,
    "gemma-2-9b": 9_241_705_984,
    "deepseek-v3": 671_026_404_352,
    "gpt-oss-20b": 20_914_757_184,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_counted_as_published(name: str):
    assert graph_of(MODELS[name]).num_parameters() == PUBLISHED[name]


def test_a_token_uses_37_billion_of_deepseek_v3():
    """The paper says 37B activated; the embedding, which is looked up, makes it 37.6."""
    active = graph_of(DEEPSEEK_V3).active_parameters()
    assert active == 37_552_282_624
    assert round((active - 129280 * 7168) / 1e9) == 37


@pytest.mark.parametrize("name", PUBLISHED)
def test_text_of_a_graph(name: str, snapshot):
    assert print_graph(graph_of(MODELS[name], name=name)) == snapshot


def test_equal_layers_fold_into_one_block():
    shallow, deep = graph_of(LLAMA_3_8B), graph_of(LLAMA_3_8B | {"num_layers": 1000})
    assert len(deep.all_ops) == len(shallow.all_ops)
    assert deep.count("block") == 1000


def test_each_nth_layer_attends_globally_counted_from_one():
    fields = LLAMA_3_8B | {"num_layers": 8, "attention": {"kind": "gqa", "window": 16, "global_every": 3}}
    assert graph_of(fields).order == ("local", "local", "global", "local", "local", "global", "local", "local")


def test_experts_follow_the_first_dense_layers():
    moe = {"num_experts": 4, "experts_per_token": 2, "first_dense_layers": 1, "every": 2}
    graph = graph_of(LLAMA_3_8B | {"num_layers": 6, "moe": moe})
    assert graph.order == ("dense", "dense", "moe", "dense", "moe", "dense")


def test_local_layers_rotate_with_their_own_base_unscaled():
    """Gemma 3: 10,000 on sliding-window layers, a scaled million on global ones."""
    position = {"kind": "rope", "theta": 1e6, "local_theta": 1e4, "scaling": {"kind": "linear", "factor": 8.0}}
    fields = LLAMA_3_8B | {"attention": {"kind": "gqa", "window": 1024, "global_every": 6}, "position": position}
    graph = graph_of(fields)
    local, globally = graph["local/attn.q_rope"].attrs, graph["global/attn.q_rope"].attrs
    assert (local["theta"], local.get("scaling")) == (1e4, None)
    assert (globally["theta"], globally.get("scaling")) == (1e6, "linear")


def test_a_parallel_block_has_one_norm_or_two():
    shared = graph_of(LLAMA_3_8B | {"block": {"kind": "parallel", "norms": "shared"}})
    separate = graph_of(LLAMA_3_8B | {"block": {"kind": "parallel", "norms": "separate"}})
    assert [op.name for op in shared.ops("rms_norm", block="block")] == ["attn_norm"]
    assert [op.name for op in separate.ops("rms_norm", block="block")] == ["attn_norm", "mlp_norm"]


def test_a_post_norm_model_has_no_norm_before_its_head():
    graph = graph_of(LLAMA_3_8B | {"block": {"kind": "sequential", "norms": "post"}})
    assert "norm" not in graph
    assert graph.blocks[0].output == "block/mlp_norm"


def spec_of(**changes: object) -> Spec:
    return Spec.model_validate({"model": LLAMA_3_8B, "hardware": {"accelerator": H100}} | changes)


def test_what_is_not_lowered_is_told_with_what_is():
    stage = {"objective": {"kind": "dpo"}, "steps": 1, "seq_len": 8, "global_batch": 1}
    spec = spec_of(model=LLAMA_3_8B | {"kind": "encoder"}, train=stage)
    with pytest.raises(SpecError) as caught:
        build_graph(spec)
    assert [(each.code, each.path, each.message) for each in caught.value.diagnostics] == [
        ("L301", ("model", "kind"), "models of kind encoder are not lowered yet; kind decoder is"),
        ("L301", ("train", 0, "objective"), "the objective dpo is not lowered yet; causal_lm is"),
    ]


def test_absurd_sizes_are_refused_and_not_computed():
    hardware = {"accelerator": H100, "nodes": 10**15}
    spec = spec_of(model=LLAMA_3_8B | {"num_layers": 10**15}, hardware=hardware)
    with pytest.raises(SpecError) as caught:
        build_graph(spec)
    assert [each.code for each in caught.value.diagnostics] == ["P210", "P211"]
