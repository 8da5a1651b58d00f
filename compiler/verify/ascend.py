"""Programs for Ascend: whether torch-npu has a kernel for every op of a step, asked of its own dispatch table."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator

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
_OWN_CALLS = ("npu::npu_rms_norm", "npu::npu_swiglu", "npu::npu_swiglu_backward")
"""What runtimes/ascend and kernels of templates/kernels/npu call; on a CPU they are the plain ones."""


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
