"""From a recipe to a corpus: read, clean, split, train the tokenizer, tokenise, publish.

    sources ─▶ cleaned documents (spooled to disk) ─▶ tokenizer.json ─▶ train.bin, valid.bin ─▶ index.json

The same recipe over the same sources gives the same bytes, and is recognised by its fingerprint without work.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.progress import Progress, Stage, silent
from .clean import Cleaner, normalise
from .corpus import DTYPES, FORMAT, VERSION, Corpus, dtype_name, read_index
from .errors import DataError
from .fingerprint import fingerprint_of, library_versions
from .recipe import DataRecipe, TokenizerFile
from .shards import write_shards
from .sources import OpenSource, open_source
from .split import SplitPlan, num_copies, passages, plan_split, training_texts, two_fractions
from .spool import Spool
from .tokenizer import SPECIAL_TOKENS, check_tokenizer, train_bpe
from .workspace import check_replaceable, locked, replaced

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def prepare(
    recipe: DataRecipe, out_dir: Path | str, progress: Progress = silent, *, root: Path | str = ".", force: bool = False
) -> Corpus:
    """The corpus of `recipe` in `out_dir`, prepared now unless it is already there.

    Globs, the tokenizer file and the modules of entry points are looked for in `root`. `force` prepares again
    even if the corpus in place has the fingerprint. Raises `DataError` for whatever the user can mend.
    """
    out_dir, root = Path(out_dir).resolve(), Path(root)
    try:
        check_replaceable(out_dir)
        sources = [open_source(source, root=root, leave_out=out_dir) for source in recipe.sources]
        fingerprint = fingerprint_of(recipe, sources, root=root, progress=progress)
        out_dir.parent.mkdir(parents=True, exist_ok=True)
        with locked(out_dir.parent, progress=progress):
            if force or not _is_there(out_dir, fingerprint):
                with replaced(out_dir) as work:
                    index = _prepare_in(work, recipe, sources, root=root, progress=progress)
                    _write_json(work / "index.json", {"fingerprint": fingerprint, **index})
    except OSError as error:
        raise DataError(
            f"cannot prepare {out_dir}: {error.strerror or error}", help="check the folder, its permissions and space"
        ) from error
    return Corpus.open(out_dir)


def _is_there(out_dir: Path, fingerprint: str) -> bool:
    """A damaged corpus is not: it is prepared again."""
    if (read_index(out_dir) or {}).get("fingerprint") != fingerprint:
        return False
    try:
        Corpus.open(out_dir)
    except DataError:
        return False
    return True


def _prepare_in(
    work: Path, recipe: DataRecipe, sources: list[OpenSource], *, root: Path, progress: Progress
) -> dict[str, Any]:
    """Fills the folder `work`, apart from the index, which is returned."""
    cleaner = Cleaner(recipe.clean)
    with closing(Spool(work / "spool")) as spool:
        counts = _read_and_clean(recipe, sources, cleaner, spool, progress=progress)
        plan = plan_split(spool, recipe.valid_fraction)
        tokenizer, end_of_text = _tokenizer(recipe, spool, plan, root=root, work=work, progress=progress)
        end_of_text_id = tokenizer.get_vocab()[end_of_text]
        dtype = dtype_name(recipe.tokenizer.vocab_size)
        num_chars = sum(kept.num_chars * (1 if kept.is_valid else kept.copies) for kept in spool)
        stage = Stage(progress, "tokenise", total=num_chars)
        splits, tokens_of = write_shards(
            passages(spool, plan),
            folder=work,
            tokenizer=tokenizer,
            dtype=DTYPES[dtype],
            end_of_text_id=end_of_text_id,
            advance=stage.advance,
        )
        stage.finish()
    shutil.rmtree(work / "spool")
    nothing = dict.fromkeys(splits, 0)
    return {
        "format": FORMAT,
        "version": VERSION,
        "dtype": dtype,
        "vocab_size": recipe.tokenizer.vocab_size,
        "end_of_text": {"token": end_of_text, "id": end_of_text_id},
        "splits": splits,
        "split_by": plan.told,
        "sources": [
            {"source": source.label, **row, "tokens": tokens_of.get(number, nothing)}
            for number, (source, row) in enumerate(zip(recipe.sources, counts, strict=True))
        ],
        "removed": {reason: asdict(removed) for reason, removed in sorted(cleaner.removed.items())},
        "recipe": recipe.to_json(),
        "libraries": library_versions(recipe),
    }


def _read_and_clean(
    recipe: DataRecipe, sources: list[OpenSource], cleaner: Cleaner, spool: Spool, *, progress: Progress
) -> list[dict[str, int]]:
    """Spools what is kept; returns how many documents were read, not selected (by weight) and kept, a source."""
    counts = []
    for number, (source, opened) in enumerate(zip(recipe.sources, sources, strict=True)):
        stage = Stage(progress, f"read and clean {source.label}", total=opened.num_bytes)
        row = {"read": 0, "not_selected": 0, "kept": 0}
        for document in opened.documents(cleaner.skip):
            stage.advance(document.num_bytes)
            row["read"] += 1
            text = normalise(document.text, unicode=recipe.clean.unicode)
            if text is None:
                cleaner.skip("not-text", document.name)
                continue
            split_at, weight_at = two_fractions(text, seed=recipe.seed)
            copies = num_copies(source.weight, weight_at)
            if copies == 0:
                row["not_selected"] += 1
                continue
            reason = cleaner.reason_to_remove(text)
            if reason is not None:
                cleaner.skip(reason, document.name, characters=len(text))
                continue
            row["kept"] += 1
            is_valid = split_at < recipe.valid_fraction
            spool.append(document.name, text, source=number, copies=copies, is_valid=is_valid)
        stage.finish()
        counts.append(row)
    if len(spool) == 0:
        why = ", ".join(f"{row.documents} {reason}" for reason, row in sorted(cleaner.removed.items()))
        raise DataError(
            f"no document is left of {sum(row['read'] for row in counts)} read ({why or 'none was removed'})",
            help="loosen `clean`, raise the weights, or add sources",
        )
    return counts


def _tokenizer(
    recipe: DataRecipe, spool: Spool, plan: SplitPlan, *, root: Path, work: Path, progress: Progress
) -> tuple[Tokenizer, str]:
    """The tokenizer and its end-of-text token; tokenizer.json is in `work` afterwards."""
    out = work / "tokenizer.json"
    if isinstance(recipe.tokenizer, TokenizerFile):
        shutil.copyfile(root / recipe.tokenizer.path, out)
        return check_tokenizer(recipe.tokenizer, path=out)
    stage = Stage(progress, "train the tokenizer", total=sum(kept.num_chars for kept in spool))

    def counted() -> Iterator[str]:
        for text in training_texts(spool, plan):
            stage.advance(len(text))
            yield text

    tokenizer = train_bpe(recipe.tokenizer, counted(), out=out)
    stage.finish()
    return tokenizer, SPECIAL_TOKENS[0]


def _write_json(path: Path, value: dict[str, Any]) -> None:
    with path.open("w", encoding="utf-8") as stream:
        json.dump(value, stream, indent=2)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
