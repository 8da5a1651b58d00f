"""Text to batches of tokens: sources, cleaning, tokenizer, memory-mapped shards, a loader with a cursor."""

from .corpus import Corpus
from .errors import DataError
from .loader import TokenLoader
from .prepare import prepare
from .recipe import Clean, DataRecipe, EntryPoint, PathSource, PythonStdlib, TokenizerFile, TrainBPE
from .show import show_sample

__all__ = [
    "Clean",
    "Corpus",
    "DataError",
    "DataRecipe",
    "EntryPoint",
    "PathSource",
    "PythonStdlib",
    "TokenLoader",
    "TokenizerFile",
    "TrainBPE",
    "prepare",
    "show_sample",
]
