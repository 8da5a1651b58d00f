"""`llmc run`: build if need be, then hand over to the generated program."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from ..compiler.pipeline import build
from .compiling import edits_by_hand
from .faults import FINE, WRONG_USAGE
from .printing import print_diagnostics

PROGRAMS = {"train": "train.py", "serve": "serve.py", "generate": "serve.py"}
MANIFEST, PLAN = "manifest.json", "plan.json"
MOST_PROCESSES = 16
"""That this machine alone is asked to run."""


def run_program(
    command: str, target: Path, overrides: Sequence[str], args: Sequence[str], *, launcher: str | None = None
) -> int:
    """Replace this process by the program, or by its launcher: signals and exit status are its own."""
    from .launching import launch, unknown

    if launcher is not None and (status := unknown(launcher)) is not None:
        return status
    if command == "serve" and any(arg.split("=")[0] == "--simulate" for arg in args):
        if target.is_dir():
            print("llmc run serve --simulate: give the spec, which is planned for that accelerator", file=sys.stderr)
            return WRONG_USAGE
        from .twin import run_twin

        return run_twin(target, overrides, args)
    if target.is_dir():
        folder, status = _built(target, command, overrides)
    else:
        folder, status = _build(target, command, overrides)
    if folder is None:
        return status
    if launcher is not None:
        return launch(launcher, folder, args)
    script = folder / _program(folder, command)
    if not script.exists():
        section = "train" if command == "train" else "serve"
        print(f"llmc run {command}: there is no {script}: the spec has no `{section}` section", file=sys.stderr)
        return WRONG_USAGE
    processes = _processes(folder, command)
    if processes > MOST_PROCESSES and "NNODES" not in os.environ:
        message = f"there are {processes:,} processes to start, on several machines: README.md of {folder} says how"
        print(f"llmc run {command}: {message}", file=sys.stderr)
        return WRONG_USAGE
    return _become(script, _arguments(command, args), processes=processes if command == "train" else 1)


def _program(folder: Path, command: str) -> str:
    """The router, where there is one, starts the servers."""
    return "router.py" if command == "serve" and (folder / "router.py").exists() else PROGRAMS[command]


def _become(script: Path, args: Sequence[str], *, processes: int) -> NoReturn:
    """The program itself, or torchrun with as many processes of it as there are devices. A server starts its own."""
    sys.stdout.flush()
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes))
    os.execv(sys.executable, [sys.executable, *(torchrun if processes > 1 else ()), str(script), *args])


def _processes(folder: Path, command: str) -> int:
    """Processes that a built training program, or a replica of a server, consists of."""
    from ..compiler.planner.plan import Plan

    if (folder / "tpu.json").exists():
        return 1  # one a host, for all of its devices
    plan = Plan.from_json((folder / PLAN).read_text(encoding="utf-8"))
    if command != "train":
        return plan.serve.devices // plan.serve.layout.replicas if plan.serve is not None else 1
    return plan.train.layout.devices if plan.train is not None else 1


def _arguments(command: str, args: Sequence[str]) -> list[str]:
    """`generate` is the server's program with a prompt in place of a port."""
    if command != "generate" or any(arg.split("=")[0] in ("--prompt", "--generate", "-h", "--help") for arg in args):
        return list(args)
    return ["--generate", sys.stdin.read().rstrip("\n") if not sys.stdin.isatty() else input("prompt: "), *args]


def _built(folder: Path, command: str, overrides: Sequence[str]) -> tuple[Path | None, int]:
    if overrides:
        print(f"llmc run {command}: --set changes a spec, and {folder} is built already", file=sys.stderr)
        return None, WRONG_USAGE
    if not (folder / MANIFEST).exists():
        print(f"llmc run {command}: {folder} has no {MANIFEST}: llmc did not build it", file=sys.stderr)
        return None, WRONG_USAGE
    return folder, FINE


def _build(spec: Path, command: str, overrides: Sequence[str]) -> tuple[Path | None, int]:
    """Bring build/NAME up to date. Files that were edited by hand are run as they are, and that is said."""
    from ..compiler.emit.tree import write_tree

    result = build(spec, None, overrides)
    print_diagnostics(result.diagnostics)
    if result.tree is None:
        return None, result.entry.exit_code
    by_hand = edits_by_hand(result)
    if by_hand:
        print(f"llmc run {command}: not rebuilt, edited by hand: {', '.join(by_hand)}", file=sys.stderr)
    else:
        write_tree(result.tree, result.out_dir)
    return result.out_dir, FINE
