"""Layouts and checkpoints in a line of words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...spec.units import GIB
from .figures import duration, gib, seconds

if TYPE_CHECKING:
    from .layout import Layout
    from .plan import Reliability, ServeLayout


def layout_line(layout: Layout) -> str:
    """What is not 1 or none: `dp_shard 64 · zero 3 · micro-batch 2 × accumulation 8 · recompute none`."""
    degrees = [(name, getattr(layout, name)) for name in ("dp_replicate", "dp_shard", "tp", "cp", "pp", "ep")]
    parts = [f"{name} {value}" for name, value in degrees if value > 1]
    if layout.tp > 1 and not layout.sequence_parallel:
        parts.append("no sequence parallelism")
    if layout.shards > 1:
        parts.insert(1 if layout.dp_shard > 1 and layout.dp_replicate == 1 else len(parts), f"zero {layout.zero}")
    if layout.pp > 1:
        parts.append(layout.schedule + (f" × {layout.virtual_stages}" if layout.virtual_stages > 1 else ""))
    parts.append(f"micro-batch {layout.micro_batch} × accumulation {layout.grad_accumulation}")
    if layout.stages is not None and len(set(layout.stages)) > 1:
        parts.append(f"stages of {min(layout.stages)} to {max(layout.stages)} layers")
    parts.append(f"recompute {recompute_words(layout)}")
    if layout.offload is not None:
        parts.append("optimizer states on the host")
    return " · ".join(parts)


def recompute_words(layout: Layout) -> str:
    """`none`; layer by layer `full in 4, none in 28 layers`."""
    if layout.recompute_layers is None:
        return layout.recompute
    counts: dict[str, int] = {}
    for how, count in layout.recompute_layers:
        counts[how] = counts.get(how, 0) + count
    return ", ".join(f"{how} in {count}" for how, count in counts.items()) + " layers"


def serve_line(layout: ServeLayout) -> str:
    """`8 replicas × tp 4 · batch 40 · prefill chunk 2048 · bf16 weights, bf16 cache`"""
    parts = [f"tp {layout.tp}"] + [
        f"{name} {getattr(layout, name)}" for name in ("pp", "ep") if getattr(layout, name) > 1
    ]
    engine = " × ".join([f"{layout.replicas} replica{'s' if layout.replicas > 1 else ''}", *parts])
    formats = f"{layout.weights} weights, {layout.kv_dtype} cache"
    return f"{engine} · batch {layout.max_batch} · prefill chunk {layout.prefill_chunk} · {formats}"


def engine_words(layout: ServeLayout) -> str:
    """`24 devices = 6 × tp 4 · batch 48 · fp8`"""
    degrees = [f"{name} {getattr(layout, name)}" for name in ("tp", "pp", "ep") if getattr(layout, name) > 1]
    devices = layout.replicas * layout.tp * layout.pp
    engine = " × ".join([str(layout.replicas), *degrees])
    return f"{devices} device{'s' if devices > 1 else ''} = {engine} · batch {layout.max_batch} · {layout.weights}"


def checkpoint_facts(found: Reliability) -> list[str]:
    """What checkpoints and failures cost, where the spec names a storage."""
    return [
        f"checkpoint {gib(found.checkpoint_gib * GIB)} in {seconds(found.write_s)}, {seconds(found.stop_s)} of it stops training",
        f"one every {duration(found.interval_s)} ({found.every_steps:,} steps)",
        f"a failure every {duration(found.mtbf_hours * 3600)}: {found.goodput:.1%} of the time trains",
    ]
