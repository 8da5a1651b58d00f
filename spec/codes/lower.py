"""Codes of lowering: what the language admits and no backend builds yet."""

from __future__ import annotations

from .entry import Code


class NotLowered(Code):
    """The language admits it, and llmc cannot build it yet.

    The language is laid down for what llmc is to become, so a spec can say more than today's compiler can build. What
    cannot be built is refused with the place and with what works today, and never ignored.
    """

    id = "L301"
    slug = "not-lowered"
    stage = "plan"
    failing = """
        llmc: 1
        model: {preset: llama-3-8b}
        hardware: {accelerator: h100-sxm-80g, nodes: 2}
        train: {objective: dpo, steps: 100, seq_len: 4096, global_batch: 64}
        """
    fixed = """
        llmc: 1
        model: {preset: llama-3-8b}
        hardware: {accelerator: h100-sxm-80g, nodes: 2}
        train: {objective: causal_lm, steps: 100, seq_len: 4096, global_batch: 64}
        """
