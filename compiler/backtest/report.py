"""The backtest as text: what was asked, how far off, source by source."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .backtest import Summary, sources_beside, summary

if TYPE_CHECKING:
    from .backtest import Backtest

WORST = 3


def report(result: Backtest, *, by_source: bool = True) -> str:
    """Headline figures, then a table by source, the worst first."""
    lines = [f"{len(result.priced)} of {len(result.priced) + len(result.unpriced)} rows priced", ""]
    lines += [f"{row.id}: {why}" for row, why in result.unpriced]
    steps, without, memory = summary(result.steps), summary(result.left_out), summary(result.memory)
    lines += ["                      rows  sources  mean of medians    p90   bias    tau"]
    lines += [_line("step time", steps)]
    if without.rows:
        lines += [_line("  publisher left out", without)]
    if memory.rows:
        lines += [_line("memory", memory)]
    if by_source and result.priced:
        lines += ["", "rows  median    p90   bias    tau  left out  source"]
        for score, left_out in sources_beside(result):
            tau = f"{score.tau:6.2f}" if score.tau is not None else "     –"
            other = f"{left_out.median:8.1%}" if left_out else "       –"
            lines.append(
                f"{score.rows:4d}  {score.median:6.1%} {score.p90:6.1%} {score.bias:+6.1%} {tau}  {other}  {score.source}"
            )
    return "\n".join(lines) + "\n"


def _line(name: str, figures: Summary) -> str:
    def percent(value: float | None, width: int, sign: str = "") -> str:
        return f"{value:{sign}{width}.1%}" if value is not None else "–".rjust(width)

    tau = f"{figures.tau:.2f} ({figures.tau_sources} sources)" if figures.tau is not None else ""
    columns = (percent(figures.mean_of_medians, 16), percent(figures.p90, 7), percent(figures.bias, 6, "+"))
    return f"{name:20} {figures.rows:5d} {figures.sources:8d} {''.join(columns)}  {tau}".rstrip()
