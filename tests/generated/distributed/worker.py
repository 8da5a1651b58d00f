"""The processes of the pool: each reads a job a line, joins the other ranks, runs a generated program, writes what it found.

Not a test module; see pool.py.
"""

from __future__ import annotations

import inspect
import json
import math
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["LLMC_KERNELS"] = "eager"
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import torch.distributed as dist
import watched
from programs import imported
from safetensors.torch import load_file
from served import cut_runner, greedy
from torch import Tensor
from torch.distributed.tensor.debug import _clear_sharding_prop_cache

from llmc.runtimes.pytorch.loss_scale import LossScale
from llmc.runtimes.pytorch.parallel.checkpoint import SharedCheckpoints
from llmc.runtimes.pytorch.parallel.cuts import box, load_whole, local_part
from llmc.runtimes.pytorch.parallel.mesh import Axis
from llmc.runtimes.serving.work import Chunk


def train(folder: str, reference: str, steps: int, is_wide: bool = False) -> dict[str, Any]:
    """Train with the reference's first weights and batches; how far loss, gradients and weights are from its own."""
    whole = load_file(Path(reference) / "reference.safetensors")
    with imported(Path(folder), "train") as (program,):
        place = program.take_place("cpu")
        model, optimizer = program.build(place)
        if is_wide:
            model.double()
        load_whole(model, place.cuts, part_of(whole, "first"))
        for name, buffer in model.named_buffers():
            if name.endswith("visits"):  # no part of the weights: zero at the start of a step
                buffer.zero_()
        worst = {"loss": 0.0, "grad_norm": 0.0, "gradient": 0.0, "one_gradient": 0.0}
        for step in range(steps):
            batches = list(program.on_device(own_windows(whole["batches"][step], program, place), place))
            loss, grad_norm = program.accumulate_gradients(model, place, batches).tolist()
            for name, found in (("loss", loss), ("grad_norm", grad_norm)):
                expected = whole[name][step].item()
                worst[name] = larger(worst[name], abs(found - expected) / expected)
            if f"gradients.{step}.embed.weight" in whole:
                expected = part_of(whole, f"gradients.{step}")
                found = [(name, parameter.grad) for name, parameter in model.named_parameters()]
                whole_of, of_one = distances(found, expected, place)
                worst["gradient"] = larger(worst["gradient"], whole_of)
                worst["one_gradient"] = larger(worst["one_gradient"], of_one)
            program.update(optimizer, lr=1e-3)
            if hasattr(program, "estimate_curvature") and step % program.CURVATURE_EVERY == 0:
                program.estimate_curvature(model, optimizer, place, batches[-1][0], step=step + 1)
            if hasattr(model, "balance_experts"):
                model.balance_experts()
    return worst


def train_narrow(
    folder: str, reference: str, steps: int, scale: float | None = None, spoiled_step: int | None = None
) -> list[tuple[float, float, float]]:
    """Train in fp16 or fp8 with the reference's first weights and batches: (loss, norm of the gradient, scale afterwards) of each step.

    `scale`: the first one; `spoiled_step`: in which one gradient of the last rank overflows. Between products in fp8 is fp32.
    """
    whole = load_file(Path(reference) / "reference.safetensors")
    with imported(Path(folder), "train") as (program,):
        place = program.take_place("cpu")
        model, optimizer = program.build(place, **asked_of(program.build, bf16=False))
        load_whole(model, place.cuts, part_of(whole, "first"))
        scaling = getattr(program, "SCALE", LossScale(start=1.0, double_every=1 << 30))  # of fp8: none
        scaling.value = scale or scaling.value
        unscale, found = scaling.unscale, []
        autocast = torch.autocast("cpu", dtype=torch.float16, enabled=hasattr(program, "SCALE"))
        precision = asked_of(program.train_step, precision=autocast)
        for step in range(steps):

            def spoil(model: Any, step: int = step) -> None:
                if step == spoiled_step and dist.get_rank() == dist.get_world_size() - 1:
                    gradient = next(each.grad for each in model.parameters() if each.grad is not None)
                    local_part(gradient)[0].view(-1)[0] = math.inf
                unscale(model)

            scaling.unscale = spoil
            batches = list(program.on_device(own_windows(whole["batches"][step], program, place), place))
            before = [local_part(each.detach())[0].clone() for each in model.parameters()]
            loss, norm = program.train_step(model, optimizer, place, batches, lr=1e-3, **precision)
            after = [local_part(each.detach())[0] for each in model.parameters()]
            is_same = all(torch.equal(*pair) for pair in zip(before, after, strict=True))
            assert is_same == (not math.isfinite(norm)), step
            found.append((loss, norm, scaling.value))
    return found


def asked_of(function: Any, **arguments: Any) -> dict[str, Any]:
    """Those arguments that a function of a program has."""
    return {name: value for name, value in arguments.items() if name in inspect.signature(function).parameters}


def validate(folder: str, reference: str) -> float:
    """How far the loss on the reference's first batch, without a backward pass, is from its own."""
    whole = load_file(Path(reference) / "reference.safetensors")
    with imported(Path(folder), "train") as (program,):
        place = program.take_place("cpu")
        model, _ = program.build(place)
        load_whole(model, place.cuts, part_of(whole, "first"))
        loader = SimpleNamespace(sweep=lambda *_, **__: own_windows(whole["batches"][0], program, place))
        expected = whole["loss"][0].item()
        return abs(program.validate(model, place, loader) - expected) / expected


def pass_on(folder: str, start: str, end: str, reference: str | None = None) -> None:
    """Save a checkpoint in `end`: of one step from the reference's first weights or, without one, of what `start` has."""
    with imported(Path(folder), "train") as (program,):
        place = program.take_place("cpu")
        model, optimizer = program.build(place)
        if reference is not None:
            whole = load_file(Path(reference) / "reference.safetensors")
            load_whole(model, place.cuts, part_of(whole, "first"))
            batches = program.on_device(own_windows(whole["batches"][0], program, place), place)
            program.accumulate_gradients(model, place, batches)
            program.update(optimizer, lr=1e-3)
        else:
            saved = SharedCheckpoints(Path(start), place.cuts, keep=1).load_latest(model=model, optimizer=optimizer)
            assert saved is not None
            assert saved.step == 1
        checkpoints = SharedCheckpoints(Path(end), place.cuts, keep=1)
        checkpoints.save(1, model=model, optimizer=optimizer, cursor={})
        checkpoints.finish()


def save(folder: str, reference: str, checkpoints: str) -> None:
    """Take two steps, and save after each."""
    whole = load_file(Path(reference) / "reference.safetensors")
    with imported(Path(folder), "train") as (program,):
        place = program.take_place("cpu")
        model, optimizer = program.build(place)
        load_whole(model, place.cuts, part_of(whole, "first"))
        store = SharedCheckpoints(Path(checkpoints), place.cuts, keep=3)
        for step in (1, 2):
            batches = program.on_device(own_windows(whole["batches"][step], program, place), place)
            program.train_step(model, optimizer, place, batches, lr=1e-3)
            store.save(step, model=model, optimizer=optimizer, cursor={"samples": 8 * step})
        store.finish()


def go_on(folder: str, reference: str, checkpoints: str, to: str) -> float:
    """Load the latest checkpoint, take the step after it, and save that elsewhere; the loss of the step."""
    whole = load_file(Path(reference) / "reference.safetensors")
    with imported(Path(folder), "train") as (program,):
        place = program.take_place("cpu")
        model, optimizer = program.build(place)
        saved = SharedCheckpoints(Path(checkpoints), place.cuts, keep=3).load_latest(model=model, optimizer=optimizer)
        assert saved is not None
        batches = program.on_device(own_windows(whole["batches"][saved.step + 1], program, place), place)
        loss, _ = program.train_step(model, optimizer, place, batches, lr=1e-3)
        store = SharedCheckpoints(Path(to), place.cuts, keep=3)
        store.save(saved.step + 1, model=model, optimizer=optimizer, cursor=saved.cursor)
        store.finish()
    return loss


def copy(folder: str, checkpoints: str, to: str) -> int:
    """Load the latest checkpoint and save it elsewhere; its step."""
    with imported(Path(folder), "train") as (program,):
        place = program.take_place("cpu")
        model, optimizer = program.build(place)
        saved = SharedCheckpoints(Path(checkpoints), place.cuts, keep=3).load_latest(model=model, optimizer=optimizer)
        assert saved is not None
        store = SharedCheckpoints(Path(to), place.cuts, keep=3)
        store.save(saved.step, model=model, optimizer=optimizer, cursor=saved.cursor)
        store.finish()
    return saved.step


def first_weights(folder: str, out: str) -> None:
    """Save the weights that a program starts with."""
    with imported(Path(folder), "train") as (program,):
        place = program.take_place("cpu")
        model, optimizer = program.build(place)
        program.init_weights(model, place)
        store = SharedCheckpoints(Path(out), place.cuts, keep=1)
        store.save(0, model=model, optimizer=optimizer, cursor={})
        store.finish()


def run(
    folder: str, run_dir: str, data: str, flags: list[str], poison: dict[str, float], pauses_s: list[float]
) -> list[int]:
    """Run the program's main; the samples that this rank took. `pauses_s`: what each rank waits before a micro-batch."""
    spoiled = {int(sample): factor for sample, factor in poison.items()}
    pause_s = pauses_s[dist.get_rank()] if pauses_s else 0.0
    return watched.run(Path(folder), Path(run_dir), Path(data), *flags, poison=spoiled, pause_s=pause_s)


def answer(
    folder: str, weights: str, prompts: list[list[int]], num_new: int
) -> tuple[list[list[int]], list[list[float]]]:
    """What a rank of a server answers, and its last logits."""
    with imported(Path(folder), "serve") as (program,):
        assert dist.group.WORLD is not None
        runner = cut_runner(program, weights, Axis(dist.group.WORLD, dist.get_rank(), dist.get_world_size()))
        sequences, logits = greedy(runner, prompts, num_new=num_new)
        return sequences, logits.tolist()


def sent_in_steps(folder: str, weights: str, works: list[list[list[Any]]]) -> list[list[list[Any]]]:
    """Of each step, the collectives of a rank of a server: name and number of elements."""
    with imported(Path(folder), "serve") as (program,), patch_collectives() as sent:
        assert dist.group.WORLD is not None
        runner = cut_runner(program, weights, Axis(dist.group.WORLD, dist.get_rank(), dist.get_world_size()))
        found = []
        for work in works:
            sent.clear()
            runner.step([Chunk(*chunk) for chunk in work])
            found.append([list(each) for each in sent])
        return found


@contextmanager
def patch_collectives() -> Iterator[list[tuple[str, int]]]:
    """Whatever ranks send, in order."""
    sent: list[tuple[str, int]] = []
    names = (
        "all_reduce",
        "all_gather_single",
        "reduce_scatter_single",
        "all_to_all_single",
        "broadcast",
        "gather",
        "send",
    )
    originals = {name: getattr(dist, name) for name in names}

    def watched(name: str) -> Any:
        def call(tensor: Tensor, *args: Any, **options: Any) -> Any:
            sent.append((name, tensor.numel()))
            return originals[name](tensor, *args, **options)

        return call

    for name in names:
        setattr(dist, name, watched(name))
    try:
        yield sent
    finally:
        for name, original in originals.items():
            setattr(dist, name, original)


def answer_in_company(folder: str, weights: str) -> list[bool]:
    """With fixed shapes: whether each request gets the same bits alone and in three others' company, in every place."""
    with imported(Path(folder), "serve") as (program,):
        assert dist.group.WORLD is not None
        world = Axis(dist.group.WORLD, dist.get_rank(), dist.get_world_size())
        runner = cut_runner(program, weights, world, dtype=torch.float32)  # what is left in its cache is not read
        prompts = [[7, 8, 9], [100, 5], list(range(40, 58)), [300]]
        alone = [greedy(runner, [prompt], num_new=6)[1][0] for prompt in prompts]
        same = []
        for turn in range(len(prompts)):
            order = [*range(turn, len(prompts)), *range(turn)]
            together = greedy(runner, [prompts[at] for at in order], num_new=6)[1]
            same += [torch.equal(together[place], alone[at]) for place, at in enumerate(order)]
        return same


def larger(worst: float, found: float) -> float:
    """The larger of two; what is not a number is beyond all."""
    return max(worst, math.inf if math.isnan(found) else found)


def own_windows(step: Tensor, program: Any, place: Any) -> Any:
    """The micro-batches [B, T + 1] of this data-parallel rank, from a step's windows [N, T + 1]."""
    rank, ranks = getattr(place, "data_rank", 0), getattr(program, "DATA_RANKS", 1)
    turns = step.unflatten(0, (program.GRAD_ACCUMULATION, ranks, program.MICRO_BATCH))
    return [turn[rank].numpy() for turn in turns]


def part_of(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{prefix}."): each for name, each in tensors.items() if name.startswith(f"{prefix}.")}


def distances(found: list[tuple[str, Tensor | None]], expected: dict[str, Tensor], place: Any) -> tuple[float, float]:
    """How far what this rank has of the gradient is from what was expected, as a share of the norm: of all, of the worst
    tensor."""
    squares, worst = 0.0, 0.0
    for name, tensor in found:
        assert tensor is not None, name
        pieces = list(place.cuts.pieces(name, tensor))
        away = sum((piece.tensor - box(expected[name], piece)).square().sum().item() for piece in pieces)
        squares += away
        worst = larger(worst, math.sqrt(away) / expected[name].norm().item())
    return math.sqrt(squares / sum(each.square().sum().item() for each in expected.values())), worst


def main() -> None:
    """argv[1]: of each process, where it reads jobs and where it writes answers."""
    torch.set_num_threads(1)
    os.dup2(2, 1)  # what programs print is no word of pytest's
    ends: list[tuple[int, int]] = json.loads(sys.argv[1])
    for own in ends:
        if os.fork() == 0:
            for end in {end for both in ends for end in both} - {*own}:
                os.close(end)  # so that each sees it when the other side of its own is gone
            serve(*own)
    for end in (end for both in ends for end in both):
        os.close(end)
    for _ in ends:
        os.wait()


def serve(jobs: int, answers: int) -> NoReturn:
    out = os.fdopen(answers, "w")
    for line in os.fdopen(jobs):
        job = json.loads(line)
        try:
            _clear_sharding_prop_cache()  # it has meshes of the job before
            store = dist.FileStore(job["store"], job["world_size"])
            dist.init_process_group(
                "gloo", store=store, rank=job["rank"], world_size=job["world_size"], timeout=timedelta(seconds=60)
            )
            answer = {"result": globals()[job["job"]](**job["args"])}
            dist.barrier()
        except Exception:
            answer = {"error": traceback.format_exc()}
        if dist.is_initialized():
            dist.destroy_process_group()
        out.write(json.dumps(answer) + "\n")
        out.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
