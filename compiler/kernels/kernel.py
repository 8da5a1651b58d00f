"""What every kernel of a program has: a name, a dtype, a language, and its files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

DType = Literal["bf16", "fp32", "fp16"]
Language = Literal["pytorch", "cpp", "triton", "pallas", "npu"]
"""pytorch: no file beside the Python one; cpp: C++, compiled where it runs; triton: for GPUs and NPUs; pallas: for TPUs; npu: an op of
torch-npu, and no other file either."""

C_TYPES: dict[DType, str] = {"bf16": "bf16", "fp32": "float", "fp16": "_Float16"}
TORCH_TYPES: dict[DType, str] = {"bf16": "torch.bfloat16", "fp32": "torch.float32", "fp16": "torch.float16"}
BYTES: dict[DType, int] = {"bf16": 2, "fp32": 4, "fp16": 2}
NOT_EXECUTED = "Compiled for {chip} and interpreted against float64 (`llmc verify --kernels`); llmc's tests execute nothing on {kind}."


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """The view of a kernel's templates, under the name `k`; subclasses add the sizes and choices of one kernel."""

    name: str
    """The function that model.py or train.py imports, from kernels/<name>.py."""
    template: str
    """The stem of its templates."""
    dtype: DType
    """Of the numbers in memory; arithmetic is in fp32."""
    language: Language
    has_backward: bool = True
    """Whether gradients are ever asked for; servers ask for none."""
    chip: str = ""
    """For which GPU, NPU or TPU tiles were chosen, as generated files name it."""

    def files(self) -> Iterator[tuple[str, str]]:
        """Each file inside the build folder, with its template."""
        yield f"kernels/{self.name}.py", f"kernels/{self.python_side}.py.j2"
        if self.language == "cpp":
            yield f"kernels/{self.name}.cpp", f"kernels/cpp/{self.template}.cpp.j2"
        if self.language == "triton":
            yield f"kernels/{self.name}_gpu.py", f"kernels/triton/{self.template}.py.j2"
        if self.language == "pallas":
            yield f"kernels/{self.name}_tpu.py", f"kernels/pallas/{self.template}.py.j2"

    @property
    def python_side(self) -> str:
        """The template of the Python file: `ops/` where all is custom ops, `pytorch/` where PyTorch does a part, `xla/` for TPUs."""
        return f"pytorch/{self.template}"

    @property
    def fuses(self) -> str:
        """What of the model the kernel computes in one piece, for people."""
        raise NotImplementedError

    @property
    def spared_bytes(self) -> float:
        """Through memory a token and forward pass (AdamW: a parameter and step), against separate ops of PyTorch."""
        return 0.0

    @property
    def spared_kept_bytes(self) -> float:
        """Of what a token keeps for the backward pass."""
        return 0.0

    @property
    def price(self) -> str:
        """What a program pays that runs without the kernel."""
        per = "parameter and step" if self.template == "adamw" else "token"
        words = f"{self.spared_bytes:,.0f} more bytes through memory a {per}"
        return words + (
            f", {self.spared_kept_bytes:,.0f} more kept for the backward pass" if self.spared_kept_bytes else ""
        )

    @property
    def made_for(self) -> str:
        return NOT_EXECUTED.format(chip=self.chip, kind=_kind(self))

    @property
    def is_native(self) -> bool:
        """Whether there is a C++ file beside the Python one."""
        return self.language == "cpp"

    @property
    def is_triton(self) -> bool:
        return self.language == "triton"

    @property
    def is_pallas(self) -> bool:
        return self.language == "pallas"

    @property
    def ctype(self) -> str:
        return C_TYPES[self.dtype]

    @property
    def torch_dtype(self) -> str:
        return TORCH_TYPES[self.dtype]

    @property
    def number_bytes(self) -> int:
        return BYTES[self.dtype]


def _kind(kernel: Kernel) -> str:
    if kernel.is_pallas:
        return "a TPU"
    return "an NPU" if "Ascend" in kernel.chip else "a GPU"


@dataclass(frozen=True)
class LeftAlone:
    """Why a program has no kernel of a kind, in words that complete "left alone: "."""

    reason: str
