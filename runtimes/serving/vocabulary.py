"""Text to tokens and back, and what a checkpoint says about both: end tokens, first token, chat template.

Files are those of Hugging Face checkpoints: tokenizer.json, and if there are any, tokenizer_config.json,
generation_config.json and chat_template.jinja. All are JSON or text; nothing is executed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from ..common.errors import RunError

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

# Names that mean "the end" wherever they are used, for a tokenizer.json that comes without a configuration.
END_NAMES = (
    "<|endoftext|>",
    "</s>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|end_of_text|>",
    "<eos>",
    "<|end|>",
    "<end_of_turn>",
)
SPACE = "\u2581"  # how SentencePiece vocabularies write a space


class VocabularyError(RunError):
    """The tokenizer cannot be used."""


class Vocabulary(Protocol):
    """What the server needs of a tokenizer."""

    num_tokens: int  # ids are below this
    eos: frozenset[int]
    bos: int | None

    def encode(self, text: str, *, add_special: bool) -> list[int]:
        """Token ids. With `add_special`, what the tokenizer puts around a text (usually a first token)."""
        ...

    def piece(self, token: int) -> bytes:
        """The bytes a token adds to the text; none for a special token."""
        ...

    def spelling(self, token: int) -> bytes:
        """As `piece`, but a special token shows its name."""
        ...


class HubVocabulary:
    """A vocabulary read by the `tokenizers` library."""

    def __init__(self, tokenizer: Tokenizer, *, eos: frozenset[int], bos: int | None = None) -> None:
        self.tokenizer = tokenizer
        self.num_tokens = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        self.eos = eos
        self.bos = bos
        self._added: dict[int, AddedToken] = tokenizer.get_added_tokens_decoder()
        self._spell = _speller(tokenizer)
        self._pieces: dict[int, bytes] = {}

    def encode(self, text: str, *, add_special: bool) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=add_special).ids

    def piece(self, token: int) -> bytes:
        added = self._added.get(token)
        return b"" if added is not None and added.special else self.spelling(token)

    def spelling(self, token: int) -> bytes:
        if token not in self._pieces:
            self._pieces[token] = self._look_up(token)
        return self._pieces[token]

    def _look_up(self, token: int) -> bytes:
        if token in self._added:
            return self._added[token].content.encode()
        name = self.tokenizer.id_to_token(token)
        return b"" if name is None else self._spell(name)  # ids may have holes


class NumberVocabulary:
    """Stands in where random weights are served without a tokenizer: ids below 256 are bytes, others are spelled as numbers."""

    eos: frozenset[int] = frozenset()
    bos: int | None = None

    def __init__(self, num_tokens: int) -> None:
        self.num_tokens = num_tokens

    def encode(self, text: str, *, add_special: bool) -> list[int]:
        return [byte % self.num_tokens for byte in text.encode()]

    def piece(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else f" {token}".encode()

    def spelling(self, token: int) -> bytes:
        return self.piece(token)


@dataclass(frozen=True)
class TokenizerFiles:
    """A folder (or a tokenizer.json) and what it says."""

    path: Path

    @property
    def folder(self) -> Path:
        return self.path if self.path.is_dir() else self.path.parent

    @cached_property
    def config(self) -> dict[str, Any]:
        return _json(self.folder / "tokenizer_config.json")

    @cached_property
    def generation_config(self) -> dict[str, Any]:
        return _json(self.folder / "generation_config.json")

    def special(self, name: str) -> str | None:
        """The text of `bos_token` and the like."""
        value = self.config.get(name)
        return value.get("content") if isinstance(value, dict) else value

    @cached_property
    def chat_template(self) -> str | None:
        """The template for chats; of several named ones, the one called default."""
        file = self.folder / "chat_template.jinja"
        if file.is_file():
            return file.read_text(encoding="utf-8")
        template = self.config.get("chat_template")
        if isinstance(template, list):
            template = {entry["name"]: entry["template"] for entry in template}.get("default")
        return template

    def vocabulary(self, *, num_embeddings: int, eos_tokens: tuple[str, ...] = ()) -> HubVocabulary:
        """The tokenizer for a model with this many embeddings; `eos_tokens` by name, if not the checkpoint's own."""
        from tokenizers import Tokenizer

        file = self.path / "tokenizer.json" if self.path.is_dir() else self.path
        try:
            tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises plain Exception for everything, a missing file included
            message = f"{file} cannot be read as a tokenizer: {error}"
            raise VocabularyError(message, help="give the tokenizer.json of this model with --tokenizer") from error
        tokenizer.no_truncation()  # a file may carry the settings it was trained with, and a prompt is never cut silently
        tokenizer.no_padding()
        bos = self.special("bos_token")
        vocabulary = HubVocabulary(
            tokenizer,
            eos=self._eos(tokenizer, eos_tokens),
            bos=tokenizer.token_to_id(bos) if bos is not None else None,
        )
        if vocabulary.num_tokens > num_embeddings:
            raise VocabularyError(
                f"{file} has {vocabulary.num_tokens} tokens, the model has {num_embeddings} embeddings",
                help="this tokenizer belongs to another model; give the right one with --tokenizer",
            )
        return vocabulary

    def _eos(self, tokenizer: Tokenizer, names: tuple[str, ...]) -> frozenset[int]:
        if names:
            if missing := [name for name in names if tokenizer.token_to_id(name) is None]:
                message = f"the tokenizer of {self.path} has no token {missing[0]!r}, which is to end answers"
                raise VocabularyError(message, help="name one of its tokens")
            return _ids(tokenizer, names)
        ids = self.generation_config.get("eos_token_id", [])
        found = frozenset(ids if isinstance(ids, list) else [ids])
        if (eos := self.special("eos_token")) is not None:
            found |= _ids(tokenizer, [eos])
        if not found:
            special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
            found = _ids(tokenizer, [name for name in END_NAMES if name in special])
        return found


def _ids(tokenizer: Tokenizer, names: Iterable[str]) -> frozenset[int]:
    """The ids of those names that are tokens."""
    ids = (tokenizer.token_to_id(name) for name in names)
    return frozenset(token for token in ids if token is not None)


def open_vocabulary(path: Path | None, *, num_embeddings: int) -> Vocabulary:
    """The tokenizer in a folder or file; without one, numbers in place of text."""
    if path is None:
        return NumberVocabulary(num_embeddings)
    return TokenizerFiles(path).vocabulary(num_embeddings=num_embeddings)


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise VocabularyError(f"{file} is not JSON: {error}", help="check the folder with the tokenizer") from error


def _speller(tokenizer: Tokenizer) -> Callable[[str], bytes]:
    """The function from a token's name to its bytes, told from the tokenizer's decoder."""
    decoder = tokenizer.decoder
    state: dict[str, Any] = {"type": "none"}
    if decoder is not None:
        state = json.loads(cast("bytes", decoder.__getstate__()))  # the decoder's part of tokenizer.json
    kinds = [part["type"] for part in state.get("decoders", [state])]
    if "ByteLevel" in kinds:
        return _spell_byte_level
    if "Metaspace" in kinds or "ByteFallback" in kinds:
        return _spell_sentencepiece
    message = f"text cannot be streamed with a tokenizer whose decoder is {' + '.join(kinds)}"
    raise VocabularyError(message, help="byte-level and SentencePiece-like tokenizers work")


def _spell_byte_level(name: str) -> bytes:
    """GPT-2's way: each of the 256 bytes is written as one printable character."""
    table = _byte_level_table()
    if all(char in table for char in name):
        return bytes(table[char] for char in name)
    return name.encode()


def _spell_sentencepiece(name: str) -> bytes:
    """SentencePiece's way: text as it is but for the space, and `<0x0A>` for single bytes."""
    if len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
        return bytes([int(name[3:5], 16)])
    return name.replace(SPACE, " ").encode()


_BYTE_LEVEL: dict[str, int] = {}


def _byte_level_table() -> dict[str, int]:
    """Printable Latin-1 characters stand for themselves, the other bytes for the code points from 256 up, in order."""
    if not _BYTE_LEVEL:
        printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
        others = [byte for byte in range(256) if byte not in printable]
        _BYTE_LEVEL.update({chr(byte): byte for byte in printable})
        _BYTE_LEVEL.update({chr(256 + at): byte for at, byte in enumerate(others)})
    return _BYTE_LEVEL
