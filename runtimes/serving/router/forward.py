"""A request goes to a replica, and its answer to the client.

What has not begun is never lost: while the client has seen nothing, a request whose replica is gone, stuck, full or failed goes
on to the next one. Of an answer that has begun, the client gets what there is and then an error in the stream's own form.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from starlette.datastructures import Headers
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from yarl import URL

from ..errors import ApiError, error_body
from ..metrics import Metrics
from ..responses import event
from .replicas import Replica, Replicas

CONNECT_S = 2.0
MOST_LOST = 2
"""Replicas that a request may lose and still be asked of another: what kills its server must not kill them all."""
PATIENCE_S = 30.0
"""A request that a replica had accepted before it was lost is not refused for a full queue: it waits for room so long."""
OF_ONE_HOP = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "proxy-authorization", "host"}
    | {"content-length", "x-request-id", "date", "server"}
)
"""Headers that are not passed on: of a connection, or written anew on each."""


@dataclass(frozen=True)
class Call:
    """What is asked."""

    method: str
    target: str  # path and query, as they came
    headers: Mapping[str, str]
    body: bytes
    digests: list[bytes]


class Unreached(Exception):
    """The replica has not taken the request."""


class Busy(Exception):
    """It has refused it for a full queue; the answer says so."""

    def __init__(self, answer: Response) -> None:
        self.answer = answer


class Lost(Exception):
    """It may have begun, and will not finish. `answer` is what it said, if it said something."""

    def __init__(self, answer: Response | None = None) -> None:
        self.answer = answer


class Links:
    """Connections to replicas, and what hangs on each of them."""

    def __init__(self, replicas: Replicas, metrics: Metrics, *, certificate: bytes | None = None) -> None:
        """`certificate` is that of replicas that speak HTTPS, in DER: no other one is accepted."""
        self.replicas = replicas
        self.metrics = metrics
        self._pin = aiohttp.Fingerprint(_digest(certificate)) if certificate is not None else True
        self._leashes: dict[Replica, set[asyncio.Timeout]] = {replica: set() for replica in replicas.all}
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        self._session = aiohttp.ClientSession(
            auto_decompress=False,
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
            skip_auto_headers=("user-agent", "accept", "accept-encoding"),
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def ask(self, url: str, *, method: str = "GET", **options: Any) -> aiohttp.ClientResponse:
        assert self._session is not None
        return await self._session.request(
            method, URL(url, encoded=True), ssl=self._pin, allow_redirects=False, **options
        )

    @contextlib.asynccontextmanager
    async def leash(self, replica: Replica) -> AsyncIterator[None]:
        """TimeoutError for who waits in here when the replica is let go."""
        async with asyncio.timeout(None) as leash:
            self._leashes[replica].add(leash)
            try:
                yield
            finally:
                self._leashes[replica].discard(leash)

    def let_go(self, replica: Replica) -> None:
        """Nobody waits for this replica any longer."""
        for leash in self._leashes[replica]:
            leash.reschedule(0)

    async def answer(self, call: Call) -> Response:
        """Of the first replica that gives one."""
        tried: set[Replica] = set()
        num_lost, busy, failed = 0, None, None
        gives_up_s = time.monotonic() + PATIENCE_S
        while True:
            replica = self.replicas.pick(call.digests, without=tried, now_s=time.monotonic())
            if replica is None:
                if not num_lost or time.monotonic() >= gives_up_s:
                    return failed or busy or _nobody(num_lost)
                await asyncio.sleep(0.2)
                tried.clear()
                continue
            tried.add(replica)
            try:
                return await self._at(replica, call)
            except Unreached:
                replica.state = "out"  # until its probe is green again
                reason = "unreached"
            except Busy as refusal:
                busy, reason = refusal.answer, "full"
            except Lost as loss:
                num_lost, failed = num_lost + 1, loss.answer
                reason = "failed" if failed is not None else "lost"
                if num_lost > MOST_LOST:
                    return failed or _nobody(num_lost)
            self.metrics.add("llmc_router_retries_total", reason=reason)

    async def _at(self, replica: Replica, call: Call) -> Response:
        exchange = Exchange(self, replica, call)
        is_handed_over = False
        try:
            answer = await exchange.answer()
            is_handed_over = isinstance(answer, Passed)
            return answer
        finally:
            if not is_handed_over:
                exchange.close()


class Exchange:
    """One request at one replica, from its sending to the end of its answer."""

    def __init__(self, links: Links, replica: Replica, call: Call) -> None:
        self.links, self.replica, self.call = links, replica, call
        self._response: aiohttp.ClientResponse | None = None
        self._is_closed = False
        prefixes = links.replicas.prefixes
        if prefixes is not None and prefixes.holders(call.digests, among=[replica]):
            links.metrics.add("llmc_router_known_total")
        links.replicas.begin(replica, call.digests)

    async def answer(self) -> Response:
        """Whole, or with its first piece at hand. Raises Unreached, Busy or Lost."""
        response = await self._begin()
        headers = {name: value for name, value in response.headers.items() if name.lower() not in OF_ONE_HOP}
        if response.status == 503:
            raise Unreached
        if response.headers.get("content-type", "").startswith("text/event-stream"):
            first = await self._piece()
            if not first or first.startswith(b'data: {"error"'):
                self.replica.breaker.fail(time.monotonic())
                raise Lost(Response(first, headers=headers) if first else None)
            return Passed(self, first, headers=headers)
        body = await self._whole()
        answer = Response(body, status_code=response.status, headers=headers)
        if response.status >= 500:
            self.replica.breaker.fail(time.monotonic())
            raise Lost(answer)
        self.replica.breaker.succeed()
        if response.status == 429:
            raise Busy(answer)
        return answer

    async def _begin(self) -> aiohttp.ClientResponse:
        call = self.call
        try:
            async with self.links.leash(self.replica):
                self._response = await self.links.ask(
                    f"{self.replica.url}{call.target}", method=call.method, data=call.body or None, headers=call.headers
                )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise Unreached from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._loss() from error
        return self._response

    async def _whole(self) -> bytes:
        assert self._response is not None
        try:
            async with self.links.leash(self.replica):
                return await self._response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._loss() from error

    async def _piece(self) -> bytes:
        """What has come; empty at the end."""
        assert self._response is not None
        try:
            async with self.links.leash(self.replica):
                return await self._response.content.readany()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._loss() from error

    def _loss(self) -> Lost:
        self.replica.breaker.fail(time.monotonic())
        return Lost()

    async def pieces(self, first: bytes) -> AsyncIterator[bytes]:
        """The answer as it comes; one that breaks off ends with an error, and without `[DONE]`."""
        piece = first
        try:
            while piece:
                yield piece
                piece = await self._piece()
        except Lost:
            self.links.metrics.add("llmc_router_broken_total")
            message = "the server that wrote this answer is gone; ask again"
            yield event(error_body(message, status=502, code="replica_lost"))
            return
        self.replica.breaker.succeed()

    def close(self) -> None:
        """Whatever is left of it ends; the replica then sees that its client has gone."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._response is not None:
            self._response.close()
        self.replica.breaker.abandon()
        self.links.replicas.end(self.replica)


class Passed(StreamingResponse):
    """A stream that is passed on; when it ends, however it ends, so does its exchange."""

    def __init__(self, exchange: Exchange, first: bytes, *, headers: Mapping[str, str]) -> None:
        super().__init__(exchange.pieces(first), headers=headers)
        self._exchange = exchange

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._exchange.close()


def passed_on(headers: Headers, *, client: str) -> dict[str, str]:
    """A request's headers as a replica gets them."""
    found = {name: value for name, value in headers.items() if name.lower() not in OF_ONE_HOP}
    before = found.pop("x-forwarded-for", None)
    return {**found, "x-forwarded-for": f"{before}, {client}" if before else client}


def _nobody(num_lost: int) -> Response:
    if num_lost:
        raise ApiError("the servers that took this request are gone; ask again", status=502, code="replica_lost")
    headers = {"retry-after": "1"}
    raise ApiError("no server is ready", status=503, code="no_replica", headers=headers)


def _digest(certificate: bytes) -> bytes:
    return hashlib.sha256(certificate).digest()


def certificate_of(pem: str) -> bytes:
    """The first certificate of a chain, in DER."""
    end = "-----END CERTIFICATE-----"
    return ssl.PEM_cert_to_DER_cert(pem[: pem.index(end) + len(end)].lstrip())
