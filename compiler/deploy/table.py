"""Name of a target -> the function that lists its files, and which sections of a spec it can launch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .target import Target

TARGETS = {
    "torchrun": ".torchrun:files",
    "slurm": ".slurm:files",
    "kubernetes": ".kubernetes:files",
    "queued_resource": ".queued_resource:files",
    "ray": ".ray:files",
    "docker": ".docker:files",
    "systemd": ".systemd:files",
}
LAUNCHES = {
    "torchrun": ("train",),
    "slurm": ("train",),
    "kubernetes": ("train", "serve"),
    "queued_resource": ("train",),
    "ray": ("train", "serve"),
    "docker": ("serve",),
    "systemd": ("serve",),
}


def target_of(name: str) -> Target:
    module, _, function = TARGETS[name].partition(":")
    return getattr(import_module(module, __package__), function)
