"""Checkpoints to compare with, and programs built for them."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llmc.compiler.emit.tree import write_tree
from llmc.compiler.pipeline import build
from llmc.runtimes.pytorch.huggingface import export_checkpoint, import_checkpoint
from llmc.runtimes.pytorch.weights import load_weights

SPEC = """
llmc: 1
name: tiny
model: {hf: ./hf}
hardware: {accelerator: cpu, nodes: 1, per_node: 1}
serve: {max_seq_len: 64, weights: {dtype: fp32}, kv_cache: {dtype: fp32}}
"""


@dataclass(frozen=True)
class Program:
    """A build and its two modules that matter here."""

    folder: Path
    model: ModuleType
    convert: ModuleType
    config: dict[str, Any]

    def import_(self, source: Path, out: Path) -> int:
        return import_checkpoint(**self._table, source=source, out=out)

    def export(self, source: Path, out: Path) -> int:
        return export_checkpoint(**self._table, config=self.config, source=source, out=out)

    def load(self, weights: Path) -> nn.Module:
        model = self.model.Model().eval()
        load_weights(model, weights)
        return model

    @property
    def _table(self) -> dict[str, Any]:
        layers = self.model.Model().layers
        return {"tensors": self.convert.TENSORS, "model": self.model.Model, "num_layers": len(layers)}


@pytest.fixture(scope="session")
def load_build() -> Callable[[Path], Program]:
    """The modules of a build folder."""

    def load(folder: Path) -> Program:
        # model.py says `from kernels.…`, convert.py `from model import Model`: each build's own
        sys.path.insert(0, str(folder))
        try:
            sys.modules["model"] = model = _module("model", folder / "model.py")
            convert = _module("convert", folder / "convert.py")
        finally:
            sys.path.remove(str(folder))
            for name in [name for name in sys.modules if name.partition(".")[0] in ("model", "kernels")]:
                del sys.modules[name]
        return Program(folder, model, convert, config=json.loads((folder / "hf_config.json").read_text()))

    return load


@pytest.fixture(scope="session")
def build_for(load_build: Callable[[Path], Program]) -> Callable[..., Program]:
    """Folder with `hf/` -> the program that a spec with `model: {hf: ./hf}`, and `more` below it, builds in its `build/`."""

    def build_program(folder: Path, more: str = "") -> Program:
        spec, out = folder / "spec.yaml", folder / "build"
        spec.write_text(SPEC + more, encoding="utf-8")
        result = build(spec, out)
        assert result.tree is not None, [each.message for each in result.diagnostics]
        write_tree(result.tree, out)
        return load_build(out)

    return build_program


def _module(name: str, path: Path) -> ModuleType:
    found = importlib.util.spec_from_file_location(name, path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def randomise() -> Callable[[nn.Module, int], None]:
    """Gives every parameter values that matter: transformers starts biases at 0 and norms at 1, which hides mistakes."""

    def fill(model: nn.Module, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)

        def noise(parameter: Tensor) -> Tensor:
            return torch.randn(parameter.shape, generator=generator)

        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.dim() == 1:
                    parameter.add_(0.3 * noise(parameter))
                elif "embed" in name or "wte" in name or "wpe" in name:
                    parameter.copy_(0.5 * noise(parameter))
                else:
                    parameter.copy_(1.2 * noise(parameter) / min(parameter.shape[-2:]) ** 0.5)
            for name, buffer in model.named_buffers():
                if name.endswith("e_score_correction_bias"):
                    buffer.add_(0.3 * noise(buffer))

    return fill
