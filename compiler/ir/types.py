"""Number formats and their sizes."""

from __future__ import annotations

from enum import Enum


class DType(Enum):
    """A number format. Scales of block formats are counted in the size (one for 32 or 16 elements)."""

    FP32 = ("fp32", 32.0)
    BF16 = ("bf16", 16.0)
    FP16 = ("fp16", 16.0)
    FP8 = ("fp8", 8.0)
    MXFP8 = ("mxfp8", 8.25)  # one 8-bit scale for 32 elements (OCP MX 1.0)
    INT8 = ("int8", 8.0)
    INT4 = ("int4", 4.125)  # a 16-bit scale for 128 elements
    MXFP4 = ("mxfp4", 4.25)  # one 8-bit scale for 32 elements (OCP MX 1.0)
    NVFP4 = ("nvfp4", 4.5)  # one fp8 scale for 16 elements
    INT32 = ("int32", 32.0)
    INT64 = ("int64", 64.0)

    def __init__(self, label: str, bits: float) -> None:
        self.label = label
        self.bits = bits

    @property
    def size_bytes(self) -> float:
        """Bytes an element."""
        return self.bits / 8

    @classmethod
    def named(cls, label: str) -> DType:
        """`"bf16"` -> DType.BF16."""
        return _BY_LABEL[label]


_BY_LABEL = {dtype.label: dtype for dtype in DType}
