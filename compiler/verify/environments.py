"""Where torch-xla, the TPU compiler, torch-npu and triton-ascend live: each in a folder of its own, keyed by its pins (`make setup-xla`,
`make setup-npu`)."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NPU_PINS = ROOT / "constraints-npu.txt"
TRITON_ASCEND_PINS = ROOT / "constraints-ascend.txt"
PINS = {"xla": ROOT / "constraints-xla.txt", "tpu": ROOT / "constraints-tpu.txt"}


def folder_of(name: str) -> Path:
    """The folder of an environment, in the user's cache: it outlives checkouts."""
    return _keyed(name, PINS[name])


def _keyed(name: str, pins: Path) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "llmc" / f"{name}-{sha256(pins.read_bytes()).hexdigest()[:12]}"


def python_of(name: str) -> Path | None:
    """Its interpreter; LLMC_XLA_PYTHON and LLMC_TPU_PYTHON name others. None: it is not there."""
    told = os.environ.get(f"LLMC_{name.upper()}_PYTHON")
    if told:
        return Path(told)
    folder = folder_of(name)
    return folder / "bin" / "python" if (folder / "ready").exists() else None


@contextmanager
def importable() -> Iterator[dict[str, str]]:
    """Environment variables with which an interpreter of these finds `llmc`. A verdict is of a program's kernels, whatever this
    process was told to run in their place."""
    with tempfile.TemporaryDirectory() as shown:
        Path(shown, "llmc").symlink_to(ROOT, target_is_directory=True)
        inherited = {key: value for key, value in os.environ.items() if key != "LLMC_KERNELS"}
        yield inherited | {"PYTHONPATH": shown}


def npu_folder() -> Path:
    """Where torch-npu lies beside this environment's torch (`make setup-npu`): `site/` and stand-ins for CANN in `stubs/`."""
    return _keyed("npu", NPU_PINS)


def npu_variables(folder: Path) -> dict[str, str]:
    """The environment variables with which this interpreter imports torch_npu."""
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([str(folder / "site"), os.environ.get("PYTHONPATH", "")]),
        "LD_LIBRARY_PATH": str(folder / "stubs"),
        "ASCEND_OPP_PATH": str(folder / "stubs"),
        "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",  # imported by those who ask for it
    }


def triton_ascend_folder() -> Path:
    """Where triton-ascend and the compiler behind it lie (`make setup-npu`): `site/`, before this environment's own triton."""
    return _keyed("ascend", TRITON_ASCEND_PINS)


def has_triton_ascend() -> bool:
    return (triton_ascend_folder() / "ready").exists()


def triton_ascend_variables() -> dict[str, str]:
    """The environment variables with which this interpreter imports triton-ascend as `triton`."""
    site = triton_ascend_folder() / "site"
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])}
