from __future__ import annotations

from pathlib import Path

import pytest
from real_program import prepare


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a generated program of two ranks and a run of it that has done two steps."""
    folder = tmp_path_factory.mktemp("prepared")
    prepare(folder)
    return folder
