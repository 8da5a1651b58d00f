"""The backtest as text: what was asked, how far off, source by source."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .backtest import Summary, sources_beside, summary
from .score import by_study

if TYPE_CHECKING:
    from .backtest import Backtest

WORST = 3


def report(result: Backtest, *, by_source: bool = True) -> str:
    """Headline figures, then a table by source, the worst first."""
    lines = [f"{len(result.priced)} of {len(result.priced) + len(result.unpriced)} rows priced", ""]
    lines += [f"{row.id}: {why}" for row, why in result.unpriced]
    steps, memory = summary(result.steps), summary(result.memory)
    lines += ["                              rows  sources  mean of medians    p90   bias    tau"]
    lines += [_line("step time", steps)]
    for name, without in left_out_summaries(result):
        lines += [_line(f"  {name}", without)]
    if memory.rows:
        lines += [_line("memory", memory)]
    if by_source and result.priced:
        studies = by_study(result.steps)
        if studies:
            lines += ["", "pairs    tau  more than 5 % apart    tau  study"]
        for each in studies:
            apart = f"{each.tau_apart:6.2f}" if each.tau_apart is not None else "     –"
            lines.append(f"{each.pairs:5d} {each.tau:6.2f} {each.pairs_apart:20d} {apart}  {each.study}")
        lines += ["", "rows  median    p90   bias  without source  without publisher  source"]
        for score, *others in sources_beside(result):
            left_out = [f"{other.median:14.1%}" if other else "–".rjust(14) for other in others]
            lines.append(
                f"{score.rows:4d}  {score.median:6.1%} {score.p90:6.1%} {score.bias:+6.1%}  {'     '.join(left_out)}  {score.source}"
            )
    return "\n".join(lines) + "\n"


def left_out_summaries(result: Backtest) -> list[tuple[str, Summary]]:
    """Figures of constants fitted without what is predicted."""
    kinds = [
        ("without the source", "source", False),
        ("  others have the device", "source", True),
        ("without publisher's model", "model", False),
        ("without the publisher", "publisher", False),
        ("  others have the device", "publisher", True),
    ]
    found = [(name, summary(result.left_out(kind, covered=covered))) for name, kind, covered in kinds]
    return [(name, figures) for name, figures in found if figures.rows]


def _line(name: str, figures: Summary) -> str:
    def percent(value: float | None, width: int, sign: str = "") -> str:
        return f"{value:{sign}{width}.1%}" if value is not None else "–".rjust(width)

    tau = f"{figures.tau:.2f} ({figures.tau_studies} studies)" if figures.tau is not None else ""
    columns = (percent(figures.mean_of_medians, 16), percent(figures.p90, 7), percent(figures.bias, 6, "+"))
    return f"{name:28} {figures.rows:5d} {figures.sources:8d} {''.join(columns)}  {tau}".rstrip()
