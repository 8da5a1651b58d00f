"""A published row as a spec: model from the catalog with the row's dims laid over, machine, recipe, and the layout as it was."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ...spec import catalog
from ...spec.document import Spec
from ...spec.hardware import Accelerator
from .programs import Program

if TYPE_CHECKING:
    from .rows import TrainRow


class CannotPrice(Exception):
    """The row lacks what a spec needs; the text says what."""


def spec_of(row: TrainRow, program: Program) -> Spec:
    """Raises CannotPrice."""
    fields = {
        "name": "row",
        "model": _model(row),
        "hardware": _hardware(row),
        "train": {
            "objective": "causal_lm",
            "steps": 1,
            "seq_len": row.seq_len,
            "global_batch": row.global_batch,
            "precision": row.precision,
            "optimizer": {"name": "adamw", "lr": 1e-4},
        },
        "parallel": _parallel(row, program),
        "assume": program.assume,
    }
    try:
        return Spec.model_validate(fields)
    except ValueError as fault:
        raise CannotPrice(" ".join(str(fault).split())) from fault


def _model(row: TrainRow) -> dict[str, Any]:
    name = row.model.lower()
    truncated = re.sub(r"-trunc-\d+l$", "", name)
    known = next((each for each in (name, truncated) if each in catalog.list_presets()), None)
    model = catalog.preset(known) if known else _from_dims(row)
    model.pop("source", None)
    is_routed = model.get("moe") is not None
    dims = {"num_layers": row.layers, "hidden_size": row.hidden, "vocab_size": row.vocab}
    dims |= {"intermediate_size": None if is_routed else row.ffn}
    if model["attention"]["kind"] != "mla":
        dims |= {"num_heads": row.heads, "num_kv_heads": row.kv_heads}
        if row.heads not in (None, model.get("num_heads")) or row.hidden not in (None, model.get("hidden_size")):
            model.pop("head_dim", None)
            dims["num_kv_heads"] = row.kv_heads or row.heads
    model |= {key: value for key, value in dims.items() if value is not None}
    if is_routed and row.experts is not None:
        model["moe"] |= {"num_experts": row.experts, "experts_per_token": row.topk or model["moe"]["experts_per_token"]}
    if is_routed and truncated != name:  # of the first layers without experts a cut model keeps one
        model["moe"]["first_dense_layers"] = min(1, model["moe"].get("first_dense_layers", 0))
    model["max_seq_len"] = max(row.seq_len, model.get("max_seq_len", 0))
    return model


def _from_dims(row: TrainRow) -> dict[str, Any]:
    """A model that the catalog lacks: GPT's block where the feed-forward block is four times as wide as the model, else Llama's."""
    if None in (row.layers, row.hidden, row.heads):
        raise CannotPrice(f"the model {row.model} is not in the catalog, and its dimensions are not given")
    assert row.hidden is not None
    assert row.heads is not None
    is_gated = row.ffn is not None and row.ffn != 4 * row.hidden
    model = catalog.family("llama" if is_gated else "megatron-gpt")
    model |= {"num_heads": row.heads, "intermediate_size": row.ffn or 4 * row.hidden, "vocab_size": row.vocab or 50_257}
    if row.kv_heads not in (None, row.heads):
        biases = {key: value for key, value in model["attention"].items() if key.endswith("_bias")}
        model["attention"] = {"kind": "gqa", **biases}
    if row.experts is not None:
        model["moe"] = {"num_experts": row.experts, "experts_per_token": row.topk or 1}
    return model


def _hardware(row: TrainRow) -> dict[str, Any]:
    if row.accelerator not in catalog.list_accelerators():
        raise CannotPrice(f"the accelerator {row.accelerator} is not in the catalog")
    entry = catalog.accelerator(row.accelerator)
    device = {key: value for key, value in entry.items() if key in Accelerator.model_fields}
    device["name"] = catalog.canonical_name(row.accelerator)
    per_node = min(row.per_node or device.get("per_node", 8), row.accelerators)
    if row.accelerators % per_node:
        raise CannotPrice(f"{row.accelerators} accelerators are no whole number of nodes of {per_node}")
    machine: dict[str, Any] = {"accelerator": device, "nodes": row.accelerators // per_node, "per_node": per_node}
    if row.inter_node_gb_s is not None:
        machine["inter_node_gb_s"] = row.inter_node_gb_s
    return machine


def _parallel(row: TrainRow, program: Program) -> dict[str, Any]:
    """`zero1=8` in the notes: optimizer state is sharded over 8 ranks and replicated (InternEvo); `hsdp`: over a node."""
    zero = 3 if row.zero == "hsdp" else int(row.zero or 0)
    replicate, shard = (row.dp, 1) if zero == 0 else (1, row.dp)
    over = re.search(r"zero1=(\d+)", row.notes)
    width = int(over[1]) if over and zero == 1 else (row.per_node or 8) if row.zero == "hsdp" else None
    if width is not None and row.dp % width == 0:
        replicate, shard = row.dp // width, width
    recompute = row.recompute or ("selective" if program.selects_unprinted else "none")
    micro_batches = max(1, round(row.global_batch / (row.dp * row.micro_batch)))
    layout: dict[str, Any] = {
        "dp_replicate": replicate,
        "dp_shard": shard,
        "zero": zero,
        "tp": row.tp,
        "sequence_parallel": row.sequence_parallel and row.tp > 1,
        "cp": row.cp,
        "pp": row.pp,
        "ep": min(row.ep, shard * row.cp),
        "schedule": "interleaved_1f1b" if row.virtual_stages > 1 else "1f1b",
        "virtual_stages": row.virtual_stages,
        "micro_batch": row.micro_batch,
        "grad_accumulation": micro_batches,
        "recompute": recompute,
    }
    return layout
