"""The command line of a generated convert.py."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ...common.errors import RunError, run_program
from .convert import export_checkpoint, import_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

    from .sources import Source


def main(tensors: Mapping[str, Source], *, model: Callable[[], nn.Module], num_layers: int, config: Path) -> None:
    """`import HF_DIR WEIGHTS` and `export WEIGHTS HF_DIR`; `config` is the file with the config.json of an export."""
    parser = argparse.ArgumentParser(description="Hugging Face checkpoints in and out of this program.")
    commands = parser.add_subparsers(dest="command", required=True)
    for command, source, out in (("import", "HF_DIR", "WEIGHTS"), ("export", "WEIGHTS", "HF_DIR")):
        verb = commands.add_parser(command, help=f"read {source}, write {out}")
        verb.add_argument("source", type=Path, metavar=source)
        verb.add_argument("out", type=Path, metavar=out)
    args = parser.parse_args()

    def convert() -> None:
        if args.command == "import":
            count = import_checkpoint(tensors, model=model, num_layers=num_layers, source=args.source, out=args.out)
        else:
            stated = json.loads(config.read_text(encoding="utf-8"))
            count = export_checkpoint(
                tensors, model=model, num_layers=num_layers, config=stated, source=args.source, out=args.out
            )
        print(f"{count} tensors written to {args.out}")

    def convert_or_explain() -> None:
        try:
            convert()
        except OSError as problem:
            raise RunError(
                f"cannot write to {args.out}: {problem}", help="check the folder and the space on its disk"
            ) from problem

    run_program(convert_or_explain)
