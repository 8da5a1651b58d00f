"""Faults planted in a generated program are found by what `llmc verify` compares, and the verdict says where.

Each fault is an edit of one file of a built program for four ranks (dp 2 x tp 2, ZeRO-3, sequence parallelism). Traffic, states
and order are checked on the program run dry in this process; numerics on a pool of real ranks, in fp32.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pool import Pool
from programs import forget_programs, plan_of
from reference import BATCH, filled, run_alone, spec_of

from llmc.compiler.emit.tree import write_tree
from llmc.compiler.lower.lower import lower
from llmc.compiler.planner.claims import TrainClaims
from llmc.compiler.planner.layout import Layout
from llmc.compiler.verify.claims import Claim
from llmc.compiler.verify.dry import Job
from llmc.compiler.verify.record import Record
from llmc.compiler.verify.training import check_training
from llmc.runtimes.pytorch.dryrun.run import DryProgram

LAYOUT = filled(Layout(dp_shard=2, zero=3, tp=2, sequence_parallel=True))


@dataclass(frozen=True)
class Fault:
    """`old` in `file` becomes `new`; the verdict has to hold `told`."""

    name: str
    file: str
    old: str
    new: str
    told: str


SEEN_DRY = (
    Fault(
        "layers not sharded",
        "parallel.py",
        "for layer in model.layers:",
        "for layer in ():",
        "all_gather over dp_shard",
    ),
    Fault(
        "sharded over the wrong axis",
        "parallel.py",
        'shards = place.mesh["dp_shard"]',
        'shards = place.mesh["tp"]',
        "all_gather over dp_shard",
    ),
    Fault(
        "weights kept after the forward pass",
        "parallel.py",
        "fully_shard(layer, mesh=shards)",
        "fully_shard(layer, mesh=shards, reshard_after_forward=False)",
        "all_gather over dp_shard",
    ),
    Fault(
        "norms not summed over tp", "parallel.py", "rest=Whole(is_shared=True)", "rest=Whole()", "all_reduce over tp"
    ),
    Fault(
        "a collective too many",
        "model.py",
        "return reduce_scatter(self.out(y), self.tp)",
        "return reduce_scatter(self.out(all_reduce(y, self.tp)), self.tp)",
        "all_reduce over tp",
    ),
    Fault(
        "input gathered and kept",
        "model.py",
        "gathered_linear(x, self.qkv, self.tp)",
        "self.qkv(all_gather(x, self.tp))",
        "all_gather over tp",
    ),
    Fault("a layer lost", "model.py", "range(3)", "range(2)", "weights of rank 0"),
    Fault(
        "norms of a layer not summed",
        "train.py",
        "sum_shared_gradients(model, place.cuts, place.tp)",
        "pass",
        "all_reduce over tp",
    ),
    Fault(
        "loss and norm of one rank", "train.py", "dist.all_reduce(sums)\n    loss,", "loss,", "all_reduce over world"
    ),
    Fault(
        "loss and norm over the wrong group",
        "train.py",
        "dist.all_reduce(sums)\n    loss,",
        "dist.all_reduce(sums, group=place.tp.group)\n    loss,",
        "all_reduce over world",
    ),
    Fault("micro-batch of another size", "train.py", "MICRO_BATCH = 2", "MICRO_BATCH = 1", "reduce_scatter over tp"),
    Fault(
        "half of the moments",
        "train.py",
        "matrices = [parameter for parameter in model.parameters() if parameter.dim() >= 2]",
        "matrices = [parameter for parameter in model.parameters() if parameter.dim() >= 2][::2]",
        "moments of rank 0",
    ),
    Fault(
        "gradients of one micro-batch",
        "train.py",
        "for tokens, targets in batches:",
        "for tokens, targets in list(batches)[:1]:",
        "reduce_scatter over dp_shard",
    ),
    Fault(
        "embedding and head not sharded",
        "parallel.py",
        "    fully_shard(model, mesh=shards)\n",
        "",
        "mixed torch.Tensor and DTensor",
    ),
    Fault(
        "another order on one rank",
        "model.py",
        "return reduce_scatter(self.out(y), self.tp)",
        "return reduce_scatter(self.out(y) if self.tp.rank == 0 else self.out(all_reduce(y, self.tp)), self.tp)",
        "rank 0 waits in its collective",
    ),
    Fault(
        "a rank that does less",
        "train.py",
        "dist.all_reduce(sums)\n    loss,",
        "dist.all_reduce(sums) if place.tp.rank == 0 else None\n    loss,",
        "which rank 1 never issues",
    ),
    Fault(
        "another format on one rank",
        "train.py",
        "dist.all_reduce(sums)\n    loss,",
        "dist.all_reduce(sums if place.tp.rank == 0 else sums.double())\n    loss,",
        "rank 0 waits in its collective",
    ),
)

SEEN_IN_NUMERICS = (
    Fault("gradients averaged", "parallel.py", "sum_gradients(model)", "pass", "gradient"),
    Fault(
        "accumulation not scaled",
        "train.py",
        "model.loss(tokens, targets) / TOKENS_PER_STEP",
        "model.loss(tokens, targets) / (TOKENS_PER_STEP // GRAD_ACCUMULATION)",
        "gradient",
    ),
    Fault("loss counted by every rank of tp", "train.py", "total /= 2", "total /= 1", "loss"),
    Fault(
        "gradients clipped to next to nothing", "train.py", "grad_norm, most=1.0)", "grad_norm, most=1e-5)", "grad_norm"
    ),
    Fault(
        "targets of the same token", "train.py", "batch[:, :-1], batch[:, 1:]", "batch[:, :-1], batch[:, :-1]", "loss"
    ),
    Fault("a token too many in the softmax", "model.py", "vocab_size=301", "vocab_size=302", "loss"),
    Fault("keys not turned", "model.py", "rotate(q, cos, sin), rotate(k, cos, sin)", "rotate(q, cos, sin), k", "loss"),
    Fault("attention to later tokens", "model.py", "is_causal=True", "is_causal=False", "loss"),
    Fault(
        "gate and up exchanged",
        "model.py",
        "gate, up = gate_up.chunk(2, dim=-1)",
        "up, gate = gate_up.chunk(2, dim=-1)",
        "loss",
    ),
    Fault(
        "a residual left out",
        "model.py",
        "return x + self.mlp(self.mlp_norm(x))",
        "return self.mlp(self.mlp_norm(x))",
        "loss",
    ),
    Fault("norms decay too", "train.py", '"weight_decay": 0.0}', '"weight_decay": 0.1}', "grad_norm"),
)


@pytest.fixture(scope="module")
def spec() -> Any:
    return spec_of({})


@pytest.fixture(scope="module")
def built(spec: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program without a fault, with its claims."""
    return build_with_claims(spec, tmp_path_factory.mktemp("program"))


def build_with_claims(spec: Any, folder: Path, *, layout: Layout = LAYOUT) -> Path:
    from llmc.compiler.emit.tree import render_program
    from llmc.compiler.lower.views import Place

    program = lower(spec, plan_of(spec, layout=layout), place=Place(spec_file=folder / "tiny.yaml", out_dir=folder))
    write_tree(render_program(program, locate=lambda *_: None), folder)
    (folder / "claims.json").write_text(claims_for(spec, layout).to_text())
    return folder


def claims_for(spec: Any, layout: Layout = LAYOUT) -> TrainClaims:
    """What the planner claims of this layout."""
    from llmc.compiler.frontend.model import build_graph
    from llmc.compiler.pipeline import run_passes
    from llmc.compiler.planner.claims import claims_of_layout

    peaks = dict.fromkeys(range(layout.pp), 0)
    return claims_of_layout(spec, run_passes(build_graph(spec)), layout, peaks=peaks)


def with_fault(fault: Fault, built: Path, folder: Path) -> Path:
    shutil.copytree(built, folder, dirs_exist_ok=True)
    path = folder / fault.file
    text = path.read_text()
    assert text.count(fault.old) == 1, f"{fault.file} has `{fault.old}` {text.count(fault.old)} times"
    text = text.replace(fault.old, fault.new)
    if "all_reduce(" in fault.new and fault.file == "model.py":
        text = text.replace("import all_gather, gathered_linear", "import all_gather, all_reduce, gathered_linear")
    path.write_text(text)
    return folder


def runs_here(folder: Path, jobs: Sequence[Job]) -> Iterator[list[Record]]:
    """Dry runs in this process."""
    for job in jobs:
        program = DryProgram(folder, device=job.device)
        sys.path.remove(str(folder))
        forget_programs()
        if job.layers is not None:
            program.keep_layers(job.layers)
        runs = (program.run(rank, micro_batches=count) for rank in job.ranks for count in job.micro_batches)
        yield [Record.from_json(json.loads(json.dumps(run))) for run in runs]


def claims_that_fail(folder: Path) -> list[Claim]:
    claims = TrainClaims.model_validate_json((folder / "claims.json").read_text())
    found: Iterable[Claim] = check_training(folder, claims, progress=lambda _: None, runs=runs_here)
    return [claim for claim in found if not claim.holds and claim.topic != "memory"]


def test_without_a_fault_all_claims_hold(built: Path) -> None:
    assert claims_that_fail(built) == []


@pytest.mark.parametrize("fault", SEEN_DRY, ids=lambda fault: fault.name)
def test_faults_that_a_dry_run_shows(fault: Fault, built: Path, tmp_path: Path) -> None:
    try:
        failed = claims_that_fail(with_fault(fault, built, tmp_path / "program"))
        said = "\n".join(f"{claim.name}: {claim.found} {claim.hint}" for claim in failed)
    except RuntimeError as torch_refuses:  # a user sees the end of it
        said = str(torch_refuses)
    assert fault.told in said


@pytest.fixture(scope="module")
def reference(spec: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    run_alone(spec, folder)
    return folder


@pytest.mark.parametrize("fault", SEEN_IN_NUMERICS, ids=lambda fault: fault.name)
def test_faults_that_numbers_show(fault: Fault, built: Path, reference: Path, pool: Pool, tmp_path: Path) -> None:
    folder = with_fault(fault, built, tmp_path / "program")
    found = pool.run("train", world_size=LAYOUT.devices, folder=str(folder), reference=str(reference), steps=2)
    assert max(worst[fault.told] for worst in found) > 1e-5, found
    assert LAYOUT.data_parallel * LAYOUT.micro_batch * LAYOUT.grad_accumulation == BATCH
