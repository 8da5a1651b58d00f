"""GPUs that Triton compiles for: what a kernel may use of each.

Shared memory is the most that one block can ask for. Sources: CUDA C++ Programming Guide, table "Technical Specifications
per Compute Capability"; AMD CDNA 2, 3 and 4 ISA guides (LDS of a compute unit). Numbers of multiprocessors: data sheets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...spec.hardware import Accelerator


@dataclass(frozen=True)
class Chip:
    target: str
    """`sm_90`, `gfx942`."""
    shared_bytes: int
    """Of a block: shared memory, LDS."""
    registers: int
    """32-bit ones of a thread, at most."""
    warp: int
    """Threads that run as one."""
    units: int
    """Multiprocessors or compute units, which run blocks side by side."""

    @property
    def is_amd(self) -> bool:
        return self.target.startswith("gfx")


_KIB = 1024
CHIPS = {
    "sm_80": Chip("sm_80", 163 * _KIB, 255, 32, 108),
    "sm_86": Chip("sm_86", 99 * _KIB, 255, 32, 72),
    "sm_89": Chip("sm_89", 99 * _KIB, 255, 32, 58),
    "sm_90": Chip("sm_90", 227 * _KIB, 255, 32, 132),
    "sm_100": Chip("sm_100", 227 * _KIB, 255, 32, 148),
    "sm_103": Chip("sm_103", 227 * _KIB, 255, 32, 148),
    "sm_120": Chip("sm_120", 99 * _KIB, 255, 32, 188),
    "gfx90a": Chip("gfx90a", 64 * _KIB, 512, 64, 104),
    "gfx942": Chip("gfx942", 64 * _KIB, 512, 64, 304),
    "gfx950": Chip("gfx950", 160 * _KIB, 512, 64, 256),
}
_OF_ARCHITECTURE = {
    "ampere": "sm_80",
    "hopper": "sm_90",
    "blackwell": "sm_100",
    "blackwell_ultra": "sm_103",
    "cdna3": "gfx942",
}
_OF_NAME = {
    "a10": "sm_86",
    "a10g": "sm_86",
    "l4": "sm_89",
    "l40s": "sm_89",
    "rtx-4090": "sm_89",
    "rtx-pro-6000": "sm_120",
    "mi250": "gfx90a",
    "mi250x": "gfx90a",
    "mi355x": "gfx950",
}
_NO_BF16 = frozenset({"v100", "t4"})
_OTHER = Chip("sm_80", 64 * _KIB, 255, 32, 108)
"""For GPUs that nothing is known of: tiles that fit into every chip above."""


def chip_of(accelerator: Accelerator) -> Chip | None:
    """None where Triton or its bf16 is missing: old chips, and vendors that it does not compile for."""
    name = (accelerator.name or accelerator.like or "").lower()
    if accelerator.kind != "gpu" or accelerator.vendor not in (None, "nvidia", "amd"):
        return None
    if name.partition("-")[0] in _NO_BF16:
        return None
    target = _OF_NAME.get(name) or _OF_ARCHITECTURE.get(accelerator.architecture or "")
    return CHIPS[target] if target else _OTHER
