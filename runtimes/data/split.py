"""Which documents train and which validate, and how often each is in the stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b

from .corpus import Split
from .shards import Passage
from .spool import Kept, Spool


def two_fractions(text: str, *, seed: int) -> tuple[float, float]:
    """Two numbers in [0, 1) that the text and the seed decide: one for the split, one for the weight.

    Nothing else takes part, so a document stays in its split when sources are added, moved or renamed, and equal
    texts are never in both.
    """
    digest = blake2b(text.encode(), digest_size=16, key=str(seed).encode()).digest()
    return int.from_bytes(digest[:8], "little") / 2**64, int.from_bytes(digest[8:], "little") / 2**64


def num_copies(weight: float, fraction: float) -> int:
    """2.7 with a fraction below 0.7 is 3 copies, else 2: the mean over documents is the weight."""
    return int(weight) + (fraction < weight % 1)


@dataclass(frozen=True)
class SplitPlan:
    """Documents are held out whole, by their hash; `tail_of` instead names one whose end is held out."""

    told: str
    tail_of: int | None = None  # number of the document
    cut: int = 0  # character in it where validation begins


def plan_split(spool: Spool, valid_fraction: float) -> SplitPlan:
    """By document, unless the corpus is so small that the hash leaves one side empty.

    Then the end of the longest document validates, `valid_fraction` of all characters (at most half of that document),
    from the beginning of a line.
    """
    num_valid = sum(kept.is_valid for kept in spool)
    if valid_fraction == 0:
        return SplitPlan("nothing held out")
    if 0 < num_valid < len(spool):
        return SplitPlan("document")
    longest = max(spool, key=lambda kept: (kept.num_chars, -kept.number))
    wanted = max(1, int(valid_fraction * sum(kept.num_chars for kept in spool)))
    at = longest.num_chars - min(wanted, longest.num_chars // 2)
    line_start = spool.text(longest.number).rfind("\n", 0, at) + 1
    cut = line_start if line_start > longest.num_chars // 4 else at
    return SplitPlan("end of the longest document", longest.number, cut)


def parts(kept: Kept, text: str, plan: SplitPlan) -> list[tuple[Split, str]]:
    """The document's text by split: one part, or two where it is the one that is cut."""
    if plan.tail_of is None:
        return [("valid" if kept.is_valid else "train", text)]
    if kept.number != plan.tail_of:
        return [("train", text)]
    return [("train", text[: plan.cut]), ("valid", text[plan.cut :])]


def training_texts(spool: Spool, plan: SplitPlan) -> Iterator[str]:
    """Each document of the training split once: what the tokenizer may see."""
    for kept in spool:
        yield from (text for split, text in parts(kept, spool.text(kept.number), plan) if split == "train")


def passages(spool: Spool, plan: SplitPlan) -> Iterator[Passage]:
    """The streams in order: every document once, then those with a second copy, and so on.

    Copies are a whole pass apart, so that no window shows a text twice. Validation takes part in the first pass only.
    """
    for copy in range(max(kept.copies for kept in spool)):
        for kept in spool:
            if kept.copies <= copy:
                continue
            for split, text in parts(kept, spool.text(kept.number), plan):
                if split == "train" or copy == 0:
                    yield Passage(split, kept.source, spool.name(kept.number), text)
