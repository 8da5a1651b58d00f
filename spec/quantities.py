"""Numbers that were written with their unit, in the unit that their field is named for: 0.5 s in `ttft_p99_ms` is 500."""

from __future__ import annotations

import re

from .base import Path
from .units import GB, GIB

_QUANTITY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([a-zA-Zµ$/]+)|([$])\s*(\d+\.?\d*)")

_UNITS: dict[str, tuple[str, dict[str, float]]] = {
    "_ms": ("ms", {"ms": 1, "s": 1e3, "us": 1e-3, "µs": 1e-3, "min": 6e4}),
    "_gib": ("GiB", {"gib": 1, "gb": GB / GIB, "g": 1, "tib": 1024, "tb": 1000 * GB / GIB, "mib": 1 / 1024}),
    "_gb_s": ("GB/s", {"gb/s": 1, "gbps": 1 / 8, "gbit/s": 1 / 8, "gib/s": GIB / GB, "tb/s": 1e3, "mb/s": 1e-3}),
    "_usd": ("USD", {"usd": 1, "$": 1, "usd/h": 1}),
    "_w": ("W", {"w": 1, "kw": 1e3}),
    "peak_tflops": ("TFLOP/s", {"tflops": 1, "tflop/s": 1, "pflops": 1e3, "pflop/s": 1e3, "tops": 1}),
}
"""End of a field's name -> its unit, and what one of other units is in it. A bare `g` of memory is taken as GiB."""


def in_unit_of(path: Path, text: str) -> tuple[float, str] | None:
    """The number that a text with a unit means in the field at `path`, and the field's unit; None if it has none."""
    match = _QUANTITY.fullmatch(text.strip())
    unit = next((found for end, found in _UNITS.items() if any(str(key).endswith(end) for key in path[-2:])), None)
    if match is None or unit is None:
        return None
    factor = unit[1].get((match[2] or match[3]).lower())
    return None if factor is None else (float(f"{float(match[1] or match[4]) * factor:.6g}"), unit[0])
