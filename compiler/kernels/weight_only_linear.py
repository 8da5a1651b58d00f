"""Linear layers of a server, whose weights are kept in the order in which they are read: bf16 in 12 bits without loss, or rounded to 8 or 4.

Fuses    dequantise -> linear: the weights are read in the bits that they are stored in, and become numbers in registers.
Applies  to the servers of serving.py: to every linear layer, and to the head, which is in 8 bits beside layers with offsets. In C++
         for CPUs, in Triton for GPUs, which leave bf16 to PyTorch.
Cost     a step: reads each weight once, bits / 8 bytes and its share of the group's scale; a few rows at a time are bound
         by that. Above `few_rows` the codes are decoded once for all rows, and the product is one in bf16 or fp32. Where inputs
         are rounded to 8 bits the product is one of integers, at twice the rate of bf16.
Truth    runtimes/reference/weight_only.py: weight_only_linear; F.linear for bf16
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from .kernel import BYTES, Kernel
from .serving_tiles import ProductTiles, product_tiles

if TYPE_CHECKING:
    from ...spec.document import Spec
    from ...spec.serving import Weights
    from .chips import Chip
    from .kernel import DType

Bits = Literal[4, 8, 16]
BITS: dict[str, Bits] = {"int8": 8, "int4": 4}
"""Formats of few bits, which are rounded from a checkpoint and have scales."""
GROUP, GROUP_WITH_OFFSET = 64, 32
"""Weights that share a scale, where the spec leaves it open: then int8 takes 8.125 bits a weight, int4 4.125, and 5 with offsets."""
HEAD_BITS: Bits = 8
"""Of the head beside layers with offsets, which are asked for where four bits are to cost as little as they can."""
SCALE_BITS = 16
BYTE_SCALE_BITS = 8
"""Without offsets: a byte, in units of its row. The two bytes of that unit are nowhere counted: a hundredth of a bit in rows of 2,048."""
FOUR_BITS = (-127, -98, -76, -59, -44, -32, -20, -8, 3, 14, 26, 38, 52, 68, 89, 122)
"""What the codes of int4 stand for, as runtimes/reference/weight_only.py has it."""
LOSSLESS_BITS = 12.0
"""Of a bf16 number (runtimes/pytorch/lossless.py). The few that have no code add one in a thousand where weights are normally distributed."""
INTEGERS = "integer_linear"
"""The template of products whose inputs are rounded as well."""


@dataclass(frozen=True, kw_only=True)
class WeightOnlyLinear(Kernel):
    bits: Bits
    """16 are a bf16 number, all of whose bits are kept."""
    group: int | None
    """Weights that share a scale; None for bf16, which has none."""
    has_offset: bool
    """Codes count from the middle of their group's range; else from zero."""
    has_bias: bool
    is_table: bool = False
    """Whether a weight in bf16 is also the table of embeddings, of which rows are read."""
    least_rows: int = 96
    """Rows of a task at least, of prompts that threads share by rows: for each task 64 columns are decoded anew."""
    tiles: ProductTiles | None = None

    @property
    def rounds_inputs(self) -> bool:
        """Whether inputs become 8 bits too."""
        return self.template == INTEGERS

    @property
    def python_side(self) -> str:
        if self.is_triton:
            return "ops/weight_only_linear_gpu"
        return "ops/weight_only_linear" if self.has_scales else "ops/bf16_linear"

    @property
    def has_scales(self) -> bool:
        return self.group is not None

    @property
    def num_pointers(self) -> int:
        """Tensors that the C++ function takes."""
        return (4 if self.has_scales else 6) + self.has_offset + self.has_bias

    @property
    def class_name(self) -> str:
        return f"Int{self.bits}Linear" if self.has_scales else "Bf16Linear"

    @property
    def few_rows(self) -> int:
        """Above, decoding the codes once for all rows is faster. In bf16 codes become numbers for eight rows at a time, a third of the
        products' time in 8 bits, and less in 4; in fp32 for four. bf16 is only moved together, so that more rows share what is in registers."""
        if not self.is_bf16:
            return {4: 32, 8: 16}[self.bits]
        return 32 if self.bits == 8 or self.has_offset else 64

    @property
    def decoded_depth(self) -> int:
        """Inputs whose weights, 64 columns of them, are decoded at a time: 384 KiB, a part of the L2 cache that leaves room for sums and inputs.
        All 5,632 of a layer at once took a twentieth longer in a cache of 1 MiB."""
        return 6144 // self.number_bytes

    @property
    def most_rows(self) -> int:
        """Rows of a product whose sums stay in registers, two for each in bf16."""
        return 8 if self.is_bf16 or self.rounds_inputs else 4

    @property
    def is_bf16(self) -> bool:
        return self.dtype == "bf16"

    @property
    def word_codes(self) -> int:
        """Codes of a 32-bit word."""
        return 32 // self.bits

    @property
    def prefetch_bytes(self) -> int:
        """How far ahead weights are fetched: by a few percent the fastest of 2,048 to 24,576, on a host whose memory is fast and
        slow by turns."""
        return {4: 8192, 8: 6144, 16: 4096}[self.bits]

    @property
    def prefetch_scale_bytes(self) -> int:
        """How far ahead scales are: those of sixteen groups, where they are bytes."""
        return 256

    @property
    def sum_words(self) -> int:
        """Words whose products are summed before they meet their scale. In 4 bits those of 32 codes: with more, additions of a single
        row wait for one another, and it takes an eighth longer where weights are in the cache. In 8 bits a group's."""
        assert self.group is not None
        return (32 if self.bits == 4 else self.group) // self.word_codes

    @property
    def order(self) -> tuple[int, ...]:
        """Codes of a word from its lowest bits on: pairs of neighbours are the halves of the word, as products of bf16 take them."""
        half = range(0, self.word_codes, 2)
        return (*half, *(each + 1 for each in half))

    @property
    def input_group(self) -> int:
        """Numbers of an input that share a step, as runtimes/reference/weight_only.py has it: with 64 a large one cost its neighbours
        half as many digits again as with 32 (docs/kernels.md)."""
        return 32

    @property
    def input_order(self) -> tuple[int, ...]:
        """Sixteen codes of an input as instructions meet them in the words of weights: every fourth byte of a word, then the next."""
        parts = self.word_codes // 4
        word = [self.order[at] for part in range(parts) for at in range(part, self.word_codes, parts)]
        return tuple(first + each for first in range(0, 16, self.word_codes) for each in word)

    @property
    def code_formula(self) -> str:
        if self.bits == 8:
            return "(signed byte)"
        return "(0 ... 15, less 8)" if self.has_offset else "(one of 16 numbers)"

    @property
    def has_units(self) -> bool:
        """Scales are bytes, and their unit is the row's."""
        return self.has_scales and not self.has_offset

    @property
    def scale_ctype(self) -> str:
        return "int8_t" if self.has_units else "bf16"

    @property
    def scales_are(self) -> str:
        return (
            "scales and offsets are bf16" if self.has_offset else "scales are bytes times a unit of their row in bf16"
        )

    @property
    def numbers(self) -> tuple[int, ...]:
        """What four bits stand for. Bytes, which bf16 has exactly: products of all formats look the same numbers up."""
        return tuple(range(-8, 8)) if self.has_offset else FOUR_BITS

    @property
    def bytes_from_zero(self) -> tuple[int, ...]:
        """The same with 128 added."""
        return tuple(each + 128 for each in self.numbers)

    @property
    def packed_numbers(self) -> tuple[int, int]:
        """The same as two integers of 64 bits: the first eight from the lowest byte on, and the others."""
        lower, upper = (bytes(each & 255 for each in half) for half in (self.numbers[:8], self.numbers[8:]))
        return int.from_bytes(lower, "little", signed=True), int.from_bytes(upper, "little", signed=True)

    @property
    def table(self) -> tuple[str, ...]:
        """The same as bf16."""
        return _bf16s(self.numbers)

    @property
    def weight_bits(self) -> float:
        return LOSSLESS_BITS if self.group is None else bits_of(self.bits, group=self.group, has_offset=self.has_offset)

    @property
    def fuses(self) -> str:
        if not self.has_scales:
            return "upper bytes of bf16 from codes of four bits, linear"
        if self.rounds_inputs:
            return f"inputs to 8 bits, linear with weights of {self.bits}"
        return f"weights of {self.bits} bits to numbers, linear"

    @property
    def price(self) -> str:
        if not self.has_scales:
            return "each weight put together, 4 more bytes through memory, at every step"
        return (
            f"each weight read from {self.bits} bits, written and read again in {8 * self.number_bytes}, at every step"
        )


def choose_weight_only(
    spec: Spec, *, weights: str, dtype: DType, chip: Chip | None = None, chip_name: str = ""
) -> tuple[WeightOnlyLinear, ...]:
    """The kernels of a server with weights in that format: of its layers, and of its head where that has other bits. In Triton for a
    `chip`, which needs none for bf16; else in C++."""
    assert spec.serve is not None
    if weights not in BITS:
        lossless = _kernel(16, None, dtype=dtype, has_offset=False, has_bias=_has_bias(spec))
        return () if chip is not None else (replace(lossless, is_table=spec.model.tie_embeddings),)
    bits = BITS[weights]
    asked = spec.serve.weights
    has_offset = not asked.symmetric
    template = "weight_only_linear" if asked.activations is None else INTEGERS
    how = {"chip": chip, "chip_name": chip_name, "template": template}
    blocks = _kernel(bits, group_of(asked, bits), dtype=dtype, has_offset=has_offset, has_bias=_has_bias(spec), **how)
    head = _kernel(HEAD_BITS, GROUP, dtype=dtype, has_offset=False, has_bias=spec.model.head.bias, **how)
    return (blocks, head) if has_offset else (blocks,)


def group_of(weights: Weights, bits: Bits) -> int:
    return weights.group or (GROUP if bits == 8 or weights.symmetric else GROUP_WITH_OFFSET)


def head_bits_of(weights: Weights, bits: Bits) -> float:
    """Of a weight of the head: as layers have, but beside offsets."""
    if not weights.symmetric:
        return bits_of(HEAD_BITS, group=GROUP, has_offset=False)
    return bits_of(bits, group=group_of(weights, bits), has_offset=False)


def bits_of(bits: Bits, *, group: int, has_offset: bool) -> float:
    """Of a weight, with its share of what its group has."""
    return bits + (2 * SCALE_BITS if has_offset else BYTE_SCALE_BITS) / group


def _kernel(
    bits: Bits,
    group: int | None,
    *,
    dtype: DType,
    has_offset: bool,
    has_bias: bool,
    template: str = "weight_only_linear",
    chip: Chip | None = None,
    chip_name: str = "",
) -> WeightOnlyLinear:
    return WeightOnlyLinear(
        name="bf16_linear" if group is None else f"int{bits}_linear",
        template=template,
        dtype=dtype,
        language="cpp" if chip is None else "triton",
        chip=chip_name,
        bits=bits,
        group=group,
        has_backward=False,
        has_offset=has_offset,
        has_bias=has_bias,
        tiles=None if chip is None else product_tiles(bits=bits, number_bytes=BYTES[dtype], chip=chip),
    )


def _has_bias(spec: Spec) -> bool:
    """Whether any linear layer of the blocks, or the head, which may share the kernel, adds one."""
    model = spec.model
    attention = model.attention
    names = ("qkv_bias", "out_bias", "bias")
    return model.mlp.bias or model.head.bias or any(getattr(attention, name, False) for name in names)


def _bf16s(numbers: object) -> tuple[str, ...]:
    """Bit patterns of integers below 256, which bf16 has exactly."""
    return tuple(f"0x{_bits_of_float(float(each)) >> 16:04x}" for each in numbers)  # type: ignore[attr-defined]


def _bits_of_float(number: float) -> int:
    from struct import pack, unpack

    return unpack("<I", pack("<f", number))[0]
