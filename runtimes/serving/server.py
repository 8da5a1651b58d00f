"""An application on a socket: ready line, signals, graceful stop."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from ..common.errors import RunError


def serve(
    app: ASGIApp,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    drain_s: int = 30,
    tls: tuple[Path, Path] | None = None,
    proxy: str | None = None,
    probe_port: int | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then finish what runs, for `drain_s` seconds at most, and return.

    Port 0 takes a free one. When requests can come, prints `serving on http://HOST:PORT`. A second SIGINT ends at once.

    Args:
        tls: a certificate (with its chain) and its key.
        proxy: the address (or addresses, networks, `*`) of who passes requests on and tells who sent them.
        probe_port: where probes and metrics need no key, in a server that asks for them; printed as `probes on …`.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    sockets = []
    if probe_port is not None:
        from .keys import ProbePort

        sockets.append(_listen(host, probe_port))
        app = ProbePort(app, port=sockets[0].getsockname()[1])
    server, listener = prepare(app, host=host, port=port, drain_s=drain_s, tls=tls, proxy=proxy)
    if sockets:
        server.probe_url = _url("https" if tls else "http", host, sockets[0])
    server.run(sockets=[listener, *sockets])
    if server.failure is not None:
        raise server.failure


def prepare(
    app: ASGIApp,
    *,
    host: str,
    port: int,
    drain_s: int,
    tls: tuple[Path, Path] | None = None,
    proxy: str | None = None,
) -> tuple[Server, socket.socket]:
    """A server and its socket, which is bound already; `server.run(sockets=[socket])` serves."""
    listener = _listen(host, port)
    config = uvicorn.Config(
        app,
        lifespan="on",
        ws="none",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=proxy is not None,
        forwarded_allow_ips=proxy or "",
        timeout_keep_alive=65,  # longer than the idle time of common load balancers, which else meet closed connections
        timeout_graceful_shutdown=drain_s,
        ssl_certfile=tls[0] if tls else None,
        ssl_keyfile=tls[1] if tls else None,
    )
    try:
        config.load()
    except OSError as error:  # ssl.SSLError is one
        help = "--tls-cert and --tls-key are files in PEM format, of a pair"
        raise RunError(f"the certificate cannot be used: {error}", help=help) from error
    return Server(config, url=_url("https" if tls else "http", host, listener)), listener


class Server(uvicorn.Server):
    """uvicorn, but it tells when it is ready, and a signal is a reason to end, not a failure."""

    def __init__(self, config: uvicorn.Config, *, url: str) -> None:
        super().__init__(config)
        self.url = url
        self.probe_url: str | None = None
        self.failure: RunError | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.started:
            return
        lines = [f"serving on {self.url}\n"]
        if self.probe_url is not None:
            lines.insert(0, f"probes on {self.probe_url}\n")
        try:
            sys.stdout.write("".join(lines))
            sys.stdout.flush()
        except OSError as error:  # a full disk; whoever started it waits for these lines
            help = "standard output tells that the server is ready: make room where it goes"
            self.failure = RunError(f"cannot write to standard output: {error.strerror}", help=help)
            self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Without uvicorn's habit of raising the signal again at the end: the exit status is 0."""
        try:
            before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread: whoever runs us there sets should_exit
            before = {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.should_exit and number == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket; an address that cannot be had ends the program with one line."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(
        family, proto=socket.IPPROTO_TCP
    )  # asyncio turns Nagle's delays off only where this is said
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        sys.exit(f"cannot listen on {host} port {port}: {error.strerror or error}")
    listener.set_inheritable(False)
    return listener


def _url(scheme: str, host: str, listener: socket.socket) -> str:
    name = f"[{host}]" if ":" in host else host
    return f"{scheme}://{name}:{listener.getsockname()[1]}"
