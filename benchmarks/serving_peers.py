"""Servers beside one another under the same load: output tokens/s, time to first token, start to first token.

    python benchmarks/serving_peers.py --model bench \\
        --server 'ours: python build/bench/serve.py --random --port 8001' \\
        --server 'vllm: VENV/bin/python -m vllm.entrypoints.openai.api_server --model HF_DIR --served-model-name bench --port 8002'

Each `--server` is `NAME: COMMAND` of an OpenAI-compatible server that ends its command with its port. They run one after the other,
never together, `--rounds` times in turns; the first is what the others are compared with. Prompts are random token ids, so that no
cache of prefixes helps, answers have one length, and so many requests are in flight. Servers of one table need the same weights:
`python convert.py export` of a built program writes the folder that vLLM and llama.cpp's converter read.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import signal
import statistics
import subprocess
import time
from dataclasses import dataclass

import httpx

from llmc.runtimes.serving.arrivals import ClosedLoop
from llmc.runtimes.serving.bench import Target, measure
from llmc.runtimes.serving.bench_report import figures

START_S = 600
FIGURES = ("output_tokens_per_s", "ttft_p50_ms", "ttft_p99_ms", "tpot_p50_ms", "start_to_first_token_s")


@dataclass(frozen=True)
class Server:
    name: str
    command: tuple[str, ...]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{int(self.command[-1])}"


def server_of(text: str) -> Server:
    name, _, command = text.partition(":")
    words = tuple(shlex.split(command))
    if not words or not words[-1].isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME: COMMAND that ends with a port")
    return Server(name.strip(), words)


def run(server: Server, args: argparse.Namespace) -> dict[str, float]:
    """One start, one load."""
    began_s = time.monotonic()
    process = subprocess.Popen(
        server.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        first_s = first_token_s(server, args.model, process) - began_s
        one = [(args.input_tokens, args.output_tokens)]
        target = Target(server.url, args.model, token_ids=args.token_ids)
        asyncio.run(measure(target, ClosedLoop(args.concurrency, one * args.concurrency)))  # warm
        measured = asyncio.run(measure(target, ClosedLoop(args.concurrency, one * args.requests), seed=1))
        found = figures(measured, slo={}, predicted={})
        if measured.errors or found["refused"]:
            print(f"  {server.name}: {found['refused']} refused, failed: {measured.errors}")
        return {**found, "start_to_first_token_s": first_s}
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def first_token_s(server: Server, model: str, process: subprocess.Popen[bytes]) -> float:
    """When the first token ever comes."""
    body = {"model": model, "prompt": [5, 6, 7], "max_tokens": 1, "temperature": 0}
    end_s = time.monotonic() + START_S
    while time.monotonic() < end_s:
        if process.poll() is not None:
            raise SystemExit(f"{server.name} ended with status {process.returncode}: {shlex.join(server.command)}")
        try:
            response = httpx.post(f"{server.url}/v1/completions", json=body, timeout=START_S)
            if response.status_code == 200:
                return time.monotonic()
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise SystemExit(f"{server.name} did not answer within {START_S} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", type=server_of, action="append", default=[], metavar="NAME: COMMAND")
    parser.add_argument("--model", default="bench", help="what all of them call it: %(default)s")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--input-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--token-ids", type=int, default=256, help="prompts are made of ids below this")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if not args.server:
        print("nothing to compare: name servers with --server (see --help)")
        return
    rounds = [{server.name: run(server, args) for server in args.server} for _ in range(args.rounds)]
    first = args.server[0].name
    print(
        f"medians of {args.rounds} rounds, {args.concurrency} in flight, load {os.getloadavg()[0]:.1f}; {first} over each"
    )
    for name in FIGURES:
        cells = []
        for server in args.server:
            middle = statistics.median(each[server.name][name] for each in rounds)
            ratio = statistics.median(each[first][name] / each[server.name][name] for each in rounds)
            cells.append(f"{server.name} {middle:,.4g}" + ("" if server.name == first else f" ({ratio:.2f} x)"))
        print(f"  {name:<24}" + "   ".join(cells))


if __name__ == "__main__":
    main()
