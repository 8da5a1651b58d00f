"""The constants of the training model, read from constants.toml, where each has its bounds, origin and source."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files
from typing import Any

from .provenance import Spread


@dataclass(frozen=True)
class SoftwareConstants:
    """What a class of programs spends beside its ops."""

    step_s: float
    micro_batch_s: float
    layer_s: float
    pointwise: float


@dataclass(frozen=True)
class DeviceConstants:
    """What a family of devices reaches of its datasheet, and what all families share. Meanings: constants.toml."""

    architecture: str
    products: Mapping[str, float]
    """Share of the peak that matrix products reach, by number format; `bf16` is there for all others."""
    launch_s: float
    matmul_memory: float
    memory: float
    flash: float
    flash2: float
    spread: Spread
    software: Mapping[str, SoftwareConstants]
    expert_share: float
    moe_layer_s: float
    captured_moe_layer_s: float
    ep_exposed: float
    tp_exposed: float
    tp_exposed_overlapped: float
    fsdp_window: float
    slowdown: float
    network_share: float
    imbalance: float
    scale_per_doubling: float
    unfused_score_bytes: float
    unfused_matmul_share: float
    misaligned: float
    logit_bytes: float
    attention_half_tokens: float
    attention_half_head: float
    attention_backward: float
    host_memory: float
    offload_gb_s: float
    half_side: float
    power_exponent: float
    usual_tdp_w: float
    """Power limit at which the family's shares hold; 0: not known."""

    def product_share(self, precision: str) -> float:
        """Of the peak in a number format."""
        name = {"mxfp8": "fp8", "nvfp4": "fp4", "fp32": "bf16"}.get(precision, precision)
        return self.products.get(name, self.products["bf16"])


FORMATS = ("bf16", "fp16", "fp8", "fp4")

Table = Mapping[str, Any]


@cache
def table() -> Table:
    """The file as it is."""
    return tomllib.loads(files("llmc.compiler.cost").joinpath("constants.toml").read_text(encoding="utf-8"))


def constants_from(tables: Table, *, architecture: str | None, kind: str) -> DeviceConstants:
    """The constants of a family of devices; one that the table lacks goes by its kind."""
    families = tables["architecture"]
    name = architecture if architecture is not None and architecture in families else kind
    like = families[name].get("like", name)
    family = {**families[like], **families[name]}
    given = {**tables["shared"], **family}
    values = {key: entry["value"] for key, entry in given.items() if isinstance(entry, dict) and "value" in entry}
    own = {key: values.pop(key) for key in ("step_s", "micro_batch_s", "layer_s") if key in values}
    software = {
        each: SoftwareConstants(**{key: own.get(key, entry["value"]) for key, entry in entries.items()})
        for each, entries in tables["software"].items()
    }
    products = {each: values.pop(each) for each in FORMATS if each in values}
    spread = Spread(**family["spread"])
    return DeviceConstants(architecture=like, products=products, spread=spread, software=software, **values)


@cache
def constants_of(*, architecture: str | None, kind: str) -> DeviceConstants:
    """The constants of a device, by the `architecture` and `kind` that the catalog gives it."""
    return constants_from(table(), architecture=architecture, kind=kind)


def spread_of(constants: DeviceConstants, *, is_narrow: bool, has_experts: bool) -> Spread:
    """How far off a step's time may be: nine of ten published rows of its kind lie within."""
    low, high = constants.spread.low, constants.spread.high
    for name, applies in (("narrow", is_narrow), ("experts", has_experts)):
        if applies:
            more = table()["spread"][name]
            low, high = low * more["low"], high * more["high"]
    return Spread(low=low, high=high)


def shared_names() -> list[str]:
    """Constants that all families share."""
    return [field.name for field in fields(DeviceConstants) if field.name in table()["shared"]]
