"""How long does `llmc verify` take on published sizes, how much memory, and do all claims hold?

    python benchmarks/verify.py [SPEC …]

Each spec in a process of its own; seconds and the most memory of any process of it. Without arguments: 8B on 64 GPUs, 70B on
1,024, 405B on 16,384, Mixtral 8x22B on 256 and DeepSeek-V3's shape on 2,048.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("llama3-8b-64", "llama3-70b-1024", "mixtral-8x22b-256", "deepseek-v3-2048")
SPECS = [*(ROOT / f"benchmarks/specs/verify-{name}.yaml" for name in NAMES), ROOT / "examples/3-llama3-405b-fixed.yaml"]


def main() -> int:
    specs = [Path(each) for each in sys.argv[1:]] or SPECS
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
    return max([verify(spec) for spec in specs])


def verify(spec: Path) -> int:
    """Prints a line, and the claims that do not hold; the command's status."""
    command = [sys.executable, "-m", "llmc.cli.main", "verify", str(spec), "--json"]
    started_s = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)  # its own children included, the largest of them
    seconds, most_gib = time.monotonic() - started_s, usage.ru_maxrss / 2**20
    verdict = json.loads(said)
    claims = verdict["claims"]
    held = sum(claim["holds"] for claim in claims)
    memory = [claim["found"] / claim["planned"] - 1 for claim in claims if claim["topic"] == "memory"]
    off = ", ".join(f"{each:+.1%}" for each in memory)
    print(
        f"{verdict['name']}: {held} of {len(claims)} claims, memory {off}; {seconds:.0f} s, {most_gib:.2f} GiB",
        flush=True,
    )
    for claim in claims:
        if not claim["holds"]:
            print(f"  {claim['name']}: {claim['planned']} planned, {claim['found']} found {claim['hint']}", flush=True)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main())
