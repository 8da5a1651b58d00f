"""Rotary positions, in both layouts of config.json.

Up to transformers 4: `rope_theta`, `rope_scaling` and `partial_rotary_factor` side by side. From 5 on: all of it in
`rope_parameters`. Both are read; the older one is written, because every version and every engine reads it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .fields import Both, Key, Piece, Reader, UnsupportedConfig, Values, get_path, set_path

_COMMON = frozenset({"rope_type", "type", "rope_theta", "partial_rotary_factor", "finetuned"})

_LENGTH = Key("original_max_position_embeddings", "original_max_seq_len")

_SCALINGS: Mapping[str, tuple[Piece, ...]] = {
    "linear": (Key("factor", "factor"),),
    "dynamic": (Key("factor", "factor"),),
    "llama3": (
        Key("factor", "factor"),
        Key("low_freq_factor", "low_freq_factor"),
        Key("high_freq_factor", "high_freq_factor"),
        _LENGTH,
    ),
    "yarn": (
        Key("factor", "factor"),
        _LENGTH,
        Key("beta_fast", "beta_fast", default=32.0),
        Key("beta_slow", "beta_slow", default=1.0),
        Key(("attention_factor", "attn_factor"), "attention_factor", default=None),
        Key("mscale", "mscale", default=None),
        Key("mscale_all_dim", "mscale_all_dim", default=None),
        Key("truncate", "truncate", default=True),
    ),
    "longrope": (
        Key("short_factor", "short_factor"),
        Key("long_factor", "long_factor"),
        _LENGTH,
        Key("attention_factor", "attention_factor", default=None),
    ),
}
"""The scalings of transformers that we know: theirs to ours, the same statements both ways."""

_ALIASES = {"su": "longrope", "mrope": "mrope"}


def read_scaling(parameters: Mapping[str, Any], *, max_seq_len: int, original: int | None = None) -> Values | None:
    """Our `scaling` from `rope_scaling` or `rope_parameters`; None for plain RoPE."""
    kind = parameters.get("rope_type") or parameters.get("type") or "default"
    kind = _ALIASES.get(kind, kind)
    if kind == "default":
        return None
    if kind not in _SCALINGS:
        raise UnsupportedConfig("rope_scaling", f"the scaling {kind!r} is none of {', '.join(_SCALINGS)}")
    reader = Reader({"original_max_position_embeddings": original or max_seq_len, **parameters})
    values: Values = {"kind": kind}
    for piece in _SCALINGS[kind]:
        piece.read(reader, values)
    reader.finish(_COMMON | {"original_max_position_embeddings"}, prefix="rope_scaling.")
    return values


def write_scaling(scaling: Values | None) -> Values | None:
    """`rope_scaling` from our `scaling`."""
    if scaling is None:
        return None
    config: Values = {"rope_type": scaling["kind"]}
    for piece in _SCALINGS[scaling["kind"]]:
        piece.write(scaling, config)
    return {
        key: list(value) if isinstance(value, tuple) else value for key, value in config.items() if value is not None
    }


def _partial_factor(rotary_dim: int, head_dim: int) -> float:
    """The float that `int(head_dim * factor)` turns back into rotary_dim."""
    factor = rotary_dim / head_dim
    return factor if int(head_dim * factor) == rotary_dim else math.nextafter(factor, 1.0)


def rope(
    *,
    theta: float = 10_000.0,
    interleaved: bool = False,
    partial: float = 1.0,
    partial_key: str | None = None,
    theta_keys: tuple[str, ...] = ("rope_theta",),
    head_dim: str = "head_dim",
    writes_original: bool = False,
) -> Both:
    """Rotary positions of a type. `partial_key` is for types that rotate a part of a head and how they call it."""

    def read(config: Reader, values: Values) -> None:
        parameters = config.take("rope_parameters", default={})
        scaling = parameters or config.take("rope_scaling", default={})
        config.take("rope_scaling")
        base = config.take(*theta_keys, default=parameters.get("rope_theta", theta))
        keys = ("partial_rotary_factor",) if partial_key is None else (partial_key, "partial_rotary_factor")
        factor = config.take(*keys, default=parameters.get("partial_rotary_factor", partial))
        if partial_key is None and factor != 1:
            raise UnsupportedConfig("partial_rotary_factor", "this type rotates whole heads")
        original = config.take("original_max_position_embeddings")
        size = get_path(values, head_dim)
        rotated = int(size * factor)
        values["position"] = {
            "kind": "rope",
            "theta": float(base),
            "rotary_dim": None if rotated == size else rotated,
            "interleaved": interleaved,
            "scaling": read_scaling(scaling, max_seq_len=values["max_seq_len"], original=original),
        }

    def write(values: Values, config: Values) -> None:
        position, size = values["position"], get_path(values, head_dim)
        config[theta_keys[0]] = position.get("theta")
        config["rope_scaling"] = write_scaling(position.get("scaling"))
        if writes_original:
            config["original_max_position_embeddings"] = (
                get_path(position, "scaling.original_max_seq_len") or values["max_seq_len"]
            )
        if partial_key is not None:
            config[partial_key] = _partial_factor(position.get("rotary_dim") or size, size)

    return Both(read, write)


def rotary_dim_key(key: str) -> Both:
    """For types that give the rotated part as a number of elements (GPT-J, MiniMax)."""

    def read(config: Reader, values: Values) -> None:
        rotated = config.take(key)
        if rotated is not None:
            set_path(values, "position.rotary_dim", None if rotated == values["head_dim"] else rotated)

    def write(values: Values, config: Values) -> None:
        config[key] = get_path(values, "position.rotary_dim") or values["head_dim"]

    return Both(read, write)
