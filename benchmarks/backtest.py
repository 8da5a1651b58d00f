"""Predicted against published training steps, by source; with --write the table in docs/backtest.md is made anew."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from llmc.compiler.backtest.backtest import Backtest, backtest, sources_beside, summary

ROOT = Path(__file__).parents[1]
ROWS = ROOT / "benchmarks/measurements/train.csv"
PAGE = ROOT / "docs/backtest.md"
START, END = "<!-- table -->", "<!-- end -->"


def table(result: Backtest) -> str:
    steps, without, memory = summary(result.steps), summary(result.left_out), summary(result.memory)
    lines = ["| | rows | sources | mean over sources of the median | p90 of rows |", "|---|---|---|---|---|"]
    for name, each in (("step time", steps), ("step time, publisher left out", without), ("memory", memory)):
        if each.rows:
            lines.append(f"| {name} | {each.rows} | {each.sources} | {each.mean_of_medians:.1%} | {each.p90:.1%} |")
    if steps.tau is not None:
        lines += [
            "",
            f"Ordering of layouts: Kendall's τ {steps.tau:.2f}, mean over {steps.tau_sources} sources that tried several.",
        ]
    lines += ["", "| source | rows | median | p90 | bias | τ | left out |", "|---|---|---|---|---|---|---|"]
    for score, other in sources_beside(result):
        tau = f"{score.tau:.2f}" if score.tau is not None else ""
        left_out = f"{other.median:.1%}" if other else ""
        source = re.sub(r"[|{}\[\]<>*_`]", lambda found: "\\" + found[0], score.source)
        lines.append(
            f"| {source} | {score.rows} | {score.median:.1%} | {score.p90:.1%} | {score.bias:+.1%} | {tau} | {left_out} |"
        )
    return "\n".join(lines)


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
