"""A small chat page beside the API, in the program where the spec has `serve.ui`.

One file, which asks nobody but this server: its script and its style are named by their digests in the Content-Security-Policy,
so that nothing else runs, and Trusted Types leave the script no way to make elements of text. The page itself needs no key; what it
calls does, and it keeps the key it is given in memory.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from pathlib import Path

from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

from .intake import Service

PATH = "/"
FILE = Path(__file__).with_suffix(".html")
LONGEST = 128
"""Tokens of an answer unless the reader wants more, where there is no template that would tell the model to end."""


def chat_page(service: Service, *, asks_keys: bool = False) -> Route:
    """The page's route. Without a chat template the page continues single texts."""
    has_chat = service.chat_template is not None
    values = {
        "MODEL": service.name,
        "CHAT": "yes" if has_chat else "no",
        "KEYS": "yes" if asks_keys else "no",
        "MOST": "" if has_chat else str(min(LONGEST, max(1, service.max_seq_len // 2))),
    }
    source = FILE.read_text(encoding="utf-8")
    text = re.sub(r"@([A-Z]+)@", lambda found: html.escape(values[found[1]]), source)
    headers = {
        "content-security-policy": _policy(source),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }

    async def page(request: Request) -> HTMLResponse:
        return HTMLResponse(text, headers=headers)

    return Route(PATH, page, methods=["GET"])


def _policy(source: str) -> str:
    """What the page may do: run its own script, look as it says, and ask this server."""
    allowed = {
        "default-src": "'none'",
        "script-src": _digest(source, "script"),
        "style-src": _digest(source, "style"),
        "connect-src": "'self'",
        "img-src": "data:",  # the empty icon
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in allowed.items())


def _digest(source: str, tag: str) -> str:
    """The one element of this name as a source of the policy."""
    (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", source, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()}'"
