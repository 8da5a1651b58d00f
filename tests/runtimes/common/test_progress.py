"""Progress reaches people: bars on a terminal, lines elsewhere, and nobody is flooded."""

from __future__ import annotations

import io

import pytest

from llmc.runtimes.common import progress as module
from llmc.runtimes.common.progress import Stage, show_progress, silent


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that the test sets."""
    now_s = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now_s[0])
    return now_s


def test_a_stage_reports_its_start_its_end_and_ten_times_a_second_between(clock: list[float]) -> None:
    calls: list[tuple] = []
    stage = Stage(lambda *call: calls.append(call), "count", total=1000)
    for _ in range(1000):
        clock[0] += 0.001
        stage.advance(1)
    stage.finish()
    assert calls[0] == ("count", 0, 1000)
    assert calls[-1] == ("count", 1000, 1000)
    assert 10 <= len(calls) <= 13


def test_a_stage_of_unknown_size_ends_with_what_was_done(clock: list[float]) -> None:
    calls: list[tuple] = []
    stage = Stage(lambda *call: calls.append(call), "count", total=None)
    stage.advance(7)
    stage.finish()
    assert calls == [("count", 0, None), ("count", 7, 7)]


def test_a_log_gets_a_line_every_ten_seconds_and_one_at_the_end(clock: list[float]) -> None:
    stream = io.StringIO()
    with show_progress(stream) as progress:
        for second in range(25):
            clock[0] = float(second)
            progress("read", second, 100)
        progress("read", 100, 100)
        progress("wait", 0, None)
        clock[0] += 10
        progress("wait", 1234, None)
    assert stream.getvalue() == "read: 10 %\nread: 20 %\nread: done in 24.0 s\nwait: 1,234\n"


def test_what_is_soon_done_says_nothing(clock: list[float]) -> None:
    stream = io.StringIO()
    with show_progress(stream, after_s=2.0) as progress:
        progress("draft", 0, 100)
        clock[0] = 1.0
        progress("draft", 100, 100)
        progress("load", 0, 100)
        clock[0] = 4.0
        progress("load", 100, 100)
    assert stream.getvalue() == "load: done in 3.0 s\n"


def test_a_terminal_gets_bars() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    with show_progress(terminal) as progress:
        progress("read", 10, 100)
        progress("read", 100, 100)
    assert "read" in terminal.getvalue()
    assert "100%" in terminal.getvalue()


def test_silence() -> None:
    assert silent("read", 1, None) is None
