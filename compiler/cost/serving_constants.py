"""The constants of the serving model, read from serving_constants.toml, where each has its bounds, origin and source."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from .provenance import Spread

if TYPE_CHECKING:
    from ..topology.measured import MeasuredProduct, MeasuredServer


OVERLAP = 3.0
"""Of GPUs, by their tables of measured products: whichever takes longer, and a little more where they are near each other."""


@dataclass(frozen=True)
class ProductLaw:
    """`t0 + ((flops/(e_c · peak))ᵒ + (bytes/(e_m · bw))ᵒ)^(1/o)`, less `saved_s` in a captured graph."""

    launch_s: float
    compute_share: float
    memory_share: float
    saved_s: float = 0.0
    overlap: float = OVERLAP
    """o: how far a product computes while it reads. 1: not at all."""


@dataclass(frozen=True)
class ExpertLaw:
    """Grouped products: as ProductLaw, over the experts that tokens touch and their half-empty tiles."""

    launch_s: float
    compute_share: float
    memory_share: float
    spread: float
    """Distinct experts are touched as if only this share of the tokens chose evenly."""
    tile_rows: float
    row_passes: float
    rate: str
    """The precision whose peak counts."""
    factor: float = 1.0


@dataclass(frozen=True)
class ServeConstants:
    """What a family of devices reaches in serving. Meanings: serving_constants.toml."""

    products: Mapping[str, ProductLaw]
    """By format of the weights; `bf16` is there for all others."""
    experts: Mapping[str, ExpertLaw]
    layer_floor_s: float
    step_s: float
    first_burst: float
    queueing: float
    activation_factor: float
    all_reduce_share: float
    all_reduce_extra_s: float
    attention_saved_s: float
    block_scales_s: float
    pipeline_hop_s: float
    kv_again: float
    host_time: float
    cache_half_batch: float
    cache_share: float
    cache_launch_s: float
    flash: float
    flash_half_tokens: float
    memory_fraction: float
    spread: Spread
    op_s: float = 0.0
    """A small op's time for which `step_s` and `layer_floor_s` stand; 0 where neither is made of such."""

    def of_machine(self, *, op_s: float | None, products: Mapping[str, MeasuredProduct]) -> ServeConstants:
        """For a machine that somebody measured: its products, and what a host does between them, which takes as much longer
        or shorter as a small op does."""
        found = self._with(products)
        if op_s is None or not self.op_s:
            return found
        ratio = op_s / self.op_s
        return replace(found, step_s=self.step_s * ratio, layer_floor_s=self.layer_floor_s * ratio, op_s=op_s)

    def of_server(self, measured: MeasuredServer) -> ServeConstants:
        """For a server with our kernels. What is pointwise is a part of a layer's time; a core computes with what it has read,
        and each row more takes as long beside many as beside few (benchmarks/README.md: 98, 93 and 112 µs)."""
        return replace(
            self._with(measured.products, overlap=1.0),
            step_s=measured.step_s,
            layer_floor_s=measured.layer_s,
            cache_launch_s=0.0,
            activation_factor=1.0,
            flash=measured.attention_share,
            flash_half_tokens=0.0,
        )

    def _with(self, products: Mapping[str, MeasuredProduct], *, overlap: float = OVERLAP) -> ServeConstants:
        laws = {
            label: ProductLaw(each.launch_s, each.compute_share, each.memory_share, overlap=overlap)
            for label, each in products.items()
        }
        return replace(self, products={**self.products, **laws})


@dataclass(frozen=True)
class ServingSoftware:
    """What a server spends beside its ops, by engine."""

    name: str
    floor_share: float
    request_s: float
    first_token_s: float
    wait_steps: float
    experts_layer_s: float
    mxfp4_extra_s: float = 0.0
    fused_scales_s: float = 0.0
    """What a product in fp8 or fp4 takes less than where its input is quantised by an op of its own."""
    host_layer_s: float = 0.0
    """A layer takes no less: the host launches kernels one by one. 0: captured graphs."""
    prefill_share: float | None = None
    """Prompts have steps of their own, which cost the running requests this share of their time; None: mixed into theirs."""


Table = Mapping[str, Any]
OURS = "llmc"
"""The programs that this compiler writes, among the engines."""


@cache
def serving_table() -> Table:
    """The file as it is."""
    return tomllib.loads(files("llmc.compiler.cost").joinpath("serving_constants.toml").read_text(encoding="utf-8"))


def _values(entries: Mapping[str, Any]) -> dict[str, float]:
    return {name: entry["value"] for name, entry in entries.items() if isinstance(entry, dict) and "value" in entry}


def serve_constants_from(tables: Table, *, architecture: str, kind: str) -> ServeConstants:
    """The constants of a family of devices; one that the table lacks goes by its kind."""
    families = tables["architecture"]
    name = architecture if architecture in families else kind if kind in families else "gpu"
    values = _values(tables["shared"]) | _values(families[name])
    products = {label: _product(entry, values) for label, entry in families[name]["products"].items()}
    laws = tables["experts"].get(name, tables["experts"]["any"])
    experts = {label: _expert(label, entry, name, tables, values) for label, entry in laws.items()}
    kept = {field: values[field] for field in ServeConstants.__dataclass_fields__ if field in values}
    return ServeConstants(products=products, experts=experts, spread=Spread(**families[name]["spread"]), **kept)


def _product(entry: Mapping[str, Any], values: Mapping[str, float]) -> ProductLaw:
    return ProductLaw(
        launch_s=entry["launch_s"],
        compute_share=values[entry["compute_of"]] if "compute_of" in entry else entry["compute"],
        memory_share=values[entry["memory_of"]] if "memory_of" in entry else entry["memory"],
        saved_s=values[entry["saved"]] if "saved" in entry else entry["saved_s"],
    )


def _expert(
    label: str, entry: Mapping[str, Any], architecture: str, tables: Table, values: Mapping[str, float]
) -> ExpertLaw:
    factors, launches = _values(tables["expert_rates"]), _values(tables["expert_launches"])
    return ExpertLaw(
        launch_s=entry["launch_s"] * launches.get(architecture, 1.0),
        compute_share=entry["compute"],
        memory_share=entry["memory"],
        spread=entry["spread"] * values["expert_spread"],
        tile_rows=entry["tile_rows"] * values["expert_tile_share"],
        row_passes=entry["row_passes"] * values["expert_row_passes"],
        rate=entry["rate"],
        factor=factors.get(f"{architecture}_{label}", 1.0),
    )


def software_from(tables: Table, *, name: str, architecture: str) -> ServingSoftware:
    """What a server of this engine spends; a family of devices may have figures of its own (a CPU's)."""
    entries = _values(tables["software"][name])
    own = _values(tables["architecture"].get(architecture, {}))
    entries |= {key: value for key, value in own.items() if key in entries}
    return ServingSoftware(name=name, **entries)


@cache
def serve_constants_of(architecture: str, *, kind: str = "gpu") -> ServeConstants:
    """The constants of a family of devices (constants.py tells a device's family)."""
    return serve_constants_from(serving_table(), architecture=architecture, kind=kind)


@cache
def serving_software(name: str = OURS, *, architecture: str) -> ServingSoftware:
    """What a server spends beside its ops; by default the programs that this compiler writes."""
    return software_from(serving_table(), name=name, architecture=architecture)


def protocol_from(tables: Table) -> Mapping[str, float]:
    """Facts of how some published rows were measured."""
    return _values(tables["protocol"])


def interval_of(name: str, spread: Spread) -> Spread:
    """Of a median, `ttft` or `tpot`, on devices of this spread: what published rows say, wider where the spread is wider."""
    known = serving_table()["intervals"]
    usual, found = known["tpot"], known[name]
    low = found["low"] * min(1.0, spread.low / usual["low"])
    return Spread(low=low, high=found["high"] * max(1.0, spread.high / usual["high"]))
