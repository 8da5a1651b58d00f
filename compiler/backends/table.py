"""Kind of accelerator -> the backend that writes programs for it. Loaded when a spec names one."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .base import Backend

BACKENDS = {
    "cpu": ".pytorch:files",
    "gpu": ".pytorch:files",
    "npu": ".pytorch:files",
    "tpu": ".xla:files",
}


def backend_for(kind: str) -> Backend:
    """The function that lists a program's files."""
    module, _, function = BACKENDS[kind].partition(":")
    return getattr(import_module(module, __package__), function)
