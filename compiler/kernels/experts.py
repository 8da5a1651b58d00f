"""Experts of a server on a GPU: which ones a token visits, and products with a matrix an expert.

Fuses    softmax or sigmoid -> top-k -> weights; and the products of all experts in one start, however uneven their rows.
Applies  to the servers of serving.py on GPUs. Routing is PyTorch's where experts are chosen group by group; few bits are refused.
Cost     a step reads each visited expert once. Blocks of 16 rows, as few tokens are for one expert; no count goes to the host.
Truth    runtimes/reference/experts.py: choose_experts, grouped_linear
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .kernel import Kernel, LeftAlone
from .serving_tiles import ExpertTiles, expert_tiles
from .tiles import power_of_two

if TYPE_CHECKING:
    from ...spec.feed_forward import Moe
    from .chips import Chip
    from .kernel import DType


@dataclass(frozen=True, kw_only=True)
class ChooseExperts(Kernel):
    num_experts: int
    per_token: int
    score: Literal["softmax", "sigmoid"]
    normalize: bool
    scale: float
    has_bias: bool
    """Whether a bias takes part in who is chosen, and not in the weights."""

    @property
    def python_side(self) -> str:
        return f"ops/{self.template}"

    @property
    def expert_block(self) -> int:
        return power_of_two(self.num_experts)

    @property
    def visit_block(self) -> int:
        return power_of_two(self.per_token)

    @property
    def fuses(self) -> str:
        return f"{self.score}, top-{self.per_token} of {self.num_experts}, weights"

    @property
    def price(self) -> str:
        return "five ops a layer in place of one"


@dataclass(frozen=True, kw_only=True)
class ExpertLinear(Kernel):
    num_experts: int
    tiles: ExpertTiles

    @property
    def python_side(self) -> str:
        return f"ops/{self.template}"

    @property
    def expert_block(self) -> int:
        return power_of_two(self.num_experts)

    @property
    def fuses(self) -> str:
        return f"products of {self.num_experts} experts"

    @property
    def price(self) -> str:
        return "PyTorch's grouped product, or a product for each expert"


def choose_experts(
    moe: Moe, *, dtype: DType, chip: Chip, chip_name: str
) -> tuple[ChooseExperts | LeftAlone, ExpertLinear]:
    router = moe.router
    products = ExpertLinear(
        name="expert_linear",
        template="expert_linear",
        dtype=dtype,
        language="triton",
        chip=chip_name,
        has_backward=False,
        num_experts=moe.num_experts,
        tiles=expert_tiles(number_bytes=4 if dtype == "fp32" else 2, chip=chip),
    )
    if router.groups > 1:
        return LeftAlone("experts are chosen group by group"), products
    routing = ChooseExperts(
        name="choose_experts",
        template="choose_experts",
        dtype="fp32",
        language="triton",
        chip=chip_name,
        has_backward=False,
        num_experts=moe.num_experts,
        per_token=moe.experts_per_token,
        score=router.score,
        normalize=router.normalize,
        scale=router.scale,
        has_bias=router.balance == "bias",
    )
    return routing, products
