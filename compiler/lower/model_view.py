"""What templates read of a model: names, sizes and words, ready to be printed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .latent import LatentView

if TYPE_CHECKING:
    from .attention import AttentionView
    from .experts import ExpertsView
    from .layers import LayersView
    from .parallel import ContextView, TensorView
    from .pipeline import PipelineView
    from .position import PositionView
    from .spmd import SpmdView


BlockKind = Literal["pre", "post", "sandwich", "parallel_shared", "parallel_separate"]


@dataclass(frozen=True)
class NormView:
    kind: str
    eps: float
    bias: bool
    unit_offset: bool


@dataclass(frozen=True)
class MlpView:
    size: int
    sizes: tuple[int, ...]
    """Two where dense layers and shared experts differ, none where every layer has nothing but routed experts."""
    activation: str
    expression: str
    """The activation applied to `gate` or, without a gate, to `self.up(x)`."""
    doc: str
    is_gated: bool
    bias: bool
    kernel: str | None
    """The kernel from the output of gate_up to that of down, where there is one."""
    gate_kernel: str | None
    """The kernel from the output of gate_up to the input of down."""

    @property
    def of_experts(self) -> str:
        """The activation of experts without a gate, applied to `up`."""
        return self.expression.replace("self.up(x)", "up")

    @property
    def takes_size(self) -> bool:
        """Whether a module is told its width."""
        return len(self.sizes) > 1


@dataclass(frozen=True)
class ModelView:
    """What templates/pytorch/model.py.j2 needs, under the name `m`."""

    name: str
    origin: str
    num_parameters: str
    summary: tuple[str, ...]
    hidden_size: int
    num_layers: int
    vocab_size: int
    embed_scale: float | None
    embed_norm: bool
    norm: NormView
    position: PositionView
    attention: AttentionView | LatentView
    mlp: MlpView
    experts: ExpertsView | None
    block: BlockKind
    block_doc: str
    layers: LayersView
    tie_embeddings: bool
    head_bias: bool
    head_softcap: float | None
    head_scale: float | None
    """Factor on the logits."""
    residual_scale: float | None
    """Factor on what each part of a block adds to the residual stream."""
    recompute: str
    has_loss: bool
    has_decode: bool
    kernels: tuple[str, ...]
    """Names of the kernels that this model calls, in the order of the alphabet."""
    tp: TensorView | None = None
    """Of a rank of several: then sizes above are those of its part."""
    spmd: SpmdView | None = None
    """Of a program for TPUs, whose sizes are whole."""
    cp: ContextView | None = None
    pp: PipelineView | None = None
    is_parallel: bool = False
    """Whether the program is for several devices."""
    loss_chunk: int = 0
    """Tokens whose logits exist at a time, where the vocabulary is cut over tp or labels are drawn."""
    z_loss: float = 0.0
    has_npu_norm: bool = False
    """Whether norms are the one kernel that torch-npu has for them."""
    has_npu_rotary: bool = False
    """Whether queries and keys are rotated by the one op that torch-npu has for it."""
    recomputes_some: bool = False
    """Whether layers differ in what they compute again, which is applied from outside."""
    draws_labels: bool = False
    """Whether training needs losses of labels that are drawn from the model's own prediction."""
    has_int8_cache: bool = False
    """Whether a server keeps keys and values as codes of 8 bits."""
    heads_first: bool = False
    """Whether a server keeps keys and values head by head, as one on TPUs does."""
    is_fp8: bool = False
    """Whether linear layers of blocks multiply in fp8."""
    packed: PackedView | None = None
    """Of a server whose weights are kept in the order in which kernels read them."""

    @property
    def linear(self) -> str:
        """The class of linear layers in blocks."""
        if self.packed:
            return self.packed.linear
        return "Fp8Linear" if self.is_fp8 else "Linear" if "linear" in self.kernels else "nn.Linear"

    @property
    def head_linear(self) -> str:
        return self.packed.head if self.packed else "nn.Linear"

    @property
    def imports(self) -> tuple[tuple[str, str], ...]:
        """Each kernel's module, and what model.py takes from it."""
        packed = self.packed.imports if self.packed else ()
        names = {name: name for name in self.kernels}
        if "linear" in names:
            names["linear"] = "Linear"
        if self.replays:
            names["decode_attention"] = "decode_attention, new_replay"
        return tuple(sorted({*names.items(), *packed}))

    @property
    def axes(self) -> AxesView:
        """What modules are told of the axes that they communicate along."""
        axes = {"tp": self.tp is not None, "cp": self.cp is not None, "ep": self.ep}
        return AxesView(tuple(name for name, is_used in axes.items() if is_used))

    @property
    def ep(self) -> bool:
        """Whether experts are spread over an axis of their own, along which tokens travel."""
        experts = self.experts
        return experts is not None and experts.num_experts * experts.rank_groups < experts.num_whole

    @property
    def has_own_experts(self) -> bool:
        """Whether groups of a server's ranks of tp have experts of their own, and each works on the tokens that visit them."""
        return self.experts is not None and self.experts.rank_groups > 1

    @property
    def expert_imports(self) -> tuple[str, ...]:
        """What is called of runtimes/pytorch/experts.py."""
        if self.experts is None:
            return ()
        calls = {
            "grouped_linear": self.grouped_linear == "grouped_linear" and self.spmd is None,
            "of_first_pass": self.routes_again and self.spmd is None,
            "put_back": not self.has_own_experts and self.spmd is None,
            "wide_linear": self.experts.is_router_fp32,
        }
        return tuple(name for name, is_used in calls.items() if is_used)

    @property
    def expert_calls(self) -> tuple[str, ...]:
        """What is called of runtimes/pytorch/parallel/expert.py."""
        if self.experts is None or not self.is_parallel:
            return ()
        calls = {
            "add_visits": self.experts.counts_visits and self.pp is None,
            "from_experts": self.ep,
            "mean_over": self.cp is not None and self.experts.aux_loss_weight > 0,
            "own_visits": self.has_own_experts,
            "shared_loss": self.tp is not None and self.experts.has_router_loss,
            "to_experts": self.ep,
        }
        return tuple(name for name, is_used in calls.items() if is_used)

    @property
    def block_params(self) -> str:
        """What a block is told when it is made, in a model whose layers differ."""
        names = [name for name, _ in self._differences]
        return ", ".join(f"{name}: bool" for name in names)

    @property
    def block_args(self) -> str:
        """The same for layer number `i`."""
        return ", ".join(f"{name}={condition}" for name, condition in self._differences)

    @property
    def _differences(self) -> list[tuple[str, str]]:
        every = self.layers.global_every
        windows = [("is_global", f"i % {every} == {every - 1}")] if self.layers.is_mixed else []
        condition = self.experts.layer_condition if self.experts else ""
        return [*windows, *([("has_experts", condition)] if condition else [])]

    @property
    def feed_forward(self) -> str:
        """How a block makes its feed-forward part."""
        if self.experts is None:
            return self.make_mlp(self.mlp.size)
        moe = f"Moe({self.axes.args('tp', 'cp', 'ep') if self.experts.aux_loss_weight else self.axes.args('tp', 'ep')})"
        return f"{moe} if has_experts else {self.make_mlp(self.mlp.size)}" if self.experts.layer_condition else moe

    @property
    def has_summands(self) -> bool:
        """Whether tp cuts shared experts, whose output is summed over ranks along with that of routed ones."""
        return self.tp is not None and self.experts is not None and self.experts.shared_size is not None

    def make_mlp(self, size: int) -> str:
        """How an Mlp of that width is made."""
        size_arg = [str(size)] if self.mlp.takes_size or self.has_summands else []
        axes = self.axes.of("tp") if not self.has_summands or (self.experts and self.experts.layer_condition) else ()
        return f"Mlp({', '.join([*axes, *size_arg])})"

    @property
    def feed_forward_words(self) -> str:
        if self.experts is None:
            return str(self.mlp.size)
        dense = f" ({self.mlp.size} in dense layers)" if self.experts.layer_condition else ""
        return f"{self.experts.size} of an expert{dense}"

    @property
    def gates_again(self) -> bool:
        """Whether the backward pass computes the gated activation again, in place of keeping what it is made of."""
        is_training = self.has_loss and self.recompute != "full"
        has_dense = bool(self.mlp.sizes) and not self.has_summands
        has_kernel = self.mlp.kernel is not None or self.mlp.gate_kernel is not None
        has_one_size = not self.mlp.takes_size or self.spmd is None
        return is_training and has_dense and self.mlp.is_gated and not has_kernel and has_one_size

    @property
    def add_norm(self) -> str:
        """The kernel of the residual sum and the norm after it; empty without one."""
        return next((name for name in self.kernels if name.startswith("add_")), "")

    @property
    def grouped_linear(self) -> str:
        """What multiplies rows with a matrix an expert."""
        return "expert_linear" if "expert_linear" in self.kernels else "grouped_linear"

    @property
    def decode_attention(self) -> bool:
        """Whether running answers have a kernel for their attention."""
        return "decode_attention" in self.kernels

    @property
    def angle_width(self) -> int:
        """Numbers of cos and sin a token: one a pair, or two where an op of torch-npu wants them beside each number of the head."""
        return self.position.rotary_dims if self.has_npu_rotary else self.position.rotary_dims // 2

    @property
    def paged_attention(self) -> bool:
        """Whether running answers have an op for attention to blocks of the cache, which is told lengths on the host."""
        return "paged_attention" in self.kernels

    @property
    def cache_template(self) -> str:
        """Of keys and values."""
        if self.attention.kind == "mla":
            return "pytorch/attention/latent_cache.py.j2"
        if self.heads_first:
            return "xla/kv_cache.py.j2"
        return "pytorch/kernel_cache.py.j2" if self.prefill_attention else "pytorch/kv_cache.py.j2"

    @property
    def prefill_attention(self) -> bool:
        """Whether prompts have one as well; then pieces of several are computed together, and no step has a mask."""
        return "prefill_attention" in self.kernels

    @property
    def replays(self) -> bool:
        """Whether layers do nothing but start kernels for running answers, so that these are recorded once."""
        has_gate = self.mlp.gate_kernel is not None
        return self.prefill_attention and bool(self.add_norm) and has_gate and bool(self.layers.decode.rope)

    @property
    def attends_by_hand(self) -> bool:
        """Whether scores are computed step by step anywhere: a kernel knows caps, and does no decoding."""
        return self.attention.is_eager and (self.has_decode or "causal_attention" not in self.kernels)

    @property
    def experts_gate_again(self) -> bool:
        """The same for the activation of experts."""
        return self.has_loss and self.recompute != "full" and self.experts is not None and self.mlp.is_gated

    @property
    def routes_again(self) -> bool:
        """Whether the backward pass computes routers again that have a loss of their own."""
        has_loss = self.experts is not None and self.experts.has_router_loss
        return has_loss and (self.recompute == "full" or self.recomputes_some) and self.spmd is None

    @property
    def has_final_norm(self) -> bool:
        """A post-norm block ends with a norm of its own."""
        return self.block != "post"

    @property
    def needs_positions(self) -> bool:
        """Whether the forward pass works with positions at all."""
        forward = self.layers.forward
        is_added = self.position.kind in ("learned", "sinusoidal")
        return is_added or self.layers.is_mixed or bool(forward.rope or forward.mask)

    @property
    def uses_math(self) -> bool:
        rope = self.position.rope
        is_masked_by_hand = self.attends_by_hand or self.position.kind == "alibi"
        has_room = self.experts is not None and self.experts.capacity_factor is not None and self.spmd is None
        if has_room or (self.experts is not None and self.experts.groups > 1):
            return True
        return is_masked_by_hand or (rope is not None and rope.scaling == "llama3")

    @property
    def has_row_bias(self) -> bool:
        """Whether a bias is added to the sum of what ranks of tp give."""
        return self.tp is not None and (self.attention.out_bias or self.mlp.bias)

    @property
    def uses_functional(self) -> bool:
        """Whether anything of torch.nn.functional is called."""
        if self.experts is not None and "F." in self.mlp.expression:
            return True
        has_sdpa = not self.attention.is_eager and (self.has_decode or "causal_attention" not in self.kernels)
        has_sdpa = has_sdpa and (self.spmd is None or self.has_decode)
        has_sdpa = has_sdpa and (self.cp is None or self.cp.kind == "ulysses")
        has_row_bias = self.has_row_bias and not self.is_fp8
        has_logits = self.tp is None or not self.has_loss
        is_tied = self.norm.unit_offset or (self.tie_embeddings and has_logits and self.packed is None)
        has_kernel = self.mlp.kernel is not None or self.mlp.gate_kernel is not None
        return is_tied or has_sdpa or has_row_bias or (not has_kernel and "F." in self.mlp.expression)

    @property
    def uses_torch(self) -> bool:
        """Whether anything of torch itself is called, beside Tensor and nn."""
        return (
            self.has_decode
            or (self.needs_positions and (self.cp is None or self.position.kind in ("rope", "sinusoidal")))
            or self.norm.unit_offset
            or self.attends_by_hand
            or self.head_softcap is not None
            or self.mlp.activation == "clamped_swiglu"
            or self.experts is not None
            or (self.tie_embeddings and self.head_bias)
        )


@dataclass(frozen=True)
class PackedView:
    """Linear layers of kernels."""

    linear: str
    """The class of those in blocks."""
    head: str
    imports: tuple[tuple[str, str], ...]
    """Module and class."""
    torch_dtype: str
    """Of activations."""


@dataclass(frozen=True)
class AxesView:
    names: tuple[str, ...]

    def params(self, *names: str) -> str:
        """Parameters of a constructor after `self`, starting with a comma; of all axes, or of those named."""
        return "".join(f", {name}: Axis" for name in self._wanted(names))

    def args(self, *names: str) -> str:
        return ", ".join(self._wanted(names))

    def of(self, *names: str) -> tuple[str, ...]:
        """Those of the named axes that there are."""
        return self._wanted(names)

    def _wanted(self, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for name in self.names if not names or name in names)
