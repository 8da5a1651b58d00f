"""Residual sum + norm.

Fuses    add -> rms_norm or layer_norm, so that the residual stream is read and written once a norm.
Applies  to programs whose blocks norm first (`block: {kind: sequential, norms: pre}`) and add their parts as they are (no
         `residual_scale`). C++ knows RMSNorm on one CPU; Triton and Pallas both norms, and all layouts but pipelines.
Cost     a token: reads x and the branch, writes the stream and its normed copy. Where the stream is wider than the normed
         numbers, those are kept in its place: D numbers of 2 bytes in place of 4. Pallas keeps the stream alone.
Truth    runtimes/reference/norm.py: add_rms_norm, add_layer_norm
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .kernel import BYTES, TORCH_TYPES, DType, Kernel, LeftAlone
from .tiles import MAX_ROW, RowTile, whole_row
from .tpus import TokenBlock, token_block

if TYPE_CHECKING:
    from .setting import Setting
    from .tpus import Tpu


@dataclass(frozen=True, kw_only=True)
class AddNorm(Kernel):
    hidden_size: int
    eps: float
    unit_offset: bool
    is_layer: bool = False
    has_bias: bool = False
    stream_dtype: DType = "fp32"
    tiles: RowTile | TokenBlock | None = None

    @property
    def python_side(self) -> str:
        if self.is_pallas:
            return "xla/add_norm"
        if self.language == "npu":
            return "npu/add_rms_norm"
        if not self.has_backward:
            return "ops/add_rms_norm_forward"
        return "ops/add_norm" if self.is_triton else super().python_side

    @property
    def title(self) -> str:
        return "LayerNorm" if self.is_layer else "RMSNorm"

    @property
    def eager(self) -> str:
        return self.name

    @property
    def fuses(self) -> str:
        return f"residual sum, {self.title}"

    @property
    def keeps_total(self) -> bool:
        """Whether the backward pass reads the sum, which is there anyway; else normed numbers, which are narrower."""
        return self.is_pallas or (self.is_triton and self.stream_dtype == self.dtype)

    @property
    def saved_bytes(self) -> int:
        """What a token keeps for the backward pass."""
        return self.hidden_size * self.number_bytes + 4

    @property
    def spared_bytes(self) -> float:
        """The norm's read of the sum, less the normed numbers where they are written."""
        written = 0 if self.keeps_total else self.number_bytes
        return float(self.hidden_size * (BYTES[self.stream_dtype] - written))

    @property
    def spared_kept_bytes(self) -> float:
        return float(self.hidden_size * (BYTES[self.stream_dtype] - self.number_bytes))

    @property
    def kept_words(self) -> str:
        if self.keeps_total:
            return "each row's mean and 1 / deviation" if self.is_layer else "each row's 1 / rms"
        return f"normed numbers and 1 / {'deviation' if self.is_layer else 'rms'}"

    @property
    def why(self) -> str:
        if not self.has_backward:
            return "It reads and writes each number once."
        if self.is_pallas:
            return "It reads and writes each number once; for the backward pass it keeps the sum alone, which is there anyway."
        if self.keeps_total:
            return (
                f"It reads and writes each number once; for the backward pass it keeps the sum, and {self.kept_words}."
            )
        figure = "1 / deviation" if self.is_layer else "1 / rms"
        return f"It keeps {self.saved_bytes:,} bytes a token for the backward pass: the normed numbers, and {figure}."

    @property
    def outputs_type(self) -> str:
        count = 3 + (not self.keeps_total) + (self.is_layer and self.keeps_total)
        return f"tuple[{', '.join(['Tensor'] * count)}]"

    @property
    def gradients_type(self) -> str:
        return "tuple[Tensor, Tensor]" if self.keeps_total else "tuple[Tensor, Tensor, Tensor]"

    @property
    def torch_stream_dtype(self) -> str:
        return TORCH_TYPES[self.stream_dtype]


def choose(setting: Setting) -> AddNorm | LeftAlone:
    model, dtype, language = setting.model, setting.dtype, setting.language
    norm = model.norm
    is_layer = norm.kind == "layernorm"
    reason = _reason(setting, is_layer=is_layer)
    if reason is not None:
        return LeftAlone(reason)
    assert dtype is not None
    assert language is not None
    return AddNorm(
        name="add_layer_norm" if is_layer else "add_rms_norm",
        template="add_rms_norm" if language == "cpp" else "add_norm",
        dtype=dtype,
        language=language,
        chip=setting.chip_name,
        hidden_size=model.hidden_size,
        eps=norm.eps,
        unit_offset=norm.unit_offset,
        is_layer=is_layer,
        has_bias=norm.kind == "layernorm" and norm.bias,
        stream_dtype="fp32" if language == "cpp" else setting.stream_dtype,
        tiles=_tiles(setting),
    )


def _tiles(setting: Setting) -> RowTile | TokenBlock | None:
    size, number_bytes = setting.model.hidden_size, BYTES[setting.dtype or "fp32"]
    if setting.chip is not None:
        return whole_row(size, setting.chip)
    return None if setting.tpu is None else norm_block(size, number_bytes=number_bytes, tpu=setting.tpu)


def norm_block(size: int, *, number_bytes: int, tpu: Tpu) -> TokenBlock:
    """The backward pass has the most: the sum, two gradients and what it gives; in fp32, normed numbers and theirs."""
    return token_block(size, blocks=4, wide=3, number_bytes=number_bytes, tpu=tpu)


def _reason(setting: Setting, *, is_layer: bool) -> str | None:
    """What stands against the kernel."""
    block = setting.model.block
    if setting.language is None:
        return setting.no_compiler
    if block.kind != "sequential" or block.norms != "pre":
        return "the norms of these blocks do not follow a residual sum alone"
    if block.residual_scale is not None:
        return "parts are scaled before they are added"
    if is_layer and setting.language == "cpp":
        return "there is no LayerNorm in C++"
    if setting.layout.pp > 1:
        return "stages of a pipeline hand on one tensor, and the sum of two has to be made there anyway"
    if setting.is_tpu and setting.layout.recompute == "full":
        return "full recompute keeps what blocks hand on, which would be two tensors"
    if setting.model.hidden_size > MAX_ROW and setting.chip is not None:
        return f"a row of {setting.model.hidden_size} numbers does not fit into one block's registers"
    return None
