"""From files to a spec: extends, --set, presets; and where each value comes from."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmc.spec.diagnostics import Diagnostic, SpecError
from llmc.spec.document import Spec
from llmc.spec.load import load_spec, load_text, read_spec
from llmc.spec.nodes import SourceMap

MACHINE = "hardware: {accelerator: {kind: cpu, memory_gib: 8, memory_gb_s: 20, peak_tflops: {fp32: 1}}}\n"
TINY = "model: {family: llama, hidden_size: 64, num_layers: 2, num_heads: 4, intermediate_size: 128, vocab_size: 300, max_seq_len: 64}\n"
TRAIN = "train: {objective: causal_lm, seq_len: 32, steps: 10, global_batch: 4, optimizer: {name: adamw, lr: 1e-3}}\n"


def load(text: str, *overrides: str) -> Spec:
    return load_text(text, overrides)[0]


def codes(text: str, *overrides: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        load_text(text, overrides)
    return [diagnostic.code for diagnostic in caught.value.diagnostics]


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / (name.replace("__", "/") + ".yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "spec.yaml"


def test_a_family_gives_the_style_and_the_user_the_dimensions():
    spec = load(TINY + MACHINE)
    assert (spec.model.norm.kind, spec.model.mlp.activation, spec.model.position.kind) == ("rmsnorm", "swiglu", "rope")
    assert (spec.model.num_kv_heads, spec.model.head_dim) == (4, 16)


def test_a_preset_is_overridden_field_by_field():
    whole = load("model: {preset: llama-3-8b}\n" + MACHINE).model
    half = load("model: {preset: llama-3-8b, num_layers: 16, position: {theta: 1e4}}\n" + MACHINE).model
    assert (half.num_layers, half.hidden_size) == (16, whole.hidden_size)
    assert half.position.model_dump() == whole.position.model_dump() | {"theta": 1e4}


def test_another_kind_replaces_what_the_preset_says_of_the_old_one():
    model = load("model: {preset: gemma-2-9b, attention: {kind: mha}, num_kv_heads: 16}\n" + MACHINE).model
    assert model.attention.softcap is None
    assert load("model: {preset: gemma-2-9b, attention: {kind: gqa}}\n" + MACHINE).model.attention.softcap == 50


def test_one_stage_and_a_list_of_one_are_the_same():
    as_list = TRAIN.replace("train: ", "train:\n  - ")
    assert load(TINY + MACHINE + TRAIN).train == load(TINY + MACHINE + as_list).train


def test_auto_is_short_for_everything_open():
    assert load(TINY + MACHINE + "parallel: auto\n").parallel.is_auto
    assert load(TINY + MACHINE).parallel.is_auto
    assert not load(TINY + MACHINE + "parallel: {tp: 2}\n").parallel.is_auto


def test_extends_lays_the_spec_over_its_base(tmp_path: Path):
    spec, _ = load_spec(
        write(tmp_path, base=TINY + MACHINE + TRAIN, spec="extends: base.yaml\nmodel: {num_layers: 3}\n")
    )
    assert (spec.model.num_layers, spec.model.hidden_size) == (3, 64)


def test_extends_goes_through_folders_and_later_ones_win(tmp_path: Path):
    path = write(
        tmp_path,
        lib__machine=MACHINE,
        lib__tiny="extends: machine.yaml\n" + TINY,
        wide="model: {hidden_size: 128}\n",
        spec="extends: [lib/tiny.yaml, wide.yaml]\nmodel: {num_layers: 5}\n",
    )
    spec, sources = load_spec(path)
    assert (spec.model.hidden_size, spec.model.num_layers, spec.model.num_heads) == (128, 5, 4)
    site = sources.site(("hardware", "accelerator", "memory_gib"))
    assert site is not None
    assert (Path(site.value.file).name, site.value.line) == ("machine.yaml", 1)


def test_a_single_stage_merges_with_the_single_stage_below(tmp_path: Path):
    spec, _ = load_spec(
        write(
            tmp_path,
            base=TINY + MACHINE + TRAIN,
            spec="extends: base.yaml\ntrain: {steps: 20, optimizer: {lr: 2e-3}}\n",
        )
    )
    [stage] = spec.train or ()
    assert (stage.steps, stage.global_batch, stage.optimizer.lr) == (20, 4, 2e-3)


def test_a_shorthand_below_a_mapping_is_written_out_first(tmp_path: Path):
    path = write(tmp_path, base=TINY + MACHINE + "parallel: auto\n", spec="extends: base.yaml\nparallel: {tp: 2}\n")
    parallel = load_spec(path)[0].parallel
    assert (parallel.tp, parallel.is_auto) == (2, True)


def test_a_fault_in_an_extended_file_points_there(tmp_path: Path):
    path = write(tmp_path, base=MACHINE + TINY.replace("num_layers", "num_layer"), spec="extends: base.yaml\n")
    _, _, found = read_spec(path)
    places = [(Path(each.span.file).name, each.span.line) for each in found if each.span]
    assert places == [("base.yaml", 2)] * len(found)
    assert found


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ({"spec": "extends: spec.yaml\n"}, "S202"),
        ({"a": "extends: spec.yaml\n", "spec": "extends: a.yaml\n"}, "S202"),
        ({"spec": "extends: missing.yaml\n"}, "S201"),
        ({"spec": "extends: /etc/passwd\n"}, "S201"),
        ({"spec": "extends: /tmp/base.yaml\n"}, "S201"),
        ({"spec": 'extends: "a\\0.yaml"\n'}, "S101"),
        ({"spec": f"extends: {'a' * 5000}.yaml\n"}, "S201"),
        ({"a": "- 1\n", "spec": "extends: a.yaml\n"}, "S110"),
        ({"a": "model: {\n", "spec": "extends: a.yaml\n"}, "S101"),
    ],
)
def test_extends_that_cannot_be_followed(files: dict[str, str], code: str, tmp_path: Path):
    _, _, found = read_spec(write(tmp_path, **files))
    assert code in [each.code for each in found]


def test_two_bases_that_extend_a_third_are_no_cycle(tmp_path: Path):
    path = write(
        tmp_path,
        machine=MACHINE,
        a="extends: machine.yaml\n",
        b="extends: machine.yaml\n" + TINY,
        spec="extends: [a.yaml, b.yaml]\n",
    )
    assert load_spec(path)[0].model.hidden_size == 64


@pytest.mark.parametrize(
    ("option", "get"),
    [
        ("train.optimizer.lr=1e-4", lambda spec: spec.train[0].optimizer.lr == 1e-4),
        ("train.0.optimizer.lr=1e-4", lambda spec: spec.train[0].optimizer.lr == 1e-4),
        ("train.optimizer={name: lion, lr: 1e-4}", lambda spec: spec.train[0].optimizer.name == "lion"),
        ("train.tokens=4M", lambda spec: spec.train[0].tokens == 4_000_000),
        ("model.tie_embeddings=true", lambda spec: spec.model.tie_embeddings),
        ("model.attention.window=32", lambda spec: spec.model.attention.window == 32),
        ("parallel.tp=2", lambda spec: spec.parallel.tp == 2 and spec.parallel.is_auto),
        ("parallel={tp: 2}", lambda spec: spec.parallel.tp == 2 and not spec.parallel.is_auto),
        ("name=other", lambda spec: spec.name == "other"),
        ("train.grad_clip=null", lambda spec: spec.train[0].grad_clip is None),
        ("train.grad_clip=", lambda spec: spec.train[0].grad_clip is None),
        ("hardware.accelerator.memory_gib=96", lambda spec: spec.hardware.accelerator.memory_gib == 96),
    ],
)
def test_set_overrides_one_value(option: str, get):
    train = TRAIN.replace("steps: 10, ", "") if "tokens" in option else TRAIN
    assert get(load(TINY + MACHINE + train + "parallel: auto\n", option))


def test_later_overrides_win():
    assert load(TINY + MACHINE, "model.num_layers=3", "model.num_layers=4").model.num_layers == 4


@pytest.mark.parametrize(
    ("option", "piece"),
    [
        ("train.optimizer.lr", "train.optimizer.lr"),
        ("=3", "=3"),
        ("model..num_layers=3", "model..num_layers=3"),
        ("model.num_layers.x=3", "x"),
        ("train.7.seq_len=3", "7"),
        ("model.num_layers=[1", "["),
    ],
)
def test_an_override_that_cannot_be_applied_is_pointed_at(option: str, piece: str):
    with pytest.raises(SpecError) as caught:
        load_text(TINY + MACHINE + TRAIN, [option])
    [fault] = caught.value.diagnostics
    assert fault.code in ("S203", "S101")
    assert fault.span is not None
    assert fault.span.file == "--set"
    assert fault.span.start == (option.index(piece) if fault.code == "S203" else len(option))


def test_a_wrong_value_of_an_override_has_its_caret_in_the_option():
    with pytest.raises(SpecError) as caught:
        load_text(TINY + MACHINE + TRAIN, ["train.optimizer.lr=fast"])
    [fault] = caught.value.diagnostics
    assert (fault.code, fault.span and fault.span.text) == ("S106", "fast")


def test_the_source_map_tells_what_the_user_wrote():
    _, sources = load_text("model: {preset: gpt2, num_layers: 3}\n" + MACHINE)
    assert sources.is_written(("model", "num_layers"))
    assert not sources.is_written(("model", "hidden_size"))
    site = sources.site(("model", "hidden_size"))
    assert site is not None
    assert site.value.text == "gpt2"


def test_every_fault_is_reported_at_once():
    text = """
name: Bad Name
model: {family: llama, hidden_size: 64, num_layer: 2, num_heads: 5, num_kv_heads: 2, intermediate_size: 128, vocab_size: 1K, max_seq_len: 64}
hardware: {accelerator: {kind: cpu, memory_gib: -8, memory_gb_s: 20, peak_tflops: {fp32: 1}}}
serve: {max_seq_len: 512, slo: {ttft_p50_ms: 800, ttft_p99_ms: 500}}
train: {objective: causal_lm, seq_len: 32, tokens: 100M, steps: 10, global_batch: 4}
"""
    assert codes(text) == ["S116", "S105", "S104", "S115", "S107", "S314", "S301"]


def test_rules_of_valid_sections_are_checked_beside_faults_of_others():
    assert codes("model: {preset: gpt2, num_kv_heads: 5}\nhardware: {acelerator: cpu}\n") == [
        "M101",
        "M102",
        "S105",
        "S104",
    ]


def fault(text: str) -> Diagnostic:
    with pytest.raises(SpecError) as caught:
        load_text(text)
    return caught.value.diagnostics[0]


@pytest.mark.parametrize(
    ("text", "help"),
    [
        (TINY.replace("num_layers", "num_layer") + MACHINE, None),  # S105 first: nothing to propose
        (
            TINY.replace("num_heads: 4", "num_heads: 4, n_kv_heads: 2") + MACHINE,
            "`model.num_kv_heads` is the name here",
        ),
        (
            TINY.replace("num_heads: 4", "num_heads: 4, rope_theta: 1e4") + MACHINE,
            "`model.position.theta` is the name here",
        ),
        (TINY + MACHINE + TRAIN.replace("seq_len", "lr: 1, seq_len"), None),  # train.optimizer.lr is taken
        (
            TINY
            + MACHINE
            + "train: {objective: causal_lm, seq_len: 32, steps: 10, global_batch: 4, betas: [0.9, 0.99]}\n",
            None,
        ),
        (TINY + MACHINE + "tp: 2\n", "`parallel.tp` is where it belongs"),
    ],
)
def test_help_is_only_what_was_tried(text: str, help: str | None):
    assert fault(text).help == help


def test_a_preset_that_is_not_found_is_the_only_fault():
    assert codes("model: {preset: nonsense}\n" + MACHINE) == ["S204"]


@pytest.mark.parametrize("value", ["[gpt2]", "{a: gpt2}", "3", "true"])
def test_a_preset_that_is_no_name_is_said_to_be_none(value: str):
    assert codes(f"model: {{preset: {value}}}\n" + MACHINE)[-1] == "S106"


def test_nothing_is_read_from_a_source_map_that_is_empty():
    assert SourceMap().site(("model",)) is None
