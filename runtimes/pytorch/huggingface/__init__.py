"""Hugging Face checkpoints in and out of a generated program, tensor by tensor and without loss."""

from .command import main
from .convert import export_checkpoint, import_checkpoint
from .sources import Grouped, Joined, Same, Source, Transposed

__all__ = ["Grouped", "Joined", "Same", "Source", "Transposed", "export_checkpoint", "import_checkpoint", "main"]
