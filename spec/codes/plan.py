"""Codes of planning: what fits, what divides, what a machine can hold."""

from __future__ import annotations

from .entry import Code


class TooManyLayers(Code):
    """A model has more layers than a plan can name.

    Every layer has a place in the graph's order and lines of its own in a checkpoint. The bound is far above any model
    that was ever trained; a number beyond it is a typing error.
    """

    id = "P210"
    slug = "too-many-layers"
    stage = "plan"
    failing = """
        llmc: 1
        model: {preset: llama-3-8b, num_layers: 32M}
        hardware: {accelerator: h100-sxm-80g}
        """
    fixed = """
        llmc: 1
        model: {preset: llama-3-8b, num_layers: 32}
        hardware: {accelerator: h100-sxm-80g}
        """
