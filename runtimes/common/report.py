"""The loss curve of a run as a PNG, and a page around it that needs nothing else to be read."""

from __future__ import annotations

import base64
import html
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .training_run import RunPlan


def write_report(run_dir: Path, plan: RunPlan, lines: list[dict[str, Any]]) -> None:
    """Write loss.png and report.html for the lines of metrics.jsonl. Without matplotlib it says so and goes on."""
    try:
        png = _loss_curve(plan.name, lines)
    except ImportError:
        print("warning: no loss curve: the package matplotlib is not installed", file=sys.stderr)
        return
    (run_dir / "loss.png").write_bytes(png)
    (run_dir / "report.html").write_text(_page(plan, lines, png), encoding="utf-8")


def _loss_curve(name: str, lines: list[dict[str, Any]]) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.plot([line["step"] for line in lines], [line["loss"] for line in lines], linewidth=0.8, label="training")
    valid = [(line["step"], line["valid_loss"]) for line in lines if "valid_loss" in line]
    if valid:
        axes.plot(*zip(*valid, strict=True), marker="o", markersize=3, label="validation")
    axes.set(title=name.replace("$", r"\$"), xlabel="step", ylabel="loss, nats a token")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def _page(plan: RunPlan, lines: list[dict[str, Any]], png: bytes) -> str:
    speeds = sorted(line["tokens_per_s"] for line in lines)
    median = speeds[len(speeds) // 2]
    rows = {
        "steps": f"{lines[-1]['step']:,} of {plan.steps:,}",
        "loss": f"{lines[0]['loss']:.3f} → {lines[-1]['loss']:.3f}",
        "tokens/s (median)": f"{median:,.0f}",
        "of the peak (median)": plan.remark(median) or plan.mfu_words(median),
    }
    valid = [line["valid_loss"] for line in lines if "valid_loss" in line]
    if valid:
        rows["validation loss"] = f"{valid[0]:.3f} → {valid[-1]:.3f}"
    name, curve = html.escape(plan.name), base64.b64encode(png).decode("ascii")
    cells = "\n".join(f"<tr><th>{key}</th><td>{value}</td></tr>" for key, value in rows.items())
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
th {{ text-align: left; padding-right: 2rem; font-weight: 500; }}
img {{ max-width: 100%; }}
</style>
<h1>{name}</h1>
<table>
{cells}
</table>
<img src="data:image/png;base64,{curve}" alt="Loss over steps">
</html>
"""
