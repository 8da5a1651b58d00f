"""A bound on how often one key may call; where no keys are asked for, one address."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from .errors import error_body

MOST_CALLERS = 100_000  # remembered; the one that has not called for longest is forgotten first


class RateLimit:
    """ASGI middleware: a bucket for each caller that holds a minute's calls and fills steadily; 429 when it is empty.

    Counts what costs something, which is POST.
    """

    def __init__(self, app: ASGIApp, *, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.app = app
        self._size = per_minute
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # caller -> (calls left, when)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and (wait_s := self._take(_caller(scope))) > 0:
            message = f"more than {self._size} requests a minute"
            body = error_body(message, status=429, code="rate_limit_exceeded")
            headers = {"retry-after": str(math.ceil(wait_s))}
            await JSONResponse(body, status_code=429, headers=headers)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _take(self, caller: str) -> float:
        """Take a call out of a bucket; seconds until there is one, 0 if there was."""
        now, per_s = self._clock(), self._size / 60
        left, then = self._buckets.pop(caller, (float(self._size), now))
        left = min(float(self._size), left + (now - then) * per_s)
        self._buckets[caller] = (left - 1 if left >= 1 else left, now)
        if len(self._buckets) > MOST_CALLERS:
            self._buckets.popitem(last=False)
        return 0.0 if left >= 1 else (1 - left) / per_s


def _caller(scope: Scope) -> str:
    client = scope.get("client")
    return scope.get("llmc.owner") or (client[0] if client else "")
