"""The tokenizer of a corpus: trained here, or taken from a file and checked.

A trained one is byte-level BPE: the 256 bytes are in its alphabet, so every text can be written and read back
exactly; words are split as GPT-2 does, which any library that reads `tokenizer.json` understands. Ids:

    0 <|endoftext|>   after each document; generation stops at it
    1 <|pad|>         fills batches; never in the token stream
    2 <|im_start|>    begins a turn of a chat, for later fine-tuning; never in the token stream
    3 <|im_end|>      ends a turn
    4 … 259           the bytes
    260 …             merges, most frequent first

Special tokens that occur in a document's text are encoded as the characters they are: text cannot end itself.
The same documents in any order, on any number of threads, give the same bytes of `tokenizer.json` (tested): counts
are summed before merging, and the library breaks ties by the pair's ids.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import DataError
from .recipe import TokenizerFile, TrainBPE

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIAL_TOKENS = ("<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>")
SMALLEST_VOCAB = 256 + len(SPECIAL_TOKENS)
END_OF_TEXT_NAMES = ("<|endoftext|>", "<|end_of_text|>", "<|endofdoc|>", "</s>", "<eos>", "<|im_end|>")

# Pieces of a long text end before a line break that a character other than white space follows. GPT-2's pattern
# always splits there, so the ids are those of the whole text.
_CUT = re.compile(r"\n(?=\S)")
PIECE_CHARS = 1 << 18


def train_bpe(recipe: TrainBPE, texts: Iterator[str], *, out: Path) -> Tokenizer:
    """Trains on `texts` and writes `out`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if recipe.vocab_size < SMALLEST_VOCAB:
        raise DataError(
            f"vocab_size is {recipe.vocab_size}, and the bytes and special tokens alone are {SMALLEST_VOCAB}",
            help=f"give {SMALLEST_VOCAB} or more",
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != recipe.vocab_size:
        raise DataError(
            f"the text gives {tokenizer.get_vocab_size()} tokens, the model's vocab_size is {recipe.vocab_size}",
            help=f"add text, or set the vocab_size to {tokenizer.get_vocab_size()} or less",
        )
    tokenizer.save(str(out))
    return for_text(tokenizer)


def check_tokenizer(recipe: TokenizerFile, *, path: Path) -> tuple[Tokenizer, str]:
    """The tokenizer in `path` and its end-of-text token, if the model has a row for each id."""
    tokenizer = load_tokenizer(path)
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    size = max(vocab.values(), default=-1) + 1
    if size > recipe.vocab_size:
        raise DataError(
            f"{recipe.path} has ids up to {size - 1}, the model's vocab_size is {recipe.vocab_size}",
            help=f"set the vocab_size to {size} or more",
        )
    end_of_text = recipe.end_of_text or next((name for name in END_OF_TEXT_NAMES if name in vocab), None)
    if end_of_text is None or end_of_text not in vocab:
        missing = f"token `{end_of_text}`" if end_of_text else "end-of-text token that is known here"
        special = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]
        raise DataError(
            f"{recipe.path} has no {missing}",
            help="name one of its special tokens: " + (" ".join(special[:20]) or "it has none"),
        )
    return tokenizer, end_of_text


def load_tokenizer(path: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    if not path.is_file():
        raise DataError(f"there is no tokenizer {path}", help="give the path of a tokenizer.json")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise DataError(
            f"{path} is not a tokenizer.json: {error}", help="it is the file that the library tokenizers saves"
        ) from error
    return for_text(tokenizer)


def for_text(tokenizer: Tokenizer) -> Tokenizer:
    """Set to encode all of a document and nothing else."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # as ordinary characters
    return tokenizer


def pieces(text: str, *, max_chars: int = PIECE_CHARS) -> Iterator[str]:
    """The text in pieces of about `max_chars`, to bound the memory of encoding; most texts are one piece."""
    start = 0
    while len(text) - start > max_chars:
        cut = _CUT.search(text, start + max_chars)
        if cut is None:
            break
        yield text[start : cut.start()]
        start = cut.start()
    yield text[start:]
