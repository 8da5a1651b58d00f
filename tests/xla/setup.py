"""`make setup-xla`: the environments of torch-xla and of the TPU compiler, each made once for its pins.

torch's wheel for x86-64 is built for CUDA and does not load without its libraries, though nothing of them is used with XLA. In
their place go empty ones, with the symbols that the loader asks for: 2.7 GB on disk instead of 7.6.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import venv
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from llmc.compiler.verify.environments import PINS, folder_of

OF_CUDA = re.compile(r"lib(cu|nccl|nvrtc|nvshmem)")
SYMBOL = re.compile(r"(cu|nccl|nvrtc|nvshmem)[A-Za-z0-9_]+$")
NO_DEVICE = 100
"""What every function of the stand-ins returns: cudaErrorNoDevice."""


def main() -> None:
    for name, pins in PINS.items():
        folder = folder_of(name)
        if not (folder / "ready").exists():
            print(f"setting up {folder.name} (a minute or two)", flush=True)
            make(folder, pins)


def make(folder: Path, pins: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-qq", "--no-deps", "-r", pins], check=True)
    for torch in folder.glob("lib/python*/site-packages/torch/lib"):
        stand_in_for_cuda(torch)
        subprocess.run([python, "-c", "import torch"], check=True)
    (folder / "ready").touch()


def stand_in_for_cuda(libraries: Path) -> None:
    """Put empty libraries beside those of torch, for what these ask for and is not there."""
    present = {path.name for path in libraries.iterdir()}
    needed: set[str] = set()
    symbols: dict[tuple[str, str], set[str]] = defaultdict(set)  # (library, version) -> names
    for library in sorted(libraries.glob("*.so")):
        needed |= {name for name in _needed(library) if OF_CUDA.match(name) and name not in present}
        owners = dict(_versions(library))
        for name, version in _undefined(library):
            if version in owners:
                symbols[owners[version], version].add(name)
            elif not version and SYMBOL.match(name):
                symbols["libnccl.so.2", ""].add(name)  # some library that is always loaded
    for name in sorted(needed):
        _compile(libraries / name, {version: found for (owner, version), found in symbols.items() if owner == name})


def _needed(library: Path) -> list[str]:
    return re.findall(r"NEEDED.*\[(.*?)\]", _readelf("-dW", library))


def _versions(library: Path) -> Iterator[tuple[str, str]]:
    """(version of symbols, the CUDA library that has it)"""
    owner = ""
    for line in _readelf("-VW", library).splitlines():
        if found := re.search(r"File: (\S+)", line):
            owner = found[1]
        elif (found := re.search(r"Name: (\S+)", line)) and OF_CUDA.match(owner):
            yield found[1], owner


def _undefined(library: Path) -> Iterator[tuple[str, str]]:
    for line in _readelf("--dyn-syms", "-W", library).splitlines():
        fields = line.split()
        if len(fields) >= 8 and fields[6] == "UND":
            name, _, version = fields[7].partition("@")
            yield name, version.lstrip("@")


def _compile(library: Path, symbols: dict[str, set[str]]) -> None:
    names = sorted(name for found in symbols.values() for name in found)
    with tempfile.TemporaryDirectory() as scratch:
        source, versions = Path(scratch, "empty.c"), Path(scratch, "versions")
        source.write_text("int nothing;\n" + "".join(f"int {name}(void) {{ return {NO_DEVICE}; }}\n" for name in names))
        versions.write_text(
            "".join(
                f"{version} {{ global: {' '.join(f'{name};' for name in sorted(found))} }};\n"
                for version, found in symbols.items()
                if version
            )
        )
        named = [f"-Wl,--version-script={versions}"] if versions.read_text() else []
        command = ["cc", "-shared", "-fPIC", "-w", "-fno-builtin", f"-Wl,-soname,{library.name}", *named]
        subprocess.run([*command, "-o", library, source], check=True)


def _readelf(*args: str | Path) -> str:
    return subprocess.run(["readelf", *args], capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    sys.exit(main())
