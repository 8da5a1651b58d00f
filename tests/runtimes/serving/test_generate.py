"""Completing a prompt on the command line."""

from __future__ import annotations

import io

import pytest

from llmc.runtimes.serving.generate import generate
from llmc.runtimes.serving.generation import Sampling


class Terminal(io.StringIO):
    """Remembers what had been written at each flush."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def flush(self) -> None:
        self.seen.append(self.getvalue())


def run(parts, prompt: str, **options) -> tuple[int, Terminal]:
    out = Terminal()
    options = {"max_tokens": 50, "sampling": Sampling(temperature=0), **options}
    return generate(parts.engine, parts.service.vocabulary, prompt, out=out, **options), out


def test_the_prompt_and_its_continuation_are_printed_as_they_come(make, say):
    status, out = run(make(start=False, logits=say("né€!".encode())), "say>")
    assert (status, out.getvalue()) == (0, "say>né€!\n")
    assert [text for text in out.seen if text][:4] == ["say>n", "say>né", "say>né€", "say>né€!"]


def test_the_answer_ends_with_the_context(make):
    status, out = run(make(start=False, max_seq_len=20), "a" * 10, sampling=Sampling(seed=1, logit_bias=((256, -100),)))
    assert status == 0
    assert len(out.getvalue()) > 10


@pytest.mark.parametrize(("prompt", "problem"), [("", "is empty"), ("a" * 200, "has 200 tokens")])
def test_a_prompt_that_cannot_be_used_is_one_line(make, capsys, prompt, problem):
    status, out = run(make(start=False), prompt)
    assert (status, out.getvalue()) == (1, "")
    assert capsys.readouterr().err.startswith(f"the prompt {problem}")


def test_an_engine_that_fails_is_an_error_not_a_hang(make, capsys):
    status, _ = run(make(start=False, fault=RuntimeError("boom")), "a")
    assert status == 1
    assert "the engine has failed" in capsys.readouterr().err
