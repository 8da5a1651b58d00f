"""`llmc run train --launcher NAME`: hand a launch file of the program to what starts it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from ..spec.suggest import by_closeness, listing
from .faults import WRONG_USAGE


@dataclass(frozen=True)
class Launcher:
    """A launch file and the command that takes it; `{folder}` is the program's."""

    file: str
    command: tuple[str, ...]
    takes_arguments: bool = True
    """Whether options of the program can follow."""


LAUNCHERS = {
    "torchrun": Launcher("torchrun.sh", ("bash",)),
    "slurm": Launcher("train.sbatch", ("sbatch", "--export=ALL,PROGRAM={folder}")),
    "queued_resource": Launcher("queued_resource.sh", ("bash",)),
    "ray": Launcher("ray_train.py", (sys.executable,)),
    "kubernetes": Launcher("train.yaml", ("kubectl", "apply", "-f"), takes_arguments=False),
}


def unknown(name: str) -> int | None:
    """The exit status for a launcher that there is not; None for one that there is."""
    if name in LAUNCHERS:
        return None
    return _wrong(f"no launcher `{name}`; known: {listing(by_closeness(name, LAUNCHERS))}")


def launch(name: str, folder: Path, args: Sequence[str]) -> int:
    """Replace this process by the launcher's command. The run is in the folder that this is called in."""
    launcher = LAUNCHERS[name]
    file = folder / "launch" / launcher.file
    if not file.exists():
        return _wrong(f"there is no {file}: the spec needs `deploy: {{target: {name}}}`, or --set deploy.target={name}")
    if args and not launcher.takes_arguments:
        return _wrong(f"{name} takes no options of the program: {' '.join(args)}")
    command = [part.replace("{folder}", str(folder.resolve())) for part in launcher.command]
    if shutil.which(command[0]) is None:
        return _wrong(f"`{command[0]}` is not on the PATH; the launch file is {file}")
    return _become([*command, str(file), *args])


def _become(command: list[str]) -> NoReturn:
    own = str(Path(sys.executable).parent)  # launch files say `python`, and mean the one that has llmc
    os.environ["PATH"] = f"{own}{os.pathsep}{os.environ.get('PATH', '')}"
    sys.stdout.flush()
    os.execvp(command[0], command)


def _wrong(message: str) -> int:
    print(f"llmc run train: {message}", file=sys.stderr)
    return WRONG_USAGE
