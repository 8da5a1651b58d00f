"""A run on the sources of the standard library: eight virtual devices lower the loss as PyTorch's program for one device does."""

from __future__ import annotations

import sysconfig
from collections.abc import Callable
from pathlib import Path

import torch
from programs import build, imported, plan_of
from reference import BATCH, MODELS, on_tpu, spec_of
from safetensors.torch import load_file, save_file
from torch import Tensor

from llmc.compiler.planner.layout import Layout
from llmc.runtimes.pytorch.weights import named_tensors

STEPS, LR = 40, 3e-3
MODULES = ("argparse.py", "ast.py", "json/decoder.py", "typing.py")


def windows(seq_len: int) -> Tensor:
    """[steps, B, T + 1]: runs of bytes from some modules, at places that are always the same."""
    library = Path(sysconfig.get_path("stdlib"))
    text = torch.frombuffer(bytearray(b"".join((library / name).read_bytes() for name in MODULES)), dtype=torch.uint8)
    starts = torch.randint(0, len(text) - seq_len, (STEPS * BATCH,), generator=torch.Generator().manual_seed(2))
    return text[starts[:, None] + torch.arange(seq_len + 1)].long().unflatten(0, (STEPS, BATCH))


def test_a_run_on_real_text_lowers_the_loss_as_pytorch_does(xla: Callable[..., str], tmp_path: Path) -> None:
    spec = spec_of(MODELS["wide"])
    with imported(build(spec, tmp_path / "alone", plan=plan_of(spec, layout=Layout(micro_batch=BATCH))), "train") as (
        program,
    ):
        torch.manual_seed(0)
        model = program.Model()
        program.init_weights(model)
        first = {f"first.{name}": tensor.detach().clone() for name, tensor in named_tensors(model).items()}
        optimizer, batches = program.make_optimizer(model), windows(program.SEQ_LEN)
        losses = [program.train_step(model, optimizer, iter([batch.numpy()]), lr=LR)[0] for batch in batches]
    save_file(first | {"batches": batches}, tmp_path / "reference.safetensors")
    slice_ = Layout(dp_shard=4, zero=3, tp=2, sequence_parallel=True, micro_batch=1, grad_accumulation=2)
    build(on_tpu(spec), tmp_path / "slice", plan=plan_of(on_tpu(spec), layout=slice_))
    xla(Path(__file__).parent / "worker.py", "--steps", str(STEPS), "--lr", str(LR), tmp_path / "slice")
    found = load_file(tmp_path / "slice" / "found.safetensors")["loss"]
    expected = torch.tensor(losses)
    assert expected[-5:].mean() < 0.65 * expected[0]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=0)
