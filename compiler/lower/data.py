"""The view of data.py: the recipe of the corpus, as literals of runtimes/data/recipe.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...spec.data import EntrySource, NamedSource, TokenizerFile
from ..emit.literals import literal
from ..emit.paths import relative

if TYPE_CHECKING:
    from ...spec.data import Clean, Data, PathSource, TrainTokenizer
    from ...spec.document import Spec
    from .views import Place


@dataclass(frozen=True)
class SourceView:
    text: str
    key: str
    """The key of the spec that it comes from."""


@dataclass(frozen=True)
class DataView:
    """What templates/pytorch/data.py.j2 needs, under the name `d`."""

    name: str
    origin: str
    imports: tuple[str, ...]
    sources: tuple[SourceView, ...]
    clean: str
    tokenizer: str
    valid_fraction: float
    seed: int
    folder: str
    """Where train.py looks for the corpus unless told otherwise."""
    root: str | None
    """The folder of the spec, from the folder of the program; None where the recipe names no file."""


def lower_data(spec: Spec, data: Data, *, origin: str, place: Place) -> DataView:
    sources = tuple(
        SourceView(text=_source(source), key=f"data.sources.{number}") for number, source in enumerate(data.sources)
    )
    is_file = isinstance(data.tokenizer, TokenizerFile)
    needs_root = is_file or any(not isinstance(source, NamedSource) for source in data.sources)
    names = {"Clean", "DataRecipe", "TokenizerFile" if is_file else "TrainBPE"}
    names |= {source.text.partition("(")[0] for source in sources}
    return DataView(
        name=spec.name,
        origin=origin,
        imports=tuple(sorted(names)),
        sources=sources,
        clean=_clean(data.clean),
        tokenizer=_tokenizer(data.tokenizer, vocab_size=spec.model.vocab_size),
        valid_fraction=data.split.valid,
        seed=data.seed,
        folder=f"runs/{spec.name}/data",
        root=relative(place.spec_file.parent, start=place.out_dir) if needs_root else None,
    )


def _call(name: str, *args: object, **options: object) -> str:
    """`name(arg, key=value)`, without the options that are None."""
    given = [f"{key}={literal(value)}" for key, value in options.items() if value is not None]
    return f"{name}({', '.join([*map(literal, args), *given])})"


def _source(source: NamedSource | PathSource | EntrySource) -> str:
    weight = source.weight if source.weight != 1.0 else None
    if isinstance(source, NamedSource):
        return _call({"python-stdlib": "PythonStdlib"}[source.source], weight=weight)
    if isinstance(source, EntrySource):
        return _call("EntryPoint", source.entry, weight=weight)
    return _call("PathSource", source.path, text=source.text, weight=weight)


def _clean(clean: Clean) -> str:
    """Every field is written, so that the program says what is done without a look at the defaults."""
    options = {"min_chars": clean.min_chars, "dedup": clean.dedup, "languages": clean.languages}
    return f"Clean({', '.join(f'{key}={literal(value)}' for key, value in options.items())})"


def _tokenizer(tokenizer: TrainTokenizer | TokenizerFile, *, vocab_size: int) -> str:
    if isinstance(tokenizer, TokenizerFile):
        return _call("TokenizerFile", tokenizer.path, vocab_size=vocab_size)
    return _call({"bpe": "TrainBPE"}[tokenizer.train], vocab_size=vocab_size)
