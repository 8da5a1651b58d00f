"""`make setup-npu`: torch-npu where `llmc verify` finds it, with empty libraries in place of CANN's; and triton-ascend, in a folder of its own.

CANN is what drives an NPU; its libraries come with the driver and from nowhere else. Stand-ins with the symbols that torch-npu asks for
let it load, so that its op schemas and its table of kernels can be asked. Nothing can be computed with them.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from llmc.compiler.verify.environments import (
    NPU_PINS,
    TRITON_ASCEND_PINS,
    npu_folder,
    npu_variables,
    triton_ascend_folder,
    triton_ascend_variables,
)

OF_THE_SYSTEM = re.compile(r"(lib(c|m|dl|rt|stdc\+\+|gcc_s|pthread|gomp)\.|ld-linux)")
DATA = re.compile(r"_ZT[VIS]|_ZG")
"""Names of C++ tables, which are data; everything else is a function, which returns 0."""


def main() -> None:
    set_up(npu_folder(), torch_npu)
    set_up(triton_ascend_folder(), triton_ascend)


def set_up(folder: Path, fill: Callable[[Path], None]) -> None:
    """Make an environment unless it is there."""
    if (folder / "ready").exists():
        return
    print(f"setting up {folder.name} (half a minute)", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    fill(folder)
    (folder / "ready").touch()


def torch_npu(folder: Path) -> None:
    install(folder / "site", NPU_PINS)
    stand_in_for_cann(folder / "site" / "torch_npu", folder / "stubs")
    subprocess.run([sys.executable, "-W", "ignore", "-c", "import torch_npu"], env=npu_variables(folder), check=True)


def triton_ascend(folder: Path) -> None:
    install(folder / "site", TRITON_ASCEND_PINS)
    command = [sys.executable, "-c", "import ascendnpuir, triton.backends.ascend.compiler"]
    subprocess.run(command, env=triton_ascend_variables(), check=True)


def install(site: Path, pins: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--target", site, "-r", pins]
    subprocess.run(pip, check=True)


def stand_in_for_cann(package: Path, stubs: Path) -> None:
    """Libraries of the names that torch-npu links to and that are neither its own nor torch's; the first has all symbols."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    torch = Path(spec.origin).parent / "lib"
    own = sorted(package.glob("lib/*.so")) + sorted(package.glob("_C*.so"))
    needed = {name for library in own for name in re.findall(r"NEEDED.*\[(.*?)\]", _readelf("-dW", library))}
    present = {path.name for path in (*own, *torch.iterdir())}
    missing = sorted(name for name in needed - present if not OF_THE_SYSTEM.match(name))
    defined = {name for library in (*own, *torch.glob("*.so*")) for name, is_here in _symbols(library) if is_here}
    asked = {name for library in own for name, is_here in _symbols(library) if not is_here} - defined
    names = sorted(name for name in asked if not name.startswith(("Py", "_Py", "__", "_ITM")))
    stubs.mkdir(parents=True)
    assembly = stubs / "stubs.s"
    assembly.write_text("".join(map(_stub, names)) + '.section .note.GNU-stack,"",@progbits\n', encoding="utf-8")
    for number, name in enumerate(missing):
        source = [assembly] if number == 0 else ["-x", "c", "/dev/null"]
        subprocess.run(["cc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", stubs / name, *source], check=True)


def _stub(name: str) -> str:
    if DATA.match(name):
        return f'.data\n.globl "{name}"\n.balign 16\n"{name}": .zero 256\n'
    return f'.text\n.globl "{name}"\n.type "{name}",@function\n"{name}": xor %eax,%eax\nret\n'


def _symbols(library: Path) -> list[tuple[str, bool]]:
    """(name, whether the library has it); what is asked for in a version is the system's and left out."""
    rows = [line.split() for line in _readelf("--dyn-syms", "-W", library).splitlines()]
    found = [(row[7], row[6] != "UND") for row in rows if len(row) >= 8]
    return [(name.partition("@")[0], is_here) for name, is_here in found if is_here or "@" not in name]


def _readelf(*args: str | Path) -> str:
    return subprocess.run(["readelf", *args], capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    sys.exit(main())
