"""Numbers as people read them in generated comments."""

from __future__ import annotations

from ...spec.units import GIB

_SUFFIXES = ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "k"))


def count(value: int) -> str:
    """13_112_832 -> "13.1M"; a round count stays whole: 8_000_000 -> "8M", 512 -> "512"."""
    for size, suffix in _SUFFIXES:
        if value >= size:
            scaled = value / size
            digits = 2 if size == 10**9 and scaled < 100 else 1
            return f"{scaled:.{digits}f}".rstrip("0").rstrip(".") + suffix
    return str(value)


def gib(size_bytes: float) -> str:
    """Bytes -> "1.3 GiB"; below 0.1 GiB in MiB."""
    if size_bytes < 0.1 * GIB:
        return f"{size_bytes / 2**20:.0f} MiB"
    return f"{size_bytes / GIB:.1f} GiB"


def plural(value: int, noun: str) -> str:
    """1, "block" -> "1 block"; 6, "block" -> "6 blocks"."""
    return f"{value} {noun}" if value == 1 else f"{value} {noun}s"


def scientific(value: float) -> str:
    """A large figure as a literal of four digits: 4.05e11."""
    digits, _, exponent = f"{value:.3e}".partition("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"
