"""The command inside this process, with what it prints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from llmc.cli.main import main


@dataclass(frozen=True)
class Ran:
    status: int
    out: str
    err: str


@pytest.fixture
def llmc(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """`llmc("plan", "spec.yaml")` -> exit status, standard output, standard error."""

    def run(*args: object) -> Ran:
        status = main([str(arg) for arg in args])
        printed = capsys.readouterr()
        return Ran(status, printed.out, printed.err)

    return run
