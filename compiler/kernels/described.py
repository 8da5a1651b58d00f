"""kernels/kernels.json: what a build says of its kernels, for `llmc verify --kernels`."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from .chips import chip_name, chip_of
from .table import choose_kernels, left_alone
from .tpus import tpu_name, tpu_of

if TYPE_CHECKING:
    from ...spec.document import Spec
    from .kernel import Kernel
    from .setting import Setting
    from .tpus import Tpu

LISTED = "kernels/kernels.json"
_HOW = frozenset({"chip", "key_block", "least_rows", "longest", "query_block", "tiles"})
"""Fields that say how a kernel works, not what it computes."""


def describe(setting: Setting) -> dict[str, Any]:
    """The chip, the length of sequences, each kernel with its sizes, and what was left alone."""
    return {
        "chip": _chip(setting),
        "seq_len": setting.train.seq_len,
        "kernels": [sizes_of(kernel) for kernel in choose_kernels(setting)],
        "left_alone": left_alone(setting),
    }


def _chip(setting: Setting) -> dict[str, Any] | None:
    if setting.chip is not None:
        chip = setting.chip
        sizes = {"target": chip.target, "shared_bytes": chip.shared_bytes, "registers": chip.registers}
    elif setting.tpu is not None:
        sizes = _tpu_sizes(setting.tpu)
    else:
        return None
    return {"name": setting.chip_name, **sizes}


def _tpu_sizes(tpu: Tpu) -> dict[str, Any]:
    return {"target": tpu.target, "topology": tpu.topology, "vmem_bytes": tpu.vmem_bytes}


def describe_serving(kernels: tuple[Kernel, ...], spec: Spec) -> dict[str, Any]:
    """The same of a program that only serves."""
    assert spec.serve is not None
    accelerator = spec.hardware.accelerator
    chip = chip_of(accelerator)
    tpu = tpu_of(accelerator)
    sizes = [sizes_of(kernel) for kernel in kernels]
    if tpu is not None:
        facts = {"name": tpu_name(accelerator), **_tpu_sizes(tpu)}
    elif chip is not None:
        facts = {"name": chip_name(accelerator), "target": chip.target, "shared_bytes": chip.shared_bytes}
        facts["registers"] = chip.registers
    else:
        return {"chip": None, "kernels": sizes, "left_alone": {}}
    return {"chip": facts, "seq_len": spec.serve.max_seq_len, "kernels": sizes, "left_alone": {}}


def sizes_of(kernel: Kernel) -> dict[str, Any]:
    """What runtimes/kernels/checks/cases.py needs to know of a kernel."""
    return {each.name: getattr(kernel, each.name) for each in fields(kernel) if each.name not in _HOW}
