"""The flags of a generated server."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from ..common.errors import RunError
from .generation import Sampling


@dataclass(frozen=True)
class ServingArguments:
    weights: Path | None
    """A folder of safetensors; None for random weights."""
    tokenizer: Path | None
    """A tokenizer.json or the folder that has it; None for numbers in place of text."""
    host: str
    port: int
    threads: int | None
    seed: int
    generate: str | None
    """A text to complete here instead of serving."""
    max_tokens: int
    sampling: Sampling
    keys: Path | None = None
    """A file of API keys, in a server that asks for them."""
    probe_port: int | None = None
    """Where probes and metrics need no key, in a server that asks for them."""
    tls: tuple[Path, Path] | None = None
    """Certificate and key, in a server that speaks HTTPS."""
    proxy: str | None = None
    """Who passes requests on and is believed when it tells whose they are, in a server that counts them."""


def serving_arguments(
    name: str,
    argv: Sequence[str] | None = None,
    *,
    asks_keys: bool = False,
    has_tls: bool = False,
    has_rates: bool = False,
) -> ServingArguments:
    """The flags of this process. Weights are those of the latest checkpoint of runs/<name> unless told otherwise."""
    parser = _parser(name)
    add_guards(parser, asks_keys=asks_keys, has_tls=has_tls, has_rates=has_rates)
    args = parser.parse_args(argv)
    if asks_keys and args.new_key is not None:
        print_key(args.new_key)
    weights = None if args.random else args.weights or _latest(name)
    return ServingArguments(
        weights=weights,
        tokenizer=args.tokenizer or weights,
        host=args.host,
        port=args.port,
        threads=args.threads,
        seed=args.seed if args.seed is not None else 0,
        generate=args.generate,
        max_tokens=args.max_tokens,
        sampling=Sampling(temperature=args.temperature, top_p=args.top_p, top_k=args.top_k, seed=args.seed),
        keys=args.keys if asks_keys else None,
        probe_port=args.probe_port if asks_keys else None,
        tls=(args.tls_cert, args.tls_key) if has_tls else None,
        proxy=args.proxy if has_rates else None,
    )


def add_guards(parser: argparse.ArgumentParser, *, asks_keys: bool, has_tls: bool, has_rates: bool) -> None:
    """The flags of keys, HTTPS and rates, where the spec asks for them."""
    if asks_keys:
        parser.add_argument("--keys", type=Path, metavar="FILE", help="a line for each API key: a name and its SHA-256")
        parser.add_argument("--new-key", metavar="NAME", help="print a new API key and its line for --keys, and end")
        probes = "a port with the probes and metrics alone, which needs no key: for those who probe and scrape"
        parser.add_argument("--probe-port", type=port_number, metavar="PORT", help=probes)
    if has_tls:
        parser.add_argument("--tls-cert", type=Path, required=True, metavar="PEM", help="certificate, with its chain")
        parser.add_argument("--tls-key", type=Path, required=True, metavar="PEM", help="the certificate's key")
    if has_rates:
        proxy = "whose X-Forwarded-For tells the caller: an address, several, networks, or *"
        parser.add_argument("--proxy", metavar="ADDRESS", help=proxy)


def print_key(name: str) -> NoReturn:
    from .keys import new_key

    key, line = new_key(name)
    print(f"key, shown this once: {key}\nline for the key file: {line}")
    sys.exit(0)


def _parser(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=f"Serve {name}.", allow_abbrev=False)
    source = parser.add_mutually_exclusive_group()
    latest = f"the latest checkpoint of runs/{name}".replace("%", "%%")
    source.add_argument("--weights", type=Path, metavar="DIR", help=f"folder with safetensors: {latest} by default")
    source.add_argument("--random", action="store_true", help="random weights, to try the server without any")
    parser.add_argument(
        "--tokenizer", type=Path, metavar="PATH", help="a tokenizer.json, if it is not with the weights"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on: %(default)s")
    parser.add_argument("--port", type=port_number, default=8000, help="%(default)s; 0 takes a free one")
    parser.add_argument("--threads", type=_count, metavar="N", help="CPU threads: all cores by default")
    parser.add_argument("--seed", type=int, help="of random weights, and of the sampling of --generate")
    parser.add_argument("--generate", "--prompt", metavar="TEXT", help="complete this text here instead of serving")
    parser.add_argument("--max-tokens", type=_count, default=128, metavar="N", help="of --generate: %(default)s")
    parser.add_argument("--temperature", type=float, default=0.8, help="of --generate: %(default)s; 0 is greedy")
    parser.add_argument(
        "--top-p", type=float, help="of --generate: sample from the most likely tokens that sum to this"
    )
    parser.add_argument("--top-k", type=_count, metavar="K", help="of --generate: sample from the K most likely tokens")
    return parser


def _latest(name: str) -> Path:
    from ..pytorch.checkpoint import latest_checkpoint

    found = latest_checkpoint(Path("runs") / name)
    if found is None:
        raise RunError(f"there is no checkpoint in runs/{name}", help="give --weights DIR, or --random to try without")
    return found


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value


def port_number(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**16:
        raise argparse.ArgumentTypeError(f"{value} is not a port")
    return value
