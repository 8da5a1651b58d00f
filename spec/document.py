"""The whole spec. Only `model` and `hardware` are required; a command says which other section it needs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from .assume import Assume
from .base import Node
from .data import Data
from .deploy import Compress, Deploy, Eval
from .hardware import Hardware
from .model import Model
from .parallel import Parallel, ParallelOrAuto
from .serving import Serve
from .training import Train
from .units import NotAFlag


def _one_or_many(value: Any) -> Any:
    """A single stage is short for a list of one."""
    return (value,) if isinstance(value, dict) else value


AtLeastOneStage = Annotated[tuple[Train, ...], Field(min_length=1)]


class Spec(Node):
    """One LLM system: architecture, data, hardware, parallel layout, training recipe, serving, deployment."""

    llmc: Annotated[Literal[1], NotAFlag] = Field(default=1, description="Version of the language.")
    name: str = Field(
        default="model",
        pattern=r"^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$",
        description="Names the build folder and the run.",
    )
    extends: str | tuple[str, ...] | None = Field(
        default=None, description="Specs that this one is laid over, relative to it."
    )
    model: Model = Field(description="The architecture.")
    hardware: Hardware = Field(description="The machine.")
    data: Data | None = Field(default=None, description="The text a model is trained on.")
    train: (
        Annotated[
            tuple[Train, ...],
            BeforeValidator(_one_or_many, json_schema_input_type=Train | AtLeastOneStage),
            Field(min_length=1),
        ]
        | None
    ) = Field(default=None, description="The training recipe: one stage, or a list of them.")
    parallel: ParallelOrAuto = Field(default=Parallel(rest="auto"), description="auto, or degrees fixed by hand.")
    assume: Assume | None = Field(default=None, description="Another program's ways, to price it in place of ours.")
    compress: Compress | None = Field(default=None, description="Compression of the trained model.")
    serve: Serve | None = Field(default=None, description="The server.")
    deploy: Deploy | None = Field(default=None, description="Where the program runs.")
    eval: Eval | None = Field(default=None, description="Evaluation of the trained model.")
