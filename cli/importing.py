"""The spec of a published checkpoint, from its config.json."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from ..spec.diagnostics import Diagnostic, diagnose
from ..spec.hf_config import UnsupportedConfig, from_hf_config
from ..spec.hf_folder import Unreadable, read_config

SERVED_TOKENS = 2048
"""Longest request of the spec that is written, if the model allows it: the KV cache is sized for it."""


def spec_text(folder: Path, *, name: str) -> tuple[str, Diagnostic | None]:
    """A spec that serves the checkpoint in `folder` on this machine, or what is wrong with its configuration."""
    try:
        config = read_config(folder / "config.json", shown=str(folder / "config.json"))
        model = dict(from_hf_config(config))
    except Unreadable as problem:
        return "", diagnose("S207", str(problem))
    except UnsupportedConfig as problem:
        return "", diagnose("S208", f"`{problem.field}` of {folder / 'config.json'}: {problem.why}")
    spec = {
        "llmc": 1,
        "name": name,
        "model": model,
        "hardware": {"accelerator": "cpu"},
        "serve": {"max_seq_len": min(SERVED_TOKENS, int(model.get("max_seq_len", SERVED_TOKENS)))},
    }
    return _header(config) + _yaml(spec), None


def _header(config: dict[str, Any]) -> str:
    return f"# A {json.dumps(str(config.get('model_type')))} checkpoint, imported by `llmc import`.\n"


def _yaml(value: dict[str, Any]) -> str:
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[attr-defined]
    out = io.StringIO()
    yaml.dump(value, out)
    return out.getvalue()
