"""Figures, bars and lines as people read them: base units come in, text goes out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ...spec.units import GIB

WIDTH = 100
BAR = 18


def bars(rows: Iterable[tuple[str, float]], *, total: float, text: Callable[[float], str]) -> list[str]:
    """Largest first; what is under a half per cent is summed at the end."""
    rows = sorted(rows, key=lambda row: -row[1])
    shown = [row for row in rows if row[1] >= 0.005 * total]
    rest = sum(value for _, value in rows) - sum(value for _, value in shown)
    width = max((len(name) for name, _ in shown), default=0) + 2
    figures = max((len(text(value)) for _, value in shown), default=0)
    lines = [f"{name:<{width}}{_bar(value / total)}  {text(value):>{figures}}" for name, value in shown]
    if rest > 0.0005 * total:
        lines.append(f"{'…':<{width}}{' ' * BAR}  {text(rest):>{figures}}")
    return lines


def _bar(share: float) -> str:
    filled = max(1, min(BAR, round(share * BAR)))
    return "█" * filled + "░" * (BAR - filled)


def two_tables(left: Sequence[str], right: Sequence[str]) -> list[str]:
    """Side by side where there is room, else one under the other."""
    left = [left[0], *(f"  {line}" for line in left[1:])]
    right = [right[0], *(f"  {line}" for line in right[1:])] if right else []
    width = max(len(line) for line in left) + 3
    if 4 + width + max((len(line) for line in right), default=0) > WIDTH:
        return [f"    {line}" for line in [*left, "", *right]]
    rows = max(len(left), len(right))
    filled_left, filled_right = [*left, *[""] * (rows - len(left))], [*right, *[""] * (rows - len(right))]
    return [f"    {one:<{width}}{other}" for one, other in zip(filled_left, filled_right, strict=True)]


def wrap(text: str, *, indent: str, hanging: str | None = None) -> list[str]:
    """Break at WIDTH columns: before a ` · ` where there is one, else between words."""
    pieces = [f"{piece} ·" for piece in text.split(" · ")]
    pieces[-1] = pieces[-1].removesuffix(" ·")
    room = min(WIDTH // 2, WIDTH - max(len(indent), len(hanging or indent)))
    words = [word for piece in pieces for word in (piece.split(" ") if len(piece) > room else [piece])]
    lines, line = [], indent
    for word in words:
        if len(line) + len(word) > WIDTH and line.strip():
            lines.append(line.rstrip())
            line = hanging if hanging is not None else indent
        line += word + " "
    return [*lines, line.rstrip()]


def row_of_facts(facts: Sequence[str]) -> list[str]:
    """Facts on a line, three spaces apart; a fact is never broken."""
    lines, line = [], " "
    for fact in facts:
        if len(line) + 3 + len(fact) > WIDTH:
            lines.append(line)
            line = " "
        line += f" {fact}" if line == " " else f"   {fact}"
    return [*lines, line]


def big(value: float) -> str:
    """8_030_261_248 -> `8.03B`"""
    for size, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            scaled = value / size
            return f"{scaled:.0f}{suffix}" if scaled >= 100 else f"{scaled:.3g}{suffix}"
    return f"{value:.3g}"


def short(value: float) -> str:
    """13_312 -> `13.3k`"""
    return big(value) if value >= 10_000 else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def gib(size_bytes: float) -> str:
    return f"{size_bytes / GIB:,.1f} GiB" if size_bytes >= 0.1 * GIB else f"{size_bytes / 2**20:.0f} MiB"


def gib_short(size_bytes: float) -> str:
    return f"{size_bytes / GIB:.2f}" if size_bytes < 10 * GIB else f"{size_bytes / GIB:.1f}"


def seconds(value: float) -> str:
    """`9.9 s`, `140 ms`, `35 µs`"""
    if value >= 1:
        return f"{value:.1f} s" if value < 100 else f"{value:,.0f} s"
    return milliseconds(value * 1e3)


def milliseconds(value: float) -> str:
    if value >= 10_000:
        return f"{value / 1e3:,.1f} s"
    return f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms" if value >= 0.1 else f"{value * 1e3:.0f} µs"


def duration(value: float) -> str:
    """Seconds as the largest unit that leaves a number above 2."""
    for size, name in ((365 * 86400, "years"), (86400, "days"), (3600, "hours"), (60, "minutes")):
        if value >= 2 * size:
            return f"{value / size:.0f} {name}" if value >= 20 * size else f"{value / size:.1f} {name}"
    return f"{value:.0f} seconds"


def percent_more(value: float, than: float) -> str:
    """`+12 %`, `−3 %`, `+0.4 %`"""
    share = value / than - 1
    sign = "+" if share >= 0 else "−"
    return f"{sign}{abs(share):.0%}" if abs(share) >= 0.0095 else f"{sign}{abs(share):.1%}"
