"""The check of imports catches each kind of wrong import, and the package has none."""

from pathlib import Path

import arrows
import pytest


def faults(root: Path, path: str, text: str) -> list[str]:
    module = root / path
    module.parent.mkdir(parents=True, exist_ok=True)
    module.write_text(text, encoding="utf-8")
    return [str(fault) for fault in arrows.all_faults(root)]


def test_the_package_has_no_import_against_the_arrows():
    assert arrows.all_faults(arrows.ROOT) == []


@pytest.mark.parametrize(
    ("place", "text", "message"),
    [
        (
            "spec/a.py:1",
            "from ..compiler.ir import graph",
            "spec/ imports compiler/, but it may import only: nothing of ours",
        ),
        (
            "compiler/ir/a.py:1",
            "from ...runtimes import data",
            "compiler/ imports runtimes/, but it may import only: spec",
        ),
        ("compiler/a.py:1", "from .. import cli", "compiler/ imports cli/, but it may import only: spec"),
        ("runtimes/data/a.py:2", "def f():\n    from ...spec.model import Model", "runtimes/ imports spec/"),
        ("compiler/a.py:1", "from llmc.spec.model import Model", "inside the package imports are relative"),
        ("compiler/a.py:1", "from .....x import y", "a relative import that leaves the package"),
        ("spec/a.py:1", "import torch.nn as nn", "spec/ imports torch: allowed here never"),
        ("compiler/a.py:2", "def f():\n    import triton", "compiler/ imports triton: allowed here never"),
        ("compiler/a.py:2", "import importlib\nimportlib.import_module('jax.numpy')", "compiler/ imports jax"),
        ("cli/a.py:2", "try:\n    from transformers import x\nexcept ImportError: ...", "cli/ imports transformers"),
        ("runtimes/serving/scheduler.py:1", "from torch import Tensor", "allowed here inside functions"),
        ("templates/a.py:1", "x = 1", "templates/ is text only"),
    ],
)
def test_a_wrong_import_is_named_with_its_line(tmp_path: Path, place: str, text: str, message: str):
    found = faults(tmp_path, place.partition(":")[0], text)
    assert len(found) == 1
    assert found[0].startswith(f"{place}: ")
    assert message in found[0]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (
            "compiler/ir/a.py",
            "from ...spec.model import Model\nfrom ..passes import x\nfrom .dims import B\nfrom . import dims",
        ),
        ("cli/a.py", "def run():\n    import torch\n    from ..runtimes.data import prepare"),
        ("compiler/planner/a.py", "from ...runtimes.serving.simulation import simulate"),
        ("runtimes/pytorch/a.py", "import torch\nfrom ..common import metrics"),
        ("runtimes/serving/sampler.py", "import torch"),
        ("runtimes/data/a.py", "def f():\n    import torch"),
        ("spec/a.py", "import torchless\nimport pydantic"),
        ("templates/__init__.py", '"""Text only."""'),
    ],
)
def test_a_right_import_is_left_alone(tmp_path: Path, path: str, text: str):
    assert faults(tmp_path, path, text) == []
