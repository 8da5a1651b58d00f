"""What every test gets: one thread, fixed seeds, hypothesis profiles, the markers for hardware, the count of skips."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything loads OpenMP; subprocesses inherit it
os.environ.setdefault("GOMP_SPINCOUNT", "0")  # threads that wait leave the cores to other tests
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"  # no test may fetch a model

import importlib.util
import random
import sys
from pathlib import Path

import hypothesis
import numpy as np
import pytest

SEED = 0

hypothesis.settings.register_profile("dev", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))


@pytest.fixture(autouse=True)
def _repeatable():
    """Seeds Python, NumPy and, where something has imported it already, torch."""
    random.seed(SEED)
    np.random.seed(SEED)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)
        torch.manual_seed(SEED)


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository, which is also the package `llmc`."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def import_root(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `llmc/` shows the package as files, for type checkers that read generated code.

    An editable install maps `llmc` by an import hook, which only a running Python follows; give this folder to the
    checker as `extraPaths`.
    """
    folder = tmp_path_factory.mktemp("import_root")
    (folder / "llmc").mkdir()
    for name in ("cli", "compiler", "runtimes", "schema", "spec", "templates"):
        (folder / "llmc" / name).symlink_to(root / name, target_is_directory=True)
    return folder


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    _keep_goldens(config, items)
    _skip_without_device(items)
    _begin_with_long_ones(items)


def _keep_goldens(config: pytest.Config, items: list[pytest.Item]) -> None:
    """`make goldens` runs only the tests that compare with committed files."""
    if not config.getoption("update_snapshots"):
        return
    config.hook.pytest_deselected(items=[item for item in items if not _has_golden(item)])
    items[:] = [item for item in items if _has_golden(item)]


def _has_golden(item: pytest.Item) -> bool:
    return "snapshot" in getattr(item, "fixturenames", ())


def _skip_without_device(items: list[pytest.Item]) -> None:
    """Tests marked gpu, tpu or npu run where such a device answers, and elsewhere are skipped by that name."""
    for marker, has_device in (("gpu", _has_gpu), ("tpu", _has_tpu), ("npu", _has_npu)):
        marked = [item for item in items if item.get_closest_marker(marker)]
        if marked and not has_device():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=f"no {marker} on this machine"))


def _begin_with_long_ones(items: list[pytest.Item]) -> None:
    """Files with slow tests, which wait a lot, go first: the first of several workers has them, and none is left for the end."""
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long)


def _has_gpu() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


def _has_tpu() -> bool:
    return any(Path("/dev").glob("accel[0-9]*"))


def _has_npu() -> bool:
    return any(Path("/dev").glob("davinci[0-9]*"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = len(terminalreporter.stats.get("skipped", []))
    terminalreporter.write_line(f"skipped tests: {skipped}")
