"""Hugging Face checkpoints in and out of a generated program, tensor by tensor and without loss."""

from .command import main
from .convert import export_checkpoint, import_checkpoint
from .sources import Grouped, Interleaved, Joined, Same, Source, Stacked, Transposed

__all__ = [
    "Grouped",
    "Interleaved",
    "Joined",
    "Same",
    "Source",
    "Stacked",
    "Transposed",
    "export_checkpoint",
    "import_checkpoint",
    "main",
]
