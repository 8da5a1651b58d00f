"""Programs for Ascend: whether torch-npu has a kernel for every op of a step, asked of its own dispatch table; and of servers, whether each
call is one that its schemas and meta kernels take."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from .claims import Claim
from .environments import npu_folder, npu_variables

NOT_SET_UP = "kernels of torch-npu: `make setup-npu` puts its table where this command finds it"
_ON_NPU = {
    "aten::_scaled_dot_product_flash_attention_for_cpu": "aten::scaled_dot_product_attention",
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": "aten::scaled_dot_product_attention",
}
"""What torch makes of an op on a CPU, where the dry run happens, and the op itself, which torch-npu takes as a whole."""
_BESIDE = ("c10d::", "_c10d_functional::", "fsdp::", "llmc::", "prim::")
"""Collectives, which are HCCL's; ops of our own, which consist of others; questions that no device answers."""
_OWN_CALLS = ("npu::npu_rms_norm", "npu::npu_swiglu", "npu::npu_swiglu_backward", "npu::npu_grouped_matmul")
"""What runtimes/ascend and kernels of templates/kernels/npu call in a step of training; on a CPU they are the plain ones."""


GRAPHS = "capture and replay of graphs on an NPU: tests/ascend replays steps call by call, with stand-ins for torch-npu's ops"
_OVERLOADED = "failed to match any schema"
_DEVICE = 'torch.device("npu")'


def has_torch_npu() -> bool:
    return (npu_folder() / "ready").exists()


def check_kernels(ops: Iterable[str]) -> Iterator[Claim]:
    """One claim: no op of a step is without a kernel."""
    asked = {_ON_NPU.get(name, name) for name in ops if not name.startswith(_BESIDE)} | {*_OWN_CALLS}
    command = [sys.executable, "-P", "-W", "ignore", "-m", "llmc.runtimes.ascend.kernel_table"]
    said = subprocess.run(
        command,
        env=npu_variables(npu_folder()),
        input="\n".join(sorted(asked)),
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(said.stdout.splitlines()[-1])
    yield Claim(
        "kernels",
        f"ops of a step that torch-npu {found['version']} has no kernel for, of {len(asked)}",
        "none",
        ", ".join(found["missing"]) or "none",
    )


def serves_on_npu(folder: Path) -> bool:
    """Whether a build has a server that puts its model on an NPU."""
    program = folder / "serve.py"
    return program.exists() and _DEVICE in program.read_text(encoding="utf-8")


def check_server(folder: Path) -> Iterator[Claim]:
    """Steps at the sizes of the plan, on tensors without numbers: every call is taken, and no op is without a kernel."""
    command = [sys.executable, "-P", "-W", "ignore", "-m", "llmc.runtimes.ascend.dry_server", str(folder.resolve())]
    said = subprocess.run(command, env=npu_variables(npu_folder()), capture_output=True, text=True)
    name = "steps of single tokens and of prompts that torch-npu's schemas and meta kernels take"
    if said.returncode:
        yield Claim("calls", name, "all", _error_of(said.stderr))
        return
    found = json.loads(said.stdout.splitlines()[-1])
    yield Claim(
        "calls",
        f"{name}, in batches of {_listed(found['batches'])} and pieces of {_listed(found['pieces'])}",
        "all",
        "all",
    )
    yield Claim(
        "kernels",
        f"ops of a step that torch-npu {found['version']} has no kernel for, of {len(found['ops'])}",
        "none",
        ", ".join(found["missing"]) or "none",
    )


def _listed(sizes: list[int]) -> str:
    return ", ".join(map(str, sizes))


def _error_of(text: str) -> str:
    """What torch-npu says of a call: of one that no overload takes, what stands against the first."""
    lines = text.strip().splitlines()
    errors = [at for at, line in enumerate(lines) if re.match(r"\w+(Error|Exception): ", line)]
    if not errors:
        return lines[-1]
    found = lines[errors[-1]]
    if _OVERLOADED in found and errors[-1] + 1 < len(lines):
        found = lines[errors[-1] + 1]
    return found.partition(" Schema: ")[0].partition(" Declaration: ")[0]
