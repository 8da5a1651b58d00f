"""Which family of the catalog a Hugging Face model type is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import catalog

_OTHER_NAMES = {"gemma3_text": "gemma3"}


def family_of_config(config: Mapping[str, Any]) -> str | None:
    """The family that bears the name of the config's model type (`gpt_neox` is `gpt-neox`); None if there is none.

    Types can be the same model with differently named tensors (Phi-3 and Llama), so the name is worth keeping.
    """
    model_type = str(config.get("model_type"))
    wanted = _plain(_OTHER_NAMES.get(model_type, model_type))
    return next((name for name in catalog.list_families() if _plain(name) == wanted), None)


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
