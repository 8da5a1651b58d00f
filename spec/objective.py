"""Training objectives. A new objective is a class here and a member of the union at the end."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from .base import Node
from .units import Fraction, Positive


class CausalLm(Node):
    """Predict each next token."""

    kind: Literal["causal_lm"] = Field(description="Predict each next token.")


class MaskedLm(Node):
    """Predict masked tokens (Devlin 2018)."""

    kind: Literal["masked_lm"] = Field(description="Predict masked tokens.")
    mask_fraction: Fraction = Field(default=0.15, description="Share of the tokens that are masked.")


class Sft(Node):
    """Supervised fine-tuning: predict the answer's tokens only."""

    kind: Literal["sft"] = Field(description="Predict the answer's tokens only.")


class Dpo(Node):
    """Direct preference optimisation (Rafailov 2023)."""

    kind: Literal["dpo"] = Field(description="Prefer the chosen answer over the rejected one.")
    beta: Positive = Field(default=0.1, description="Strength of the pull towards the reference model.")


def _from_name(value: Any) -> Any:
    """`causal_lm` is short for `{kind: causal_lm}`."""
    return {"kind": value} if isinstance(value, str) else value


_Kind = Annotated[CausalLm | MaskedLm | Sft | Dpo, Field(discriminator="kind")]
_Name = Literal["causal_lm", "masked_lm", "sft", "dpo"]

Objective = Annotated[_Kind, BeforeValidator(_from_name, json_schema_input_type=_Name | _Kind)]
