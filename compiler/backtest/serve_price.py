"""Price the layout of a serving row: the same engine and closed forms that `llmc plan` sweeps layouts with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...spec import catalog
from ...spec.hardware import Accelerator, Hardware
from ...spec.model import Model
from ..cost.load import Load, Service, held_tokens, serve
from ..cost.serving import Engine, EngineShape
from ..cost.serving_constants import protocol_from, serving_software, serving_table
from ..frontend.model import build_model
from ..pipeline import run_passes
from ..topology.machine import machine_of
from .as_spec import CannotPrice
from .serve_programs import ServeProgram, serve_program_of

if TYPE_CHECKING:
    from ..ir.graph import Graph
    from ..topology.machine import Machine
    from .serve_rows import ServeRow

CHUNK = 8192
"""Prompt tokens a step of the engines that publish."""


@dataclass(frozen=True)
class ServeCase:
    """A row, ready to be priced."""

    row: ServeRow
    program: ServeProgram
    engine: Engine
    has_experts: bool

    @property
    def replicas(self) -> int:
        return max(1, self.row.accelerators // self.engine.shape.devices)

    def load(self, protocol: Mapping[str, float] | None = None) -> Load:
        """What a replica is asked; `protocol` stands in place of the fitted facts of sources (a fit does)."""
        row, facts = self.row, protocol or protocol_from(serving_table())
        assert row.input_tokens is not None
        assert row.concurrency is not None
        return Load(
            row.input_tokens,
            row.output_tokens or 1.0,
            requests_per_s=None,
            concurrency=row.concurrency / self.replicas,
            is_static=self.program.static,
            own_prompts=facts["shared_prompts"] if self.program.shared_prompts else 1.0,
            slot_wait=facts["slot_wait"] if self.program.slot_wait else 0.0,
        )

    def service(self, protocol: Mapping[str, float] | None = None) -> Service:
        load = self.load(protocol)
        return serve(self.engine, load, max_batch=self.room(load))

    def room(self, load: Load) -> float:
        """Requests whose keys and values fit."""
        engine = self.engine
        free = engine.constants.memory_fraction * engine.machine.memory_bytes - engine.weights_bytes
        free -= engine.buffers_bytes(chunk=CHUNK, batch=64)
        each = engine.cached_bytes(held_tokens(load))
        return max(1.0, free / each) if each else float("inf")

    def output_tokens_per_s(self, service: Service) -> float:
        return service.requests_per_s * (self.row.output_tokens or 1.0) * self.replicas


def serve_case_of(row: ServeRow) -> ServeCase:
    """Raises CannotPrice."""
    if row.concurrency is None:
        what = "a rate of arrivals alone" if row.request_rate is not None else "neither a batch nor a concurrency"
        raise CannotPrice(f"the row gives {what}")
    if row.input_tokens is None:
        raise CannotPrice("the row does not give the length of its prompts")
    program = serve_program_of(row)
    weights = program.weights_kept or row.weights
    shape = EngineShape(
        tp=row.tp,
        pp=row.pp,
        ep=row.ep if row.tp % row.ep == 0 else 1,
        weights="bf16" if weights == "fp16" else weights,
        kv_dtype="bf16" if program.kv == "fp16" else program.kv,
        block_scales=program.block_scales,
        reads_kv_per_query=program.kv_again,
    )
    machine = _machine(row)
    architecture = machine.constants.architecture
    engine = Engine(
        _graph(program.preset or row.model),
        machine,
        shape,
        software=serving_software(program.software, architecture=architecture),
    )
    return ServeCase(row, program, engine, has_experts=engine.ops.has_experts)


_graphs: dict[str, Graph] = {}


def _graph(name: str) -> Graph:
    key = name.lower()
    if key not in _graphs:
        if key not in catalog.list_presets():
            raise CannotPrice(f"the model {name} is not in the catalog")
        fields = catalog.preset(key)
        fields.pop("source", None)
        _graphs[key] = run_passes(build_model(Model.model_validate(fields), name=key))
    return _graphs[key]


_machines: dict[tuple[str, int], Machine] = {}


def _machine(row: ServeRow) -> Machine:
    key = (row.accelerator, row.accelerators)
    if key not in _machines:
        if row.accelerator not in catalog.list_accelerators():
            raise CannotPrice(f"the accelerator {row.accelerator} is not in the catalog")
        entry = catalog.accelerator(row.accelerator)
        device: dict[str, Any] = {key: value for key, value in entry.items() if key in Accelerator.model_fields}
        device["name"] = catalog.canonical_name(row.accelerator)
        per_node = min(device.get("per_node", 8), row.accelerators)
        if row.accelerators % per_node:
            per_node = row.accelerators
        nodes = row.accelerators // per_node
        hardware = Hardware.model_validate({"accelerator": device, "nodes": nodes, "per_node": per_node})
        _machines[key] = machine_of(hardware)
    return _machines[key]
