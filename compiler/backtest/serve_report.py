"""The serving backtest as text: headline figures, regret, then a table by group."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .serve_backtest import LEAST_ROWS, NAMES, headlines

if TYPE_CHECKING:
    from .serve_backtest import GroupScore, ServeBacktest


def serving_report(result: ServeBacktest, *, by_group: bool = True) -> str:
    total = len(result.priced) + len(result.unpriced)
    lines = [f"{len(result.priced)} of {total} rows priced", ""]
    lines += [f"{row.id}: {why}" for row, why in result.unpriced]
    lines += [f"{'':28}  rows  groups  mean of medians  publisher left out"]
    for name, figures in headlines(result).items():
        columns = f"{_percent(figures.mean_of_medians, 15)}  {_percent(figures.left_out, 18)}"
        lines.append(f"{name:28} {figures.rows:5d}  {figures.groups:6d}  {columns}".rstrip())
    regret = result.regret()
    if regret is not None:
        lines += [
            "",
            f"layouts at equal load a device: the pick loses {regret.ours:.1%} of the best one's tokens/s a device"
            f" ({regret.questions} questions; smallest tp {regret.smallest:.1%}, largest tp {regret.largest:.1%})",
        ]
    if by_group:
        for name, label in NAMES.items():
            lines += ["", f"{label:9} rows  median    p90   bias  left out  source | engine"]
            lines += [_line(group) for group in sorted(result.groups(name), key=_order)]
        lines += ["", f"groups of fewer than {LEAST_ROWS} rows are shown and not counted"]
    return "\n".join(lines) + "\n"


def _order(group: GroupScore) -> tuple[bool, float, str]:
    return (group.rows < LEAST_ROWS, -group.median, group.group)


def _line(group: GroupScore) -> str:
    figures = f"{group.median:6.1%} {group.p90:6.1%} {group.bias:+6.1%}"
    return f"{'':8} {group.rows:5d}  {figures}  {_percent(group.left_out, 8)}  {group.group}"


def _percent(value: float | None, width: int) -> str:
    return f"{value:{width}.1%}" if value is not None else "–".rjust(width)
