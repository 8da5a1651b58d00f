"""The Dockerfile that a program's image is built from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .guards import COMPOSED
from .serving import serve_command
from .target import Files, launch_file

if TYPE_CHECKING:
    from .facts import Server


def dockerfile(*, has_train: bool, server: Server | None, is_xla: bool = False) -> Files:
    """The image runs the server if there is one; a training job names its own command."""
    command = serve_command(server, None, guards=COMPOSED) if server is not None else ()
    names = {"has_train": has_train, "server": server, "command": command, "is_xla": is_xla}
    return Files(
        (
            launch_file("Dockerfile", "docker/Dockerfile.j2", **names),
            launch_file("Dockerfile.dockerignore", "docker/Dockerfile.dockerignore.j2"),
        )
    )
