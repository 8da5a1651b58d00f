"""The training half of a plan: search, then say it in the plan's terms, or say why nothing fits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ...spec.batch import Batch, fixed_dp, solve_batch
from ...spec.diagnostics import Diagnostic, diagnose
from ...spec.units import GB, GIB
from ..cost.memory import Ledger, Program
from ..cost.reliability import checkpoint_bytes, reliability
from ..cost.software import software_of
from ..cost.step import StepTime
from ..cost.workload import Workload
from ..topology.machine import Machine, machine_of
from .enumerate import OPEN, Given, families, given
from .infeasible import does_not_fit, rule_broken, wrong_size
from .layout import Layout
from .offload import offload_faults, with_or_without
from .plan import Alternative, Memory, Rejected, Reliability, Time, TrainPlan, TrainPrediction
from .train_search import NO_PROGRAM, NUM_SHAPES, Misfit, Priced, Search, nearest_misses, price, runners_up, search

if TYPE_CHECKING:
    from ...spec.document import Spec
    from ..ir.graph import Graph

MAX_ALTERNATIVES = 4
MAX_REJECTED = 8


@dataclass(frozen=True)
class TrainOutcome:
    """The plan, or diagnostics; and what the search saw, for the report."""

    plan: TrainPlan | None
    diagnostics: tuple[Diagnostic, ...]
    work: Workload
    batch: Batch
    found: Search
    auto: Priced | None = None
    """What the search would have chosen, where the user fixed the layout of several devices."""

    @property
    def chosen(self) -> Priced:
        return self.found.fitting[0]


def plan_training(
    spec: Spec, graph: Graph, *, kernels: frozenset[str] = frozenset(), layout: Layout | None = None
) -> TrainOutcome:
    """Plan the (first) training stage of a spec, for a program with these kernels; with `layout`, price that one."""
    assert spec.train is not None
    train, parallel = spec.train[0], spec.parallel
    machine = machine_of(spec.hardware)
    batch = solve_batch(train, parallel, fixed_dp(parallel))
    work = Workload(
        graph,
        machine,
        seq_len=train.seq_len,
        precision=train.precision,
        optimizer=train.optimizer.name,
        program=_program(spec, machine, kernels),
        software=software_of(spec.assume, precision=train.precision),
        has_average=train.ema_decay is not None,
        kernels=kernels or _kernels_of_several(spec),
    )
    wanted = given(parallel)
    faults = offload_faults(wanted, machine)
    if faults:
        return TrainOutcome(None, tuple(faults), work, batch, Search())
    if layout is None:
        found = _search(spec, wanted, work, batch)
    else:
        found = price([layout], work, global_batch=batch.global_batch)
    diagnostics = list(_network_warnings(machine))
    if not found.fitting:
        diagnostics += _nothing(spec, wanted, work, batch, found)
        return TrainOutcome(_misfit_plan(spec, work, batch, found), tuple(diagnostics), work, batch, found)
    auto = None
    if not parallel.is_auto and machine.num_devices > 1:
        auto = next(iter(_search(spec, OPEN, work, batch, num_shapes=1).fitting), None)
    return TrainOutcome(_train_plan(spec, work, batch, found, auto), tuple(diagnostics), work, batch, found, auto)


def _program(spec: Spec, machine: Machine, kernels: frozenset[str]) -> Program | None:
    """How the program that we would generate holds model states; None: somebody else's, or one we do not generate yet."""
    if machine.num_devices == 1:
        return "halves" if "adamw" in kernels else None
    return "fsdp" if spec.assume is None and machine.kind in ("cpu", "gpu", "npu") else None


def _kernels_of_several(spec: Spec) -> frozenset[str]:
    """Those of the program for several devices, or for TPUs, as far as no layout stands against one."""
    from ..kernels.setting import Setting
    from ..kernels.table import choose_kernels
    from ..lower.model import longest_sequence

    assert spec.train is not None
    is_one = spec.hardware.num_devices == 1 and spec.hardware.accelerator.kind != "tpu"
    if is_one or spec.assume is not None:
        return frozenset()
    data_parallel = Layout(dp_shard=spec.hardware.num_devices)
    setting = Setting(spec, spec.train[0], grad_accumulation=1, longest=longest_sequence(spec), layout=data_parallel)
    return frozenset(kernel.name for kernel in choose_kernels(setting))


def _search(spec: Spec, wanted: Given, work: Workload, batch: Batch, *, num_shapes: int = NUM_SHAPES) -> Search:
    """As is wanted; where the planner may keep optimizer states on the host, without that first."""
    sample = Layout(dp_shard=work.machine.num_devices, offload="optimizer")
    return with_or_without(
        lambda each: _search_among(spec, each, work, batch, num_shapes=num_shapes),
        wanted,
        has_program=spec.assume is not None or _refusal(spec, sample) is None,
    )


def _search_among(spec: Spec, wanted: Given, work: Workload, batch: Batch, *, num_shapes: int) -> Search:
    """Among layouts of which there would be a program; where none of these fits, among all."""
    candidates = list(families(wanted, work.graph, work.machine, seq_len=work.seq_len, global_batch=batch.global_batch))
    among = partial(search, candidates, work, global_batch=batch.global_batch, num_shapes=num_shapes)
    if work.program != "fsdp" and (work.machine.kind != "tpu" or spec.assume is not None):
        return among()
    found = among(refusal=lambda layout: _refusal(spec, layout))
    return found if found.fitting or NO_PROGRAM not in found.broken else among()


def _refusal(spec: Spec, layout: Layout) -> str | None:
    """What lowering would say of a layout."""
    from ..lower.refuse import refuse_layout

    return next((each.message for each in refuse_layout(spec, layout)), None)


def _network_warnings(machine: Machine) -> list[Diagnostic]:
    if machine.knows_network:
        return []
    speed = machine.slow.bytes_per_s / 1e9
    message = f"the network between nodes of {machine.accelerator} is not known; {speed:.1f} GB/s a device is assumed"
    return [
        diagnose("P231", message, path=("hardware",), part="key", help="`inter_node_gb_s` under `hardware` says it")
    ]


def _nothing(spec: Spec, wanted: Given, work: Workload, batch: Batch, found: Search) -> list[Diagnostic]:
    """Why no layout is left: memory, a rule, or the number of devices."""

    def retry(other: Given, machine: Machine) -> Search:
        again = Workload(
            work.graph,
            machine,
            seq_len=work.seq_len,
            precision=work.precision,
            optimizer=work.optimizer.optimizer,
            has_average=work.optimizer.has_average,
            program=_program(spec, machine, frozenset({"adamw"} if work.program == "halves" else ())),
            software=work.software,
            kernels=work.kernels,
        )
        return _search(spec, other, again, batch)

    if found.misfits:
        return [does_not_fit(spec, wanted, work, found, retry=retry)]
    if found.violations:
        return [rule_broken(spec, found, retry=retry, wanted=wanted, machine=work.machine)]
    return [wrong_size(spec, wanted, work.machine, retry=retry)]


def _train_plan(spec: Spec, work: Workload, batch: Batch, found: Search, auto: Priced | None) -> TrainPlan:
    chosen = found.fitting[0]
    others = runners_up(found.fitting, at_most=MAX_ALTERNATIVES)
    if auto is not None and auto.layout != chosen.layout:
        others = [auto, *others][:MAX_ALTERNATIVES]
    return TrainPlan(
        layout=chosen.layout,
        predicted=predict(spec, work, batch, chosen),
        fits=True,
        alternatives=tuple(
            Alternative(layout=each.layout, predicted=predict(spec, work, batch, each)) for each in others
        ),
        rejected=_rejected(work, found),
        reliability=_reliability(spec, work, step_s=chosen.time.total),
    )


def _reliability(spec: Spec, work: Workload, *, step_s: float) -> Reliability | None:
    """Checkpoints to the storage that the spec names; without one nothing is known of it."""
    storage, machine = spec.hardware.storage, work.machine
    if storage is None:
        return None
    size = checkpoint_bytes(work.graph.num_parameters(), moments=work.kept_by_optimizer(None, Layout()))
    nodes = max(1, machine.num_devices // machine.per_node)
    host, write = spec.hardware.host, storage.write_gb_s
    rate = min(storage.host_write_gb_s, host.network_gb_s or math.inf) if host and storage.kind != "local" else None
    found = reliability(
        size,
        num_devices=machine.num_devices,
        nodes=nodes,
        node_bytes_per_s=(rate or storage.host_write_gb_s) * GB,
        storage_bytes_per_s=write * GB if write is not None else None,
        host_bytes_per_s=machine.constants.offload_gb_s * GB if machine.kind != "cpu" else None,
    )
    return Reliability(
        checkpoint_gib=size / GIB,
        write_s=found.write_s,
        stop_s=found.stop_s,
        interval_s=found.interval_s,
        every_steps=max(1, round(found.interval_s / step_s)),
        mtbf_hours=found.mtbf_s / 3600,
        goodput=found.goodput,
    )


def _misfit_plan(spec: Spec, work: Workload, batch: Batch, found: Search) -> TrainPlan | None:
    """A layout that does not fit is priced all the same: the nearest miss."""
    from ..cost.step import step_time

    miss = found.nearest_miss
    if miss is None:
        return None
    priced = Priced(miss.layout, miss.ledger, step_time(work, miss.layout))
    predicted = predict(spec, work, batch, priced)
    return TrainPlan(layout=miss.layout, predicted=predicted, fits=False, rejected=_rejected(work, found))


def _rejected(work: Workload, found: Search) -> tuple[Rejected, ...]:
    nearest = nearest_misses(found.misfits, at_most=MAX_REJECTED)
    misfits = [
        Rejected(layout=miss.layout, reason=reason_of_misfit(miss, work), binding=miss.ledger.binding)
        for miss in nearest
    ]
    broken = [
        Rejected(layout=layout, reason=violation.message, binding=violation.key)
        for layout, violation in found.violations.values()
    ]
    return (*misfits, *broken)


def reason_of_misfit(miss: Misfit, work: Workload) -> str:
    """`needs 131.4 GiB of 80.0 GiB`"""
    return f"needs {miss.ledger.peak / GIB:.1f} GiB of {work.machine.memory_bytes / GIB:.1f} GiB"


def predict(spec: Spec, work: Workload, batch: Batch, priced: Priced) -> TrainPrediction:
    """A priced layout in the plan's terms."""
    machine, time = work.machine, priced.time
    devices = priced.layout.devices
    tokens = batch.global_batch * batch.seq_len
    step_s = time.total
    flops_per_s = work.model_flops_per_token * tokens / step_s / devices
    device_hours = batch.steps * step_s * devices / 3600
    price, power = spec.hardware.price_per_hour_usd, machine.tdp_w
    return TrainPrediction(
        step_time_s=step_s,
        step_time_low_s=time.low,
        step_time_high_s=time.high,
        tokens_per_s=tokens / step_s,
        tokens_per_s_per_device=tokens / step_s / devices,
        model_tflops_per_device=flops_per_s / 1e12,
        mfu=flops_per_s / machine.peak(work.precision),
        memory_gib=memory_gib(priced.ledger),
        time_s=_time_s(time),
        device_hours=device_hours,
        cost_usd=device_hours * price if price is not None else None,
        energy_mwh=device_hours * power / 1e6 if power is not None else None,
    )


def memory_gib(ledger: Ledger) -> Memory:
    return Memory(
        peak=ledger.peak / GIB,
        parameters=ledger.parameters / GIB,
        gradients=ledger.gradients / GIB,
        optimizer=ledger.optimizer / GIB,
        activations=ledger.activations / GIB,
        buffers=ledger.buffers / GIB,
    )


def _time_s(time: StepTime) -> Time:
    return Time(**{name: getattr(time, name) for name in Time.model_fields})
