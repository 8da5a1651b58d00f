"""What a generated router.py is made of: its flags, and the application on its socket."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from starlette.middleware import Middleware

from ...common.errors import RunError
from ..arguments import add_guards, port_number, print_key
from ..server import serve
from .app import create_router
from .fleet import Fleet, replica_commands
from .forward import certificate_of
from .replicas import Replica

STOP_S = 10
"""What replicas have to end once nobody waits for them."""


@dataclass(frozen=True)
class RouterArguments:
    host: str
    port: int
    replicas: tuple[str, ...]
    """URLs of replicas that run already; none: they are started here."""
    passed_on: tuple[str, ...]
    """Flags for the replicas that are started."""
    keys: Path | None = None
    probe_port: int | None = None
    tls: tuple[Path, Path] | None = None
    proxy: str | None = None


def router_arguments(
    name: str,
    argv: Sequence[str] | None = None,
    *,
    asks_keys: bool = False,
    has_tls: bool = False,
    has_rates: bool = False,
) -> RouterArguments:
    """The flags of this process; those it does not know are the replicas'."""
    parser = argparse.ArgumentParser(
        description=f"One address for the replicas of {name}.".replace("%", "%%"),
        epilog="Further flags, such as --weights, are those of serve.py.",
        allow_abbrev=False,
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on: %(default)s")
    parser.add_argument("--port", type=port_number, default=8000, help="%(default)s; 0 takes a free one")
    known = "a replica that runs already; where its probes have a port of their own, URL,PROBES. May be repeated."
    parser.add_argument("--replica", action="append", default=[], metavar="URL", help=known)
    add_guards(parser, asks_keys=asks_keys, has_tls=has_tls, has_rates=has_rates)
    args, others = parser.parse_known_args(argv)
    if asks_keys and args.new_key is not None:
        print_key(args.new_key)
    if args.replica and others:
        parser.error(f"{others[0]} is for replicas that are started here, and with --replica they run already")
    guards: list[str] = []  # a replica asks for the same
    if asks_keys and args.keys is not None:
        guards += ["--keys", str(args.keys)]
    if has_tls:
        guards += ["--tls-cert", str(args.tls_cert), "--tls-key", str(args.tls_key)]
    if has_rates:
        guards += ["--proxy", "127.0.0.1"]
    return RouterArguments(
        host=args.host,
        port=args.port,
        replicas=tuple(args.replica),
        passed_on=(*others, *guards),
        keys=args.keys if asks_keys else None,
        probe_port=args.probe_port if asks_keys else None,
        tls=(args.tls_cert, args.tls_key) if has_tls else None,
        proxy=args.proxy if has_rates else None,
    )


def serve_router(
    args: RouterArguments,
    *,
    program: Path,
    replicas: int,
    device: str,
    drain_s: int,
    ranks: int = 1,
    knows_prefixes: bool = False,
    asks_keys: bool = False,
    middleware: Sequence[Middleware] = (),
    further: Sequence[str] = (),
) -> None:
    """Serve until SIGTERM: then what was accepted is finished, and the replicas that were started here end.

    Args:
        program: the replicas' serve.py.
        replicas: how many are started, where none run already.
        device: cpu, cuda, npu or xla; each has devices of its own, or its share of the cores.
        ranks: devices of a replica.
        asks_keys: the replicas ask for keys, so that their probes have a port of their own.
        further: paths of the replicas beside their API.
    """
    fleet = None
    known = [_replica(number, text) for number, text in enumerate(args.replicas)]
    if not known:
        commands = replica_commands(
            str(program), args.passed_on, number=replicas, device=device, asks_keys=asks_keys, ranks=ranks
        )
        fleet = Fleet(commands, drain_s=STOP_S)
        known = fleet.replicas
    app = create_router(
        known,
        fleet=fleet,
        knows_prefixes=knows_prefixes,
        certificate=_certificate(args.tls[0]) if args.tls is not None else None,
        middleware=middleware,
        further=further,
    )
    try:
        serve(
            app,
            host=args.host,
            port=args.port,
            drain_s=drain_s,
            tls=args.tls,
            proxy=args.proxy,
            probe_port=args.probe_port,
        )
    except SystemExit:  # uvicorn's, when the application could not begin
        if fleet is None or fleet.failure is None:
            raise
        raise fleet.failure from None


def _replica(number: int, text: str) -> Replica:
    url, _, probe_url = text.partition(",")
    for each in (url, probe_url or url):
        if not each.startswith(("http://", "https://")):
            raise RunError(f"--replica {text}: {each} is no URL", help="such as http://127.0.0.1:8001")
    return Replica(number, url=url.rstrip("/"), probe_url=(probe_url or url).rstrip("/"))


def _certificate(file: Path) -> bytes:
    help = "--tls-cert and --tls-key are files in PEM format, of a pair"
    try:
        return certificate_of(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"the certificate cannot be read: {error}", help=help) from error
