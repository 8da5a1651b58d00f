"""The model: an architecture with every dimension filled in.

A user writes `preset:`, `family:` or `hf:` and any field that differs. The loader lays their fields over the preset's
before this class sees them, so after loading nothing is left to look up.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from .attention import Attention, Position
from .base import Node
from .feed_forward import Mlp, Moe, Norm
from .units import Count, Elements, Flag, Positive, Tokens


class Embedding(Node):
    """What happens to a token's vector before the first block."""

    scale: Positive | Literal["sqrt_hidden_size"] | None = Field(
        default=None, description="Factor on the embedding (Gemma: sqrt_hidden_size)."
    )
    norm: Flag = Field(default=False, description="A norm after the embedding (BLOOM).")


class SequentialBlock(Node):
    """Attention, then the feed-forward block, each with its residual."""

    kind: Literal["sequential"] = Field(description="Attention, then the feed-forward block.")
    norms: Literal["pre", "post", "sandwich"] = Field(
        default="pre",
        description="Where norms stand: before each part, after each residual sum, or before and after each part (Gemma 2).",
    )
    residual_scale: Positive | None = Field(
        default=None, description="Factor on what each part adds to the residual (Granite, MiniCPM)."
    )


class ParallelBlock(Node):
    """Attention and the feed-forward block read the same residual and are added together (GPT-J)."""

    kind: Literal["parallel"] = Field(description="Attention and the feed-forward block side by side.")
    norms: Literal["shared", "separate"] = Field(
        default="shared", description="One norm for both (GPT-J, Phi-2), or one each (GPT-NeoX, Falcon-40B)."
    )


class Head(Node):
    """The output projection."""

    bias: Flag = Field(default=False, description="A bias on the logits (GPT-J, Phi-2).")
    softcap: Positive | None = Field(
        default=None, description="Logits become softcap * tanh(logit / softcap) (Gemma 2: 30)."
    )
    scale: Positive | None = Field(default=None, description="Factor on the logits (Granite, MiniCPM).")
    normalize: Flag = Field(default=False, description="Each row of the head is divided by its norm (Baichuan 2).")


Block = Annotated[SequentialBlock | ParallelBlock, Field(discriminator="kind")]


def _num_kv_heads(data: dict[str, Any]) -> int:
    attention = data.get("attention")
    return 1 if attention is not None and attention.kind == "mqa" else data.get("num_heads", 1)


def _head_dim(data: dict[str, Any]) -> int:
    return max(1, data.get("hidden_size", 1) // data.get("num_heads", 1))


class Model(Node):
    """A transformer. Names of dimensions are those of Hugging Face configurations."""

    preset: str | None = Field(
        default=None, description="A model from the catalog, with every dimension filled in; any field overrides it."
    )
    family: str | None = Field(
        default=None, description="A block style from the catalog (llama, gpt2, …) for dimensions of your own."
    )
    hf: str | None = Field(
        default=None, description="A folder with a Hugging Face config.json, with or without safetensors."
    )

    kind: Literal["decoder", "encoder", "encoder_decoder"] = Field(
        default="decoder", description="What attends to what: decoders are causal."
    )
    hidden_size: Elements = Field(description="Width of the residual stream.")
    num_layers: Count = Field(description="Number of blocks.")
    num_heads: Count = Field(description="Query heads.")
    attention: Attention = Field(description="The attention kind and its options.")
    num_kv_heads: Count = Field(
        default_factory=_num_kv_heads, description="Key/value heads; by default num_heads (1 for mqa)."
    )
    head_dim: Elements = Field(
        default_factory=_head_dim, description="Size of a head; by default hidden_size / num_heads."
    )
    intermediate_size: Elements = Field(description="Width of the feed-forward block.")
    vocab_size: Elements = Field(description="Rows of the embedding.")
    max_seq_len: Tokens = Field(description="Longest sequence the model accepts.")
    tie_embeddings: Flag = Field(default=False, description="The output projection is the embedding.")
    embedding: Embedding = Field(
        default_factory=Embedding, description="What happens to a token's vector before the first block."
    )
    block: Block = Field(
        default=SequentialBlock(kind="sequential"), description="How the parts of a block are put together."
    )
    position: Position = Field(description="How positions reach the model.")
    mlp: Mlp = Field(description="The dense feed-forward block.")
    norm: Norm = Field(description="The norm used throughout.")
    moe: Moe | None = Field(default=None, description="A mixture of experts in place of the dense feed-forward block.")
    head: Head = Field(default_factory=Head, description="The output projection.")

    def is_moe_layer(self, layer: int) -> bool:
        """Whether layer number `layer`, counted from 0, has experts."""
        if self.moe is None or layer < self.moe.first_dense_layers:
            return False
        return (layer - self.moe.first_dense_layers + 1) % self.moe.every == 0
