"""The pool of ranks and the runs of one device, shared by all tests of this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pool import Pool
from reference import MODELS, run_alone, spec_of


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    pool = Pool(4, tmp_path_factory.mktemp("stores"))
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def reference_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a model's run on one device, which is made when it is asked for first."""
    made: dict[str, Path] = {}

    def reference_of(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            run_alone(spec_of(MODELS[name]), made[name])
        return made[name]

    return reference_of
