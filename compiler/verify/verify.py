"""`llmc verify`: build a program, or take one that is built, and hold it to its plan without its devices."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..emit.manifest import MANIFEST
from ..planner.claims import CLAIMS_FILE, TrainClaims
from ..planner.plan import Plan
from .ascend import GRAPHS, NOT_SET_UP, check_server, has_torch_npu, serves_on_npu
from .claims import Verdict
from .environments import python_of
from .kernels import compile_for_npus, npu_kernels
from .numerics import check_numerics
from .tpu import NOT_HERE, check_tpu, is_for_tpus
from .training import check_training

if TYPE_CHECKING:
    from ...spec.document import Spec

Progress = Callable[[str], None]
EXECUTED_NOWHERE = "speed, and the collectives' own code on the real network: nothing here ran on the plan's devices"


def verify_folder(folder: Path, *, spec: Spec | None, progress: Progress) -> Verdict:
    """All that can be told of a built program; with its spec, numerics as well. Raises FileNotFoundError without a plan."""
    verdict = _verify(folder, spec, progress=progress)
    if npu_kernels(folder):
        compiled, unchecked = compile_for_npus(folder, progress=progress)
        verdict = replace(verdict, compiled=compiled, unchecked=(*verdict.unchecked, *unchecked))
    edited = (f"{name} was edited after it was built" for name in edited_files(folder))
    return replace(verdict, unchecked=(*verdict.unchecked, *edited))


def _verify(folder: Path, spec: Spec | None, *, progress: Progress) -> Verdict:
    plan = Plan.from_json(json.loads((folder / "plan.json").read_text(encoding="utf-8")))
    unchecked = [EXECUTED_NOWHERE]
    if is_for_tpus(folder):
        return _verify_for_tpus(folder, plan, unchecked, progress=progress)
    if serves_on_npu(folder) and not (folder / CLAIMS_FILE).exists():
        return _verify_npu_server(folder, plan, unchecked, progress=progress)
    if not (folder / CLAIMS_FILE).exists():
        return Verdict(
            plan.name, (), ("this program is for one device: its plan claims nothing that ranks do", *unchecked)
        )
    claims = TrainClaims.model_validate_json((folder / CLAIMS_FILE).read_text(encoding="utf-8"))
    if not claims.figures:
        unchecked.append(
            "traffic, states and memory: plans of ZeRO-2 in pipelines that split the backward pass claim no exact figures yet"
        )
    if claims.device == "npu" and not has_torch_npu():
        unchecked.append(NOT_SET_UP)
    found = list(check_training(folder, claims, progress=progress))
    if spec is None:
        unchecked.append("numerics: give the spec instead of the folder")
    else:
        progress("numerics in float64")
        found += check_numerics(spec, plan, built=folder)
    return Verdict(plan.name, tuple(found), tuple(unchecked))


def _verify_npu_server(folder: Path, plan: Plan, unchecked: list[str], *, progress: Progress) -> Verdict:
    """What torch-npu's own tables say of a server's calls."""
    assert plan.serve is not None
    ranks = plan.serve.devices // plan.serve.layout.replicas
    if ranks > 1 or not has_torch_npu():
        reason = f"calls of a server of {ranks} devices: those of one are" if ranks > 1 else NOT_SET_UP
        return Verdict(plan.name, (), (reason, *unchecked))
    progress("steps of the server, without numbers")
    return Verdict(plan.name, tuple(check_server(folder)), (GRAPHS, *unchecked))


def _verify_for_tpus(folder: Path, plan: Plan, unchecked: list[str], *, progress: Progress) -> Verdict:
    """The verdict of the TPU compiler, as far as it is here."""
    assert plan.train is not None
    missing = [name for name in ("xla", "tpu") if python_of(name) is None]
    if missing:
        return Verdict(plan.name, (), (NOT_HERE, *unchecked))
    found = tuple(check_tpu(folder, plan.train, progress=progress))
    unchecked.append("numerics of this program: tests/xla runs its like on eight virtual devices")
    return Verdict(plan.name, found, tuple(unchecked))


def edited_files(folder: Path) -> Iterator[str]:
    """Files that differ from what the manifest says was written."""
    from hashlib import sha256

    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    for name, entry in manifest["files"].items():
        path = folder / name
        if not path.exists() or sha256(path.read_bytes()).hexdigest() != entry["sha256"]:
            yield name
