"""Predicted against published serving loads, by source and engine; with --write the table in docs/backtest-serving.md is made anew."""

from __future__ import annotations

import sys
from pathlib import Path

from llmc.compiler.backtest.serve_backtest import (
    LEAST_ROWS,
    NAMES,
    GroupScore,
    ServeBacktest,
    backtest_serving,
    headlines,
)

ROOT = Path(__file__).parents[1]
ROWS = ROOT / "benchmarks/measurements/serve.csv"
PAGE = ROOT / "docs/backtest-serving.md"
START, END = "<!-- table -->", "<!-- end -->"


def table(result: ServeBacktest) -> str:
    lines = ["| | rows | groups | mean over groups of the median | publisher left out |", "|---|---|---|---|---|"]
    for name, each in headlines(result).items():
        columns = (name, each.rows, each.groups, _percent(each.mean_of_medians), _percent(each.left_out))
        lines.append("| " + " | ".join(map(str, columns)) + " |")
    regret = result.regret()
    if regret is not None:
        lines += [
            "",
            f"Layouts at equal load a device, {regret.questions} questions: the pick loses {regret.ours:.1%} of the best one's tokens/s a"
            f" device; the smallest tp {regret.smallest:.1%}, the largest {regret.largest:.1%}.",
        ]
    for name, label in NAMES.items():
        lines += ["", f"### {label}", "", "| source, engine | rows | median | p90 | bias | left out |"]
        lines += ["|---|---|---|---|---|---|"]
        counted = [group for group in result.groups(name) if group.rows >= LEAST_ROWS]
        lines += [_line(group) for group in sorted(counted, key=lambda group: (-group.median, group.group))]
    return "\n".join(lines)


def _line(group: GroupScore) -> str:
    name = group.group.replace(" | ", ", ")
    figures = f"{group.median:.1%} | {group.p90:.1%} | {group.bias:+.1%} | {_percent(group.left_out)}"
    return f"| {name} | {group.rows} | {figures} |"


def _percent(value: float | None) -> str:
    return f"{value:.1%}" if value is not None else ""


def main() -> None:
    text = table(backtest_serving(ROWS))
    if "--write" not in sys.argv[1:]:
        print(text)
        return
    page = PAGE.read_text(encoding="utf-8")
    before, after = page.partition(START)[0], page.partition(END)[2]
    PAGE.write_text(f"{before}{START}\n\n{text}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
