"""API keys: only their SHA-256 is stored, and every request but the one whether the process lives needs one.

Those who probe and scrape cannot keep a secret: they have a port of their own (`ProbePort`), which a firewall or a service
leaves out, and on which there is nothing else.

A key file has a line for each: a name (of whoever has the key; it stands in the log), a blank, 64 hexadecimal digits.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from ..common.errors import RunError
from .errors import error_body

OPEN = ("/health/live",)
PROBED = ("/health/live", "/health/ready", "/health/progress", "/metrics")
LINE = re.compile(r"(?P<name>[\w.@-]{1,64})\s+(?P<digest>[0-9a-f]{64})")


def new_key(name: str) -> tuple[str, str]:
    """A fresh key for somebody, and its line for the file."""
    key = f"sk-{secrets.token_urlsafe(32)}"
    return key, f"{name} {_digest(key)}"


def read_keys(file: Path | None) -> dict[str, str]:
    """digest -> name, from a key file."""
    help = "a line for each key: a name and the SHA-256 of the key; --new-key NAME makes one"
    if file is None:
        raise RunError("this server asks for API keys, and has no file of them", help=f"give --keys FILE, {help}")
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise RunError(f"the key file cannot be read: {error}", help=help) from error
    found = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not (line := line.strip()) or line.startswith("#"):
            continue
        if (match := LINE.fullmatch(line)) is None:
            raise RunError(f"{file}:{number} is not a name and a SHA-256", help=help)
        found[match["digest"]] = match["name"]
    if not found:
        raise RunError(f"{file} has no keys: nobody could call", help=help)
    return found


class KeyGate:
    """ASGI middleware: 401 without a key. Whose key it was is in the scope, as `llmc.owner`.

    `also_open` are paths that need none: the chat page, which asks its reader for one.
    """

    def __init__(self, app: ASGIApp, *, keys: Mapping[str, str], also_open: Sequence[str] = ()) -> None:
        self.app = app
        self._keys = dict(keys)
        self._open = (*OPEN, *also_open)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in self._open and "llmc.probe" not in scope:
            owner = self._owner(Headers(scope=scope).get("authorization", ""))
            if owner is None:
                await _refusal(scope, receive, send)
                return
            scope["llmc.owner"] = owner
            scope.setdefault("llmc.notes", {})["key"] = owner
        await self.app(scope, receive, send)

    def _owner(self, header: str) -> str | None:
        """Whose key this is. All digests are compared, each in constant time, so that time tells nothing."""
        scheme, _, key = header.partition(" ")
        digest, found = _digest(key.strip()), None
        for known, name in self._keys.items():
            if hmac.compare_digest(known, digest):
                found = name
        return found if scheme.lower() == "bearer" else None


class ProbePort:
    """ASGI middleware before all others: on this port probes and metrics need no key, and nothing else is there."""

    def __init__(self, app: ASGIApp, *, port: int) -> None:
        self.app = app
        self.port = port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["server"][1] == self.port:
            if scope["path"] not in PROBED:
                body = error_body("on this port there are probes and metrics", status=404)
                await JSONResponse(body, status_code=404)(scope, receive, send)
                return
            scope["llmc.probe"] = True
        await self.app(scope, receive, send)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


async def _refusal(scope: Scope, receive: Receive, send: Send) -> None:
    message = "send a key of this server: `authorization: Bearer KEY`"
    body = error_body(message, status=401, code="invalid_api_key")
    await JSONResponse(body, status_code=401, headers={"www-authenticate": "Bearer"})(scope, receive, send)
