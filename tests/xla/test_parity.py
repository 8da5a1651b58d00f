"""Loss, norms and gradients of programs for TPUs on 8 CPU devices equal those of PyTorch's program for one device, in fp32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from programs import build, plan_of
from reference import MODELS, filled, on_tpu, run_alone, spec_of
from safetensors.torch import load_file
from torch import Tensor

from llmc.compiler.cost import memory
from llmc.compiler.planner.layout import Layout

CLOSE = 1e-5
EXPERTS = {"num_experts": 4, "experts_per_token": 2, "capacity_factor": 2.0, "router": {"z_loss_weight": 1e-3}}
"""All visits have room, so that the program for one device, whose capacity is that of all tokens, drops none either."""
WINDOW = {"attention": {"kind": "gqa", "window": 11, "softcap": 2.0}}
SPECS = {
    "dense": spec_of(MODELS["wide"]),
    "experts": spec_of(MODELS["wide"] | {"moe": EXPERTS}),
    "window": spec_of(MODELS["wide"] | WINDOW),
}
LAYOUTS = {
    "fsdp 8": Layout(dp_shard=8, zero=3),
    "fsdp 4 x tp 2": Layout(dp_shard=4, zero=3, tp=2),
    "fsdp 4 x tp 2 + sp, full recompute": Layout(dp_shard=4, zero=3, tp=2, sequence_parallel=True, recompute="full"),
    "fsdp 2 x tp 2 x cp 2": Layout(dp_shard=2, zero=3, tp=2, cp=2, cp_kind="ulysses"),
    "replicas 2 x fsdp 2 x tp 2, selective recompute": Layout(
        dp_replicate=2, dp_shard=2, zero=3, tp=2, recompute="selective"
    ),
    "replicas 8": Layout(dp_replicate=8),
    "ep 4 x dp 2": Layout(dp_shard=8, ep=4, zero=3),
    "fsdp 4 x tp 2, window and cap": Layout(dp_shard=4, zero=3, tp=2),
}
LOSS_IN_PIECES = ("fsdp 4 x tp 2 + sp, full recompute", "fsdp 2 x tp 2 x cp 2")


@pytest.fixture(scope="module")
def runs(xla: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict[str, Tensor], ...]]:
    """What PyTorch's program for one device computed, and what that of each layout did: all in one process."""
    folder = tmp_path_factory.mktemp("xla")
    for kind, spec in SPECS.items():
        (folder / kind).mkdir()
        run_alone(spec, folder / kind)
    folders = {}
    for number, (name, layout) in enumerate(LAYOUTS.items()):
        kind = "experts" if layout.ep > 1 else "window" if "window" in name else "dense"
        spec, folders[name] = on_tpu(SPECS[kind]), folder / kind / str(number)
        full = filled(layout) if layout.data_parallel < 8 else replace(layout, micro_batch=1)
        with pytest.MonkeyPatch.context() as patch:
            if name in LOSS_IN_PIECES:
                patch.setattr(memory, "LOSS_PIECE_BYTES", 1 << 13)
            build(spec, folders[name], plan=plan_of(spec, layout=full))
        assert ("pieces=" in (folders[name] / "model.py").read_text(encoding="utf-8")) == (name in LOSS_IN_PIECES)
    xla(Path(__file__).parent / "worker.py", *folders.values())
    return {
        name: (load_file(each.parent / "reference.safetensors"), load_file(each / "found.safetensors"))
        for name, each in folders.items()
    }


@pytest.mark.parametrize("name", LAYOUTS)
def test_programs_for_tpus_compute_what_one_device_computes(
    runs: dict[str, tuple[dict[str, Tensor], ...]], name: str
) -> None:
    reference, found = runs[name]
    steps = len(found["loss"])
    torch.testing.assert_close(found["loss"], reference["loss"][:steps], rtol=CLOSE, atol=0)
    torch.testing.assert_close(found["grad_norm"], reference["grad_norm"][:steps], rtol=CLOSE, atol=0)
    clipped = (1.0 / (found["grad_norm"][0] + 1e-6)).clamp(max=1.0)  # as the reference's are
    gradients = [each for each in found if each.startswith("gradients.")]
    assert len(gradients) == sum(each.startswith("gradients.0.") for each in reference)
    for each in gradients:
        difference = (clipped * found[each] - reference[each]).norm() / reference[each].norm()
        assert difference < CLOSE, f"{each}: {difference:.1e}"
