"""Four ranks, one of which is killed with SIGKILL: the run ends as if nothing had happened (benchmarks/chaos.py does it twenty times)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_a_run_of_which_a_rank_is_killed_ends_like_one_that_is_not(root: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(root / "benchmarks/chaos.py"), "--kills", "1", "--steps", "8"]
    done = subprocess.run(
        [*command, "--folder", str(tmp_path)], capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("yes  ") == 5
