"""Price the layout of a row: the same workload, ledger and step time as `llmc plan` uses for a layout fixed by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...spec.units import GIB
from ..cost.software import software_of
from ..cost.step import StepTime, step_time
from ..cost.workload import Workload
from ..frontend.model import build_model
from ..pipeline import run_passes
from ..planner.layout import Layout
from ..topology.machine import machine_of
from .as_spec import spec_of
from .programs import program_of

if TYPE_CHECKING:
    from ...spec.document import Spec
    from ..ir.graph import Graph
    from .rows import TrainRow

RESERVED = 1.05
"""Of what is allocated, what PyTorch's allocator reserves (1.0-1.2 in published rows)."""
PROCESS_BYTES = 15 * GIB
"""What nvidia-smi shows beyond that: contexts, NCCL's buffers, fragments (published rows)."""


@dataclass(frozen=True)
class Case:
    """A row, ready to be priced."""

    row: TrainRow
    work: Workload
    layout: Layout
    memory: str
    """What the source's peak means (programs.toml)."""
    architecture: str | None

    def step(self) -> StepTime:
        return step_time(self.work, self.layout)

    def step_s(self) -> float:
        return self.step().total

    def memory_gib(self) -> float:
        """The peak in the source's sense."""
        ledgers = self.work.ledgers(self.layout)
        ledger = ledgers[-1] if "last rank" in self.memory else max(ledgers, key=lambda each: each.peak)
        if self.memory.startswith("allocated"):
            return ledger.allocated / GIB
        reserved = RESERVED * ledger.allocated
        return (reserved if self.memory == "reserved" else reserved + PROCESS_BYTES) / GIB


def case_of(row: TrainRow) -> Case:
    """Raises CannotPrice."""
    program = program_of(row)
    spec = spec_of(row, program)
    assert spec.train is not None
    train = spec.train[0]
    work = Workload(
        _graph(spec),
        machine_of(spec.hardware),
        seq_len=train.seq_len,
        precision=train.precision,
        optimizer=train.optimizer.name,
        software=software_of(spec.assume),
    )
    return Case(row, work, layout_of(spec), program.memory, spec.hardware.accelerator.architecture)


_graphs: dict[str, Graph] = {}


def _graph(spec: Spec) -> Graph:
    """The graph that `llmc plan` builds, with the attention that the program has."""
    assert spec.train is not None
    attention = spec.assume.attention if spec.assume else None
    key = f"{spec.model.model_dump_json()} {attention}"
    if key not in _graphs:
        graph = build_model(spec.model, name=spec.name, train=spec.train[0])
        _graphs[key] = run_passes(graph, attention=attention)
    return _graphs[key]


def layout_of(spec: Spec) -> Layout:
    """A layout with every degree given, as it stands."""
    given = spec.parallel.model_dump(exclude={"rest"}, exclude_none=True)
    return Layout(**given, cp_kind="ring" if spec.parallel.cp != 1 else None)
