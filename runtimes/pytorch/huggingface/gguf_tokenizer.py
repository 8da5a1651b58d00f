"""The tokenizer of a GGUF file, as the `tokenizers` library has it.

GGUF holds tokens and merges, but of the pre-tokenizer (how text is cut before any merge) only a name. Reading the rest
and leaving that out gives other token ids, for numbers first of all; so a name that is not in the table is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from ...common.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_USE_SAFETENSORS = "import the same model's safetensors checkpoint, with its tokenizer.json, instead"

_CONTROL, _USER_DEFINED = 3, 4
"""Token types: special, and added without being special."""

_GPT4_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    "{digits}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _byte_level(*before: pre_tokenizers.PreTokenizer, use_regex: bool = True) -> pre_tokenizers.PreTokenizer:
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    return pre_tokenizers.Sequence([*before, byte_level]) if before else byte_level


def _split(digits: str) -> pre_tokenizers.PreTokenizer:
    pattern = Regex(_GPT4_SPLIT.replace("{digits}", digits))
    return _byte_level(pre_tokenizers.Split(pattern, behavior="isolated"), use_regex=False)


@dataclass(frozen=True)
class _Kind:
    """What a name of `tokenizer.ggml.pre` stands for."""

    pre_tokenizer: Callable[[], pre_tokenizers.PreTokenizer]
    is_normalised: bool = False
    """To Unicode's NFC."""
    ignores_merges: bool = False
    """A word that is a token is taken whole, whatever the merges say."""
    adds_bos: bool = False
    """Unless the file says otherwise."""


_KINDS = {
    "gpt-2": _Kind(_byte_level),
    "smollm": _Kind(lambda: _byte_level(pre_tokenizers.Digits(individual_digits=True))),
    "qwen2": _Kind(lambda: _split(""), is_normalised=True),
    "llama-bpe": _Kind(lambda: _split("{1,3}"), ignores_merges=True, adds_bos=True),
}


def build_tokenizer(fields: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that the key-value part of a GGUF file describes; RunError if it is of an unknown kind."""
    tokens, kind = _tokens(fields), _kind(fields)
    try:
        merges = [tuple(merge.split(" ", 1)) for merge in fields.get("tokenizer.ggml.merges", [])]
        vocab = {token: i for i, token in enumerate(tokens)}
        tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=kind.ignores_merges))  # type: ignore[arg-type]
    except Exception as problem:  # the library raises plain Exception
        raise RunError(f"the GGUF file's tokenizer is damaged: {problem}", help="fetch the file again") from problem
    if kind.is_normalised:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = kind.pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    _add_tokens(tokenizer, tokens, types=fields.get("tokenizer.ggml.token_type", []))
    bos = _token(fields, "bos")
    if bos is not None and fields.get("tokenizer.ggml.add_bos_token", kind.adds_bos):
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[bos, "$A"], pair=[bos, "$A", bos, "$B:1"], special_tokens=[(bos, tokens.index(bos))]
        )
    return tokenizer


def describe(fields: Mapping[str, Any]) -> dict[str, Any]:
    """tokenizer_config.json: the special tokens by name, and the chat template."""
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    for role, key in (("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown"), ("pad_token", "padding")):
        token = _token(fields, key)
        if token is not None:
            config[role] = token
    template = fields.get("tokenizer.chat_template")
    if isinstance(template, str):
        config["chat_template"] = template
    return config


def _kind(fields: Mapping[str, Any]) -> _Kind:
    model, pre = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre")
    if model != "gpt2":
        raise RunError(f"the GGUF file has a {model} tokenizer; known: gpt2 (byte-level BPE)", help=_USE_SAFETENSORS)
    if pre not in _KINDS:
        known = ", ".join(sorted(_KINDS))
        raise RunError(f"the GGUF file names the pre-tokenizer {pre}; known: {known}", help=_USE_SAFETENSORS)
    return _KINDS[pre]


def _tokens(fields: Mapping[str, Any]) -> list[str]:
    tokens = fields.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens:
        raise RunError("the GGUF file has no tokens", help=_USE_SAFETENSORS)
    return tokens


def _token(fields: Mapping[str, Any], key: str) -> str | None:
    """The token that has a role: bos, eos and so on."""
    tokens, index = _tokens(fields), fields.get(f"tokenizer.ggml.{key}_token_id")
    return tokens[index] if isinstance(index, int) and 0 <= index < len(tokens) else None


def _add_tokens(tokenizer: Tokenizer, tokens: list[str], *, types: list[int]) -> None:
    """Tokens that are found in a text before it is cut."""
    add = {_CONTROL: tokenizer.add_special_tokens, _USER_DEFINED: tokenizer.add_tokens}
    for token, token_type in zip(tokens, types, strict=False):
        if token_type in add:
            add[token_type]([AddedToken(token, special=token_type == _CONTROL, normalized=False)])
