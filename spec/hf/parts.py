"""Statements that many model types share: dimensions, heads, norms, sliding windows, which layers have experts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .fields import REQUIRED, Always, Both, Key, Piece, Reader, UnsupportedConfig, Values, get_path, set_path

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu2",
    "silu": "silu",
    "swish": "silu",
}
"""Plain activations. gelu_new, gelu_fast and gelu_pytorch_tanh are three spellings of one formula."""

GATED_ACTIVATIONS = {
    "silu": "swiglu",
    "swish": "swiglu",
    "gelu_pytorch_tanh": "geglu_tanh",
    "gelu_new": "geglu_tanh",
    "gelu": "geglu",
}

DIMENSIONS: tuple[Piece, ...] = (
    Key("hidden_size", "hidden_size"),
    Key("intermediate_size", "intermediate_size"),
    Key("num_hidden_layers", "num_layers"),
    Key("vocab_size", "vocab_size"),
    Key("max_position_embeddings", "max_seq_len"),
)

PRE_NORM = Always({"block": {"kind": "sequential", "norms": "pre"}})


def tied(default: bool) -> Key:
    """Whether the head is the embedding; the default differs between types."""
    return Key("tie_word_embeddings", "tie_embeddings", default=default)


def rms_norm(key: str = "rms_norm_eps", *, default: Any = 1e-6, unit_offset: bool = False) -> tuple[Piece, ...]:
    """An RMSNorm with this key for its epsilon."""
    return (Always({"norm.kind": "rmsnorm", "norm.unit_offset": unit_offset}), Key(key, "norm.eps", default=default))


def layer_norm(key: str, *, bias: bool = True, unit_offset: bool = False) -> tuple[Piece, ...]:
    """A layer norm with this key for its epsilon."""
    kind = Always({"norm.kind": "layernorm", "norm.bias": bias, "norm.unit_offset": unit_offset})
    return (kind, Key(key, "norm.eps", default=1e-5))


def attention_kind(num_heads: int, num_kv_heads: int) -> str:
    """mha, mqa or gqa, by the number of key/value heads."""
    if num_kv_heads == num_heads:
        return "mha"
    return "mqa" if num_kv_heads == 1 else "gqa"


def heads(
    *,
    heads_key: str | tuple[str, ...] = "num_attention_heads",
    kv_key: str | None = "num_key_value_heads",
    head_dim_key: str | None = "head_dim",
    kv_default: int | None = None,
    head_dim_default: int | None = None,
    num_heads_default: Any = REQUIRED,
) -> Both:
    """Query heads, key/value heads and their size. Where a type has no key for one, it follows from the others."""
    names = (heads_key,) if isinstance(heads_key, str) else heads_key

    def read(config: Reader, values: Values) -> None:
        num_heads = config.take(*names, default=num_heads_default)
        num_kv_heads = num_heads if kv_key is None else config.take(kv_key, default=kv_default or num_heads)
        head_dim = head_dim_default or values["hidden_size"] // num_heads
        if head_dim_key is not None:
            head_dim = config.take(head_dim_key, default=head_dim)
        values.update(num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=head_dim)
        set_path(values, "attention.kind", attention_kind(num_heads, num_kv_heads))

    def write(values: Values, config: Values) -> None:
        config[names[0]] = values["num_heads"]
        if kv_key is not None:
            config[kv_key] = values["num_kv_heads"]
        if head_dim_key is not None:
            config[head_dim_key] = values["head_dim"]

    return Both(read, write)


def inner_size(key: str) -> Both:
    """The feed-forward width; absent means four times the hidden size."""

    def read(config: Reader, values: Values) -> None:
        values["intermediate_size"] = config.take(key, default=4 * values["hidden_size"])

    def write(values: Values, config: Values) -> None:
        config[key] = values["intermediate_size"]

    return Both(read, write)


def layer_types(values: Values) -> list[str]:
    """transformers' list of what each layer attends to, from our window and global_every."""
    window, every = get_path(values, "attention.window"), get_path(values, "attention.global_every")
    kinds = []
    for layer in range(1, values["num_layers"] + 1):
        is_global = window is None or (every is not None and layer % every == 0)
        kinds.append("full_attention" if is_global else "sliding_attention")
    return kinds


def set_window(values: Values, *, window: int | None, kinds: Sequence[str]) -> None:
    """Our window and global_every from a list of layer types; a pattern that is not `each N-th is global` is an error.

    A window that holds the longest sequence never acts, and is none.
    """
    unknown = set(kinds) - {"full_attention", "sliding_attention"}
    if unknown:
        raise UnsupportedConfig("layer_types", f"{unknown.pop()!r} is no attention that llmc knows")
    first = next((i for i, kind in enumerate(kinds, 1) if kind == "full_attention"), None)
    if first == 1 and "sliding_attention" in kinds:
        raise UnsupportedConfig("layer_types", "a window with the first layer global cannot be expressed")
    if window is not None and window >= values["max_seq_len"]:
        window, kinds, first = None, ["full_attention"] * len(kinds), 1
    if first == 1:
        window = None
    attention = values.setdefault("attention", {})
    attention["window"] = window
    attention["global_every"] = first if window is not None else None
    if window is None and "sliding_attention" in kinds:
        raise UnsupportedConfig("sliding_window", "the key is missing")
    if layer_types(values) != list(kinds):
        raise UnsupportedConfig("layer_types", "only a pattern in which each N-th layer is global can be expressed")


def _read_plain_window(config: Reader, values: Values) -> None:
    kinds = config.take("layer_types", default=None)
    window = config.take("sliding_window", default=None)
    everywhere = ["full_attention" if window is None else "sliding_attention"] * values["num_layers"]
    set_window(values, window=window, kinds=kinds or everywhere)


def _write_plain_window(values: Values, config: Values) -> None:
    config["sliding_window"] = get_path(values, "attention.window")


PLAIN_WINDOW = Both(_read_plain_window, _write_plain_window)
"""`sliding_window` on all layers (Mistral, Mixtral, Phi-3); a null is none. `global_every` cannot be written."""


def alternating_window(*, window_default: int, every: int) -> Both:
    """`sliding_window` with each N-th layer global: the list `layer_types`, or the type's habit where it is absent."""

    def read(config: Reader, values: Values) -> None:
        window = config.take("sliding_window", default=window_default)
        period = config.take("sliding_window_pattern", "_sliding_window_pattern", default=every)
        habit = [
            "full_attention" if layer % period == 0 else "sliding_attention"
            for layer in range(1, values["num_layers"] + 1)
        ]
        set_window(values, window=window, kinds=config.take("layer_types", default=habit))

    def write(values: Values, config: Values) -> None:
        config["sliding_window"] = get_path(values, "attention.window") or values["max_seq_len"]
        config["layer_types"] = layer_types(values)

    return Both(read, write)


def _read_gated_window(config: Reader, values: Values) -> None:
    is_used = config.take("use_sliding_window", default=False)
    window = config.take("sliding_window", default=4096) if is_used else None
    first = config.take("max_window_layers", default=28)
    config.take("sliding_window")
    num_layers = values["num_layers"]
    habit = ["sliding_attention" if window and layer >= first else "full_attention" for layer in range(num_layers)]
    set_window(values, window=window, kinds=config.take("layer_types", default=habit))


def _write_gated_window(values: Values, config: Values) -> None:
    window = get_path(values, "attention.window")
    config.update(use_sliding_window=window is not None, sliding_window=window)
    config["max_window_layers"] = values["num_layers"] if window is None else 0
    if window is not None:
        config["layer_types"] = layer_types(values)


GATED_WINDOW = Both(_read_gated_window, _write_gated_window)
"""Qwen: `use_sliding_window` switches it, `max_window_layers` (older) or `layer_types` says where."""


def expert_flags(values: Values) -> list[bool]:
    """For each layer, whether it has experts: the rule of `Model.is_moe_layer`."""
    first, every = get_path(values, "moe.first_dense_layers") or 0, get_path(values, "moe.every") or 1
    return [layer >= first and (layer - first + 1) % every == 0 for layer in range(values["num_layers"])]


def set_expert_layers(values: Values, flags: Sequence[bool], *, key: str) -> None:
    """Our first_dense_layers and every from a list of flags.

    Layers with experts are first - 1 + every, first - 1 + 2 every …: their distance is `every`, and the first of them
    gives `first`.
    """
    sparse = [layer for layer, has_experts in enumerate(flags) if has_experts]
    every = sparse[1] - sparse[0] if len(sparse) > 1 else sparse[0] + 1 if sparse else 1
    first = sparse[0] + 1 - every if sparse else len(flags)
    set_path(values, "moe.first_dense_layers", first)
    set_path(values, "moe.every", every)
    if first < 0 or expert_flags(values) != list(flags):
        raise UnsupportedConfig(key, "only experts in each N-th layer after some dense ones can be expressed")
