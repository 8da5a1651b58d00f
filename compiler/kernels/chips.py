"""GPUs and NPUs that Triton compiles for: what a kernel may use of each.

Shared memory is the most that one block can ask for. Sources: CUDA C++ Programming Guide, table "Technical Specifications
per Compute Capability"; AMD CDNA 2, 3 and 4 ISA guides (LDS of a compute unit). Numbers of multiprocessors: data sheets.
Of NPUs: the target's own description, as ascendnpu-ir 1.2.0 writes it at the head of what it compiles (UB_SIZE, VECTOR_CORE_COUNT).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...spec.hardware import Accelerator


@dataclass(frozen=True)
class Chip:
    target: str
    """`sm_90`, `gfx942`, `Ascend910B2`."""
    shared_bytes: int
    """Of a block: shared memory, LDS; of an NPU's vector core: the unified buffer, where all is that it works on."""
    registers: int
    """32-bit ones of a thread, at most; 0 for NPUs, which have no threads."""
    warp: int
    """Threads that run as one."""
    units: int
    """Multiprocessors, compute units or vector cores, which run blocks side by side."""

    @property
    def is_amd(self) -> bool:
        return self.target.startswith("gfx")

    @property
    def is_npu(self) -> bool:
        return self.target.startswith("Ascend")

    @property
    def memory(self) -> str:
        """What `shared_bytes` is called."""
        return "unified buffer" if self.is_npu else "shared memory"


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
    "Ascend910B2": Chip("Ascend910B2", 192 * _KIB, 0, 1, 48),
    "Ascend910B3": Chip("Ascend910B3", 192 * _KIB, 0, 1, 40),
    "Ascend910B4": Chip("Ascend910B4", 192 * _KIB, 0, 1, 40),
    "Ascend910_9382": Chip("Ascend910_9382", 192 * _KIB, 0, 1, 48),
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
    "ascend-910b": "Ascend910B2",
    "ascend-910b2": "Ascend910B2",
    "ascend-910b3": "Ascend910B3",
    "ascend-910b4": "Ascend910B4",
    "ascend-910c": "Ascend910_9382",
    "ascend-910c-die": "Ascend910_9382",
}
_NO_BF16 = frozenset({"v100", "t4"})
_OTHER = Chip("sm_80", 64 * _KIB, 255, 32, 108)
"""For GPUs that nothing is known of: tiles that fit into every chip above."""


def chip_name(accelerator: Accelerator) -> str:
    """The chip as generated files name it; empty where there is no Triton for it."""
    chip = chip_of(accelerator)
    return "" if chip is None else f"{accelerator.name or accelerator.like or 'GPUs'} ({chip.target})"


def chip_of(accelerator: Accelerator) -> Chip | None:
    """None where Triton or its bf16 is missing: old chips, and vendors that it does not compile for."""
    name = (accelerator.name or accelerator.like or "").lower()
    if accelerator.kind == "npu":
        return CHIPS[_OF_NAME[name]] if name in _OF_NAME else None
    if accelerator.kind != "gpu" or accelerator.vendor not in (None, "nvidia", "amd"):
        return None
    if name.partition("-")[0] in _NO_BF16:
        return None
    target = _OF_NAME.get(name) or _OF_ARCHITECTURE.get(accelerator.architecture or "")
    return CHIPS[target] if target else _OTHER
