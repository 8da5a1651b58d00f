"""The Chromium that `make node` unpacks, driven by playwright; and what a page did that it should not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FOLDER = Path(__file__).parent / "node/node_modules/.chromium"
CHROMIUM = FOLDER / "chromium"


@contextmanager
def chromium() -> Iterator[Browser]:
    """Headless, with the libraries and fonts it was unpacked with, and no network to speak of."""
    from playwright.sync_api import sync_playwright

    variables = os.environ | {
        "LD_LIBRARY_PATH": str(FOLDER / "al2023/lib"),
        "FONTCONFIG_FILE": str(FOLDER / "fonts.conf"),
    }
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--font-render-hinting=none"], env=dict(variables)
        )
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Opened:
    """A page with everything it logged, and every address it asked for."""

    page: Page
    told: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


def open_page(
    browser: Browser, place: Path | str, *, width: int = 1000, scripts: bool = True, dark: bool = False
) -> Opened:
    """A file, or an address. `scripts=False` shows what a reader without JavaScript gets."""
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        java_script_enabled=scripts,
        color_scheme="dark" if dark else "light",
    )
    opened = Opened(context.new_page())
    opened.page.on("console", lambda message: opened.told.append(f"{message.type}: {message.text}"))
    opened.page.on("pageerror", lambda error: opened.told.append(f"error: {error}"))
    opened.page.on("request", lambda request: opened.asked.append(request.url))
    opened.page.goto(place.resolve().as_uri() if isinstance(place, Path) else place)
    return opened
