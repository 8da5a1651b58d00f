"""What every kernel of a program has: a name, a dtype, and its files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

DType = Literal["bf16", "fp32"]

C_TYPES: dict[DType, str] = {"bf16": "bf16", "fp32": "float"}
TORCH_TYPES: dict[DType, str] = {"bf16": "torch.bfloat16", "fp32": "torch.float32"}
BYTES: dict[DType, int] = {"bf16": 2, "fp32": 4}


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """The view of a kernel's templates, under the name `k`; subclasses add the sizes and choices of one kernel."""

    name: str
    """The function that model.py or train.py imports, from kernels/<name>.py."""
    template: str
    """The stem of its templates."""
    dtype: DType
    """Of the numbers in memory; arithmetic is in fp32."""
    is_native: bool
    """Whether there is a C++ file beside the Python one."""

    def files(self) -> Iterator[tuple[str, str]]:
        """Each file inside the build folder, with its template."""
        yield f"kernels/{self.name}.py", f"kernels/pytorch/{self.template}.py.j2"
        if self.is_native:
            yield f"kernels/{self.name}.cpp", f"kernels/cpp/{self.template}.cpp.j2"

    @property
    def ctype(self) -> str:
        return C_TYPES[self.dtype]

    @property
    def torch_dtype(self) -> str:
        return TORCH_TYPES[self.dtype]

    @property
    def number_bytes(self) -> int:
        return BYTES[self.dtype]
