"""Whatever stands in a spec, `llmc plan` ends with 0, 1 or 3, and never with a traceback."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from mutations import base_texts, mutated_texts

from llmc.cli.main import main
from llmc.compiler.planner import serve_simulation


def run(*args: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(args)
    return status, out.getvalue(), err.getvalue()


@pytest.fixture(autouse=True, scope="module")
def _short_simulations() -> Iterator[None]:
    """Percentiles are over as few requests as they ever are: how a plan ends does not depend on how many there are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serve_simulation, "MOST_REQUESTS", serve_simulation.LEAST_REQUESTS)
        yield


@pytest.mark.slow
@settings(max_examples=2000, suppress_health_check=list(HealthCheck))
@given(mutated_texts(base_texts(devices=2)))
def test_2000_mutated_specs_end_with_0_1_or_3(tmp_path_factory: pytest.TempPathFactory, text: str):
    path = tmp_path_factory.getbasetemp() / "mutated.yaml"
    path.write_bytes(text.encode("utf-8", errors="surrogatepass"))
    status, out, err = run("plan", str(path))
    assert status in (0, 1, 3), err
    assert "Traceback" not in out + err
    assert (status == 0) == ("error[" not in err)
    assert out or err


@pytest.mark.slow
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(mutated_texts(base_texts()))
def test_the_json_of_mutated_specs_is_json_with_the_same_verdict(tmp_path_factory: pytest.TempPathFactory, text: str):
    path = Path(tmp_path_factory.getbasetemp() / "mutated.yaml")
    path.write_bytes(text.encode("utf-8", errors="surrogatepass"))
    status, out, _ = run("plan", "--json", str(path))
    [entry] = json.loads(out)
    severities = [each["severity"] for each in entry["diagnostics"]]
    assert (status == 0) == ("error" not in severities)
