"""The Dockerfile that a program's image is built from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .target import Files, launch_file

if TYPE_CHECKING:
    from .facts import Server


def dockerfile(*, has_train: bool, server: Server | None) -> Files:
    """The image runs the server if there is one; a training job names its own command."""
    names = {"has_train": has_train, "server": server}
    return Files(
        (
            launch_file("Dockerfile", "docker/Dockerfile.j2", **names),
            launch_file("Dockerfile.dockerignore", "docker/Dockerfile.dockerignore.j2"),
        )
    )
