"""Consume or reject: a written key that nothing reads is an error, by the mechanism and not by memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llmc.spec.base import record_reads
from llmc.spec.consumption import unread_keys
from llmc.spec.diagnostics import diagnose
from llmc.spec.document import Spec
from llmc.spec.load import load_text
from llmc.spec.nodes import SourceMap

TEXT = """
name: tiny
model: {preset: gpt2, num_layers: 3, attention: {kind: mha, window: null}}
hardware: {accelerator: cpu, nodes: 1}
train:
  objective: causal_lm
  steps: 10
  seq_len: 32
  global_batch: 4
  optimizer: {name: adamw, lr: 1.0e-3, betas: [0.9, 0.95]}
parallel: auto
"""


def unread_after(read: Callable[[Spec], object], text: str = TEXT, **more: object) -> list[str]:
    spec, sources = load_text(text)
    with record_reads() as reads:
        read(spec)
    return [_dotted(each.path or ()) for each in unread_keys(spec, sources, reads, **more)]  # type: ignore[arg-type]


def _dotted(path: tuple[str | int, ...]) -> str:
    return ".".join(str(key) for key in path if not isinstance(key, int))


def read_all(value: object) -> None:
    """Reads every field of a spec, as all passes together do."""
    if isinstance(value, tuple):
        for item in value:
            read_all(item)
    for name in getattr(type(value), "model_fields", ()):
        read_all(getattr(value, name))


def test_what_is_read_is_consumed():
    assert unread_after(read_all) == []


def test_what_is_not_read_is_named_at_its_outermost_key():
    assert unread_after(lambda spec: None) == ["model", "hardware", "train", "parallel"]
    assert unread_after(lambda spec: (read_all(spec.model), read_all(spec.hardware), spec.parallel)) == ["train"]


def test_a_single_key_left_out_is_found():
    def all_but_betas(spec: Spec) -> None:
        read_all(spec.model), read_all(spec.hardware), spec.parallel
        [stage] = spec.train or ()
        _ = stage.objective, stage.steps, stage.seq_len, stage.global_batch, stage.optimizer.lr

    assert unread_after(all_but_betas) == ["train.optimizer.betas"]


def test_values_of_the_preset_need_no_reader():
    def little(spec: Spec) -> None:
        _ = spec.model.num_layers, spec.model.attention, spec.parallel
        read_all(spec.hardware), read_all(spec.train)

    assert unread_after(little) == []


def test_kinds_and_nulls_are_read_with_what_holds_them():
    def little(spec: Spec) -> None:
        _ = spec.model.num_layers, spec.model.attention, spec.parallel
        read_all(spec.hardware), read_all(spec.train)

    assert "model.attention.window" not in unread_after(little)
    assert "model.attention.kind" not in unread_after(little)


def test_reading_outside_the_recording_consumes_nothing():
    spec, sources = load_text(TEXT)
    read_all(spec)
    with record_reads() as reads:
        pass
    assert unread_keys(spec, sources, reads)


def test_what_is_spoken_of_already_is_not_reported_again():
    about = diagnose("S303", "…", path=("train", 0))
    assert "train" not in unread_after(lambda spec: None, already=[about])


def test_a_reason_is_given_where_it_is_known():
    text = TEXT.replace("parallel: auto", "parallel: {tp: 1, sequence_parallel: true, rest: auto}")
    spec, sources = load_text(text)
    with record_reads() as reads:
        read_all(spec.model), read_all(spec.hardware), read_all(spec.train)
        _ = spec.parallel.tp, spec.parallel.rest
    [fault] = unread_keys(spec, sources, reads)
    assert fault.message == "`parallel.sequence_parallel` has no effect in this spec: `tp` is 1"


@pytest.mark.parametrize("extra", ["llmc: 1\n", "name: x\n"])
def test_keys_of_the_loader_need_no_reader(extra: str):
    text = TEXT.replace("name: tiny\n", extra)
    assert unread_after(lambda spec: None, text) == ["model", "hardware", "train", "parallel"]


def test_without_a_source_map_nothing_is_written():
    spec, _ = load_text(TEXT)
    assert unread_keys(spec, SourceMap(), set()) == []
