"""Quantities: how a user may write them, and the unit each carries into the schema.

A count is written `4096`, `4k`, `8M`, `1B` or `15T` (decimal multiples). A quantity with a physical unit has it in its
name (`_ms`, `_gib`, `_gb_s`, `_usd`), so only counts take suffixes.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, Strict, WithJsonSchema
from pydantic_core import PydanticCustomError, PydanticKnownError

GIB = 1024**3
GB = 10**9

_MULTIPLE = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_COUNT = re.compile(r"(\d+(?:\.\d+)?(?:[eE]\+?\d+)?)\s*([kMBT]?)")


def parse_count(value: Any) -> Any:
    """`"15T"` -> 15_000_000_000_000. Leaves what is no text alone, for pydantic to judge."""
    if isinstance(value, bool):
        raise PydanticCustomError("count", "a count is a whole number, such as 4096, 4k or 15T, not true or false")
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, str):
        return value
    match = _COUNT.fullmatch(value.strip())
    if match is None:
        raise PydanticCustomError("count", "a count is a whole number with an optional k, M, B or T, such as 4k or 15T")
    number = float(match[1]) * _MULTIPLE[match[2]]
    if not number.is_integer():
        raise PydanticCustomError("count", "a count is a whole number; this one has a fraction")
    return int(number)


def _count_schema(unit: str, *, minimum: int, examples: tuple[int | str, ...]) -> WithJsonSchema:
    return WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": minimum},
                {"type": "string", "pattern": r"^\d+(\.\d+)?([eE]\+?\d+)?\s*[kMBT]?$"},
            ],
            "x-unit": unit,
            "examples": list(examples),
        }
    )


def _unit(name: str, *examples: float) -> Any:
    return Field(json_schema_extra={"x-unit": name, "examples": list(examples)})


MAX_COUNT = 10**18
"""No count of the field comes near; larger ones are typing errors and would only overflow somewhere later."""

_AT_LEAST_ONE = Field(ge=1, le=MAX_COUNT)
_AT_LEAST_ZERO = Field(ge=0, le=MAX_COUNT)

Count = Annotated[int, BeforeValidator(parse_count), _AT_LEAST_ONE, _count_schema("count", minimum=1, examples=(8, 64))]
CountOrZero = Annotated[
    int, BeforeValidator(parse_count), _AT_LEAST_ZERO, _count_schema("count", minimum=0, examples=(0, 200))
]
Tokens = Annotated[
    int,
    BeforeValidator(parse_count),
    _AT_LEAST_ONE,
    _count_schema("tokens", minimum=1, examples=(4096, "4k", "8M", "15T")),
]
Sequences = Annotated[
    int, BeforeValidator(parse_count), _AT_LEAST_ONE, _count_schema("sequences", minimum=1, examples=(32, "1k"))
]
Steps = Annotated[
    int, BeforeValidator(parse_count), _AT_LEAST_ONE, _count_schema("steps", minimum=1, examples=(1000, "100k"))
]
StepsOrZero = Annotated[
    int, BeforeValidator(parse_count), _AT_LEAST_ZERO, _count_schema("steps", minimum=0, examples=(0, 2000))
]
Elements = Annotated[
    int, BeforeValidator(parse_count), Field(ge=1, le=2**40), _count_schema("elements", minimum=1, examples=(4096, 128))
]


def _no_flag(value: Any) -> Any:
    """To Python true equals 1; to a reader of YAML it does not."""
    if isinstance(value, bool):
        raise PydanticKnownError("literal_error", {"expected": "a number"})
    return value


NotAFlag = BeforeValidator(_no_flag)
"""Stands before a choice of numbers."""

Flag = Annotated[bool, Strict()]
"""True or false, and no word or number that means it: YAML 1.2 has no yes and no."""

Seed = Annotated[
    int, BeforeValidator(parse_count), Field(ge=0, lt=2**32), _count_schema("seed", minimum=0, examples=(0, 1234))
]

Fraction = Annotated[float, Strict(), Field(ge=0, le=1), _unit("fraction", 0.1, 0.5)]
Positive = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Strict(), Field(ge=0, allow_inf_nan=False)]
Milliseconds = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False), _unit("ms", 50, 500)]
Seconds = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False), _unit("s", 30, 300)]
GiB = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False), _unit("GiB", 80, 141)]
GBPerSecond = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False), _unit("GB/s, one direction", 50, 450)]
TeraFlops = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False), _unit("TFLOP/s, dense", 989)]
Watts = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False), _unit("W", 700)]
Usd = Annotated[float, Strict(), Field(ge=0, allow_inf_nan=False), _unit("USD", 2.5)]
Hours = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False), _unit("h", 8)]
