"""`make screenshot`: the top of a plan's page, as docs/plan.md shows it."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

from browser import chromium, open_page
from PIL import Image

from llmc.compiler.pipeline import plan_file
from llmc.compiler.report.page import page_of

ROOT = Path(__file__).resolve().parents[2]
SPEC = "examples/3-llama3-405b-fixed.yaml"
PICTURE = ROOT / "docs/images/plan-page.png"
WIDTH, HEIGHT, COLOURS = 960, 1840, 255

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        path = Path(folder, "page.html")
        path.write_text(page_of(plan_file(ROOT / SPEC), file=SPEC), encoding="utf-8")
        page = open_page(browser, path, width=WIDTH).page
        image = page.screenshot(full_page=True, clip={"x": 0, "y": 0, "width": WIDTH, "height": HEIGHT})
    PICTURE.parent.mkdir(exist_ok=True)
    Image.open(io.BytesIO(image)).convert("RGB").quantize(COLOURS).save(PICTURE, optimize=True)
    print(f"wrote {PICTURE.relative_to(ROOT)}")
