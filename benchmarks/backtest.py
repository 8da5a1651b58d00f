"""Predicted against published training steps, by source; with --write the table in docs/backtest.md is made anew."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from llmc.compiler.backtest.backtest import Backtest, backtest, sources_beside, summary
from llmc.compiler.backtest.report import left_out_summaries
from llmc.compiler.backtest.score import by_study

ROOT = Path(__file__).parents[1]
ROWS = ROOT / "benchmarks/measurements/train.csv"
PAGE = ROOT / "docs/backtest.md"
START, END = "<!-- table -->", "<!-- end -->"


def table(result: Backtest) -> str:
    lines = ["| | rows | sources | mean over sources of the median | p90 of rows |", "|---|---|---|---|---|"]
    figures = [("step time", summary(result.steps)), *left_out_summaries(result), ("memory", summary(result.memory))]
    for name, each in figures:
        lines.append(f"| {name.strip()} | {each.rows} | {each.sources} | {each.mean_of_medians:.1%} | {each.p90:.1%} |")
    lines += ["", *orderings(result), ""]
    lines += ["| source | rows | median | p90 | bias | without the source | without the publisher |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for score, *others in sources_beside(result):
        left_out = " | ".join(f"{other.median:.1%}" if other else "" for other in others)
        name = plain(score.source)
        lines.append(
            f"| {name} | {score.rows} | {score.median:.1%} | {score.p90:.1%} | {score.bias:+.1%} | {left_out} |"
        )
    return "\n".join(lines)


def orderings(result: Backtest) -> list[str]:
    """Kendall's tau by study."""
    every = summary(result.steps)
    lines = ["| study | pairs | τ | pairs more than 5 % apart | τ |", "|---|---|---|---|---|"]
    for each in by_study(result.steps):
        apart = f"{each.tau_apart:.2f}" if each.tau_apart is not None else ""
        lines.append(f"| {plain(each.study)} | {each.pairs} | {each.tau:.2f} | {each.pairs_apart} | {apart} |")
    return [*lines, f"| mean of {every.tau_studies} studies | | {every.tau:.2f} | | {every.tau_apart:.2f} |"]


def plain(text: str) -> str:
    """Without a meaning in Markdown."""
    return re.sub(r"[|{}\[\]<>*_`]", lambda found: "\\" + found[0], text)


def main() -> None:
    text = table(backtest(ROWS))
    if "--write" not in sys.argv[1:]:
        print(text)
        return
    page = PAGE.read_text(encoding="utf-8")
    before, after = page.partition(START)[0], page.partition(END)[2]
    PAGE.write_text(f"{before}{START}\n\n{text}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
