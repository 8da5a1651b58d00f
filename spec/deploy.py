"""Where the program runs and what happens around it: launch files, compression, evaluation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .base import Node


class Slurm(Node):
    """A Slurm batch job."""

    target: Literal["slurm"] = Field(description="A Slurm batch job.")
    partition: str | None = Field(default=None, description="The partition to submit to.")


class Kubernetes(Node):
    """Kubernetes objects."""

    target: Literal["kubernetes"] = Field(description="Kubernetes objects.")
    image: str | None = Field(default=None, description="The container image.")
    namespace: str | None = Field(default=None, description="The namespace.")


class Ray(Node):
    """A Ray job."""

    target: Literal["ray"] = Field(description="A Ray job.")


class Docker(Node):
    """A Dockerfile and a compose file."""

    target: Literal["docker"] = Field(description="A Dockerfile and a compose file.")


Deploy = Annotated[Slurm | Kubernetes | Ray | Docker, Field(discriminator="target")]


class Compress(Node):
    """Compression of a trained model."""

    weights: Literal["int8", "int4", "fp8"] = Field(description="Number format of the compressed weights.")


class Eval(Node):
    """Evaluation of a trained model."""

    tasks: tuple[str, ...] = Field(min_length=1, description="Names of the tasks.")
