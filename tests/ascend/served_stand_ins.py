"""A generated server for Ascend beside the same one for CPUs, in a process with torch-npu: python served_stand_ins.py NPU_FOLDER CPU_FOLDER

Stand-ins compute on this CPU under torch-npu's own schemas, and hold arguments to what its documents ask of them. Graphs are recorded by the
dispatcher and made again call by call, on the memory of the first time: what was a number of Python's when a graph was captured stays that
number, but for what `update` changes. Both programs get the same weights in float32 and the same requests. Prints what differs as JSON.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch_npu  # type: ignore[import-not-found]
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch_npu.npu._npugraph_handlers.npugraph_handler import (  # type: ignore[import-not-found]
    _NPU_GRAPH_OP_HANDLERS as HANDLERS,
)

from llmc.runtimes.reference.decode_attention import paged_attention
from llmc.runtimes.reference.norm import add_rms_norm
from llmc.runtimes.serving.work import Chunk

CALLS: Counter[str] = Counter()
ATTENTION = "npu_fused_infer_attention_score"


def npu_rms_norm(x: Tensor, gamma: Tensor, epsilon: float = 1e-6) -> tuple[Tensor, Tensor]:
    return add_rms_norm(None, x, gamma, eps=epsilon)[1], x[..., :1].float()


def npu_add_rms_norm(x1: Tensor, x2: Tensor, gamma: Tensor, epsilon: float = 1e-6) -> tuple[Tensor, Tensor, Tensor]:
    assert x1.dtype == x2.dtype == gamma.dtype
    total, normed = add_rms_norm(x1, x2, gamma, eps=epsilon)
    return normed, x1[..., :1].float(), total


def npu_swiglu(x: Tensor, dim: int = -1) -> Tensor:
    gate, up = x.chunk(2, dim)
    return torch.nn.functional.silu(gate) * up


def npu_rotary_mul(
    x: Tensor, r1: Tensor, r2: Tensor, rotary_mode: str = "half", rotate: Tensor | None = None
) -> Tensor:
    assert x.dtype == r1.dtype == r2.dtype
    assert x.shape[-1] == r1.shape[-1] == r2.shape[-1]
    assert rotary_mode in ("half", "interleave")
    if rotary_mode == "half":
        a, b = x.chunk(2, -1)
        return x * r1 + torch.cat((-b, a), -1) * r2
    a, b = x[..., ::2], x[..., 1::2]
    return x * r1 + torch.stack((-b, a), -1).flatten(-2) * r2


def npu_scatter_nd_update_(data: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    assert indices.shape[-1] == 1
    assert updates.dtype == data.dtype
    assert updates.shape == (*indices.shape[:-1], *data.shape[1:])
    data[indices[..., 0]] = updates
    return data


def npu_fused_infer_attention_score(query: Tensor, key: Tensor, value: Tensor, **given: Any) -> tuple[Tensor, Tensor]:
    blocks, lengths, heads = given["block_table"], given["actual_seq_lengths_kv"], given["num_heads"]
    assert (
        given.get("input_layout", "BSH") == "BSH"
    )  # which the dispatcher leaves out, as it is what the schema says anyway
    assert blocks.dtype == torch.int32
    assert len(lengths) == len(query) == len(blocks)
    assert max(lengths) <= blocks.shape[1] * given["block_size"]
    assert key.dim() == 3
    assert key.shape[1] == given["block_size"]
    assert key.shape[1] % 16 == 0
    kv_heads = given["num_key_value_heads"]
    keys, values = (each.flatten(0, 1).unflatten(-1, (kv_heads, -1)) for each in (key, value))
    q = query.unflatten(-1, (heads, -1)).transpose(1, 2)
    newest = [
        int(table[(n - 1) // key.shape[1]]) * key.shape[1] + (n - 1) % key.shape[1]
        for table, n in zip(blocks, lengths, strict=True)
    ]
    written = torch.tensor(newest)[:, None]
    own = (each[written].transpose(1, 2) for each in (keys, values))  # as they were written already
    y = paged_attention(
        q, *own, keys, values, written, blocks, list(lengths), block_tokens=key.shape[1], scale=given["scale"]
    )
    return y, query.new_empty(0)


class Recorded(TorchDispatchMode):
    """A graph: every call, with its arguments and what it gave."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []
        self.changes: dict[str, Any] | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, given))
        return given

    def pool(self) -> tuple[int, int]:
        return (0, 1)

    def update(self, cpu_update_input: list[dict[str, Any]]) -> None:
        (self.changes,) = cpu_update_input
        of_attention = {name for _, _, name in HANDLERS[f"{ATTENTION}.default"].UPDATE_SPECS[f"{ATTENTION}.default"]}
        assert set(self.changes) <= of_attention

    def replay(self) -> None:
        assert self.changes is not None, "a replay waits for its update"
        CALLS["replay"] += 1
        for func, args, kwargs, before in self.calls:
            given = func(*args, **(kwargs | self.changes if ATTENTION in str(func) else kwargs))
            pairs = zip(before, given, strict=True) if isinstance(before, tuple | list) else [(before, given)]
            for old, new in pairs:
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)
        self.changes = None


def graph(*args: Any, **kwargs: Any) -> Recorded:
    """In the place of torch.npu.graph, whose arguments these have to be."""
    return inspect.signature(torch_npu.npu.graphs.graph).bind(*args, **kwargs).arguments["npu_graph"]


def loaded(file: Path, name: str, *, edits: tuple[tuple[str, str], ...]) -> ModuleType:
    """A module by its file, in another device and number format."""
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    text = file.read_text(encoding="utf-8")
    for old, new in edits:
        assert old in text, (file, old)
        text = text.replace(old, new)
    exec(compile(text, str(file), "exec"), module.__dict__)
    return module


def program(folder: Path, *, is_npu: bool) -> ModuleType:
    for name in [name for name in sys.modules if name in ("kernels", "model") or name.startswith("kernels.")]:
        del sys.modules[name]
    sys.path.insert(0, str(folder))
    on_npu = (('"npu"', '"cpu"'),) if is_npu else ()
    for file in sorted((folder / "kernels").glob("*.py")):
        loaded(file, f"kernels.{file.stem}", edits=on_npu)
    loaded(folder / "model.py", "model", edits=())
    module = loaded(folder / "serve.py", f"served_{is_npu}", edits=on_npu)
    sys.path.remove(str(folder))
    return module


def runner_of(module: ModuleType, weights: dict[str, Tensor] | None) -> Any:
    torch.manual_seed(0)
    model = module.Model()
    if weights is not None:
        model.load_state_dict(weights)
    runner = module.Runner(model, module.KVCache(module.NUM_BLOCKS, module.BLOCK_TOKENS, torch.float32))
    if hasattr(runner, "warm_up"):
        runner.warm_up()
    return runner


def answers(runner: Any, module: ModuleType) -> tuple[list[list[int]], list[Tensor]]:
    """Greedy tokens of prompts that begin one after another and end at different times, and the logits of every step."""
    size, pieces = module.BLOCK_TOKENS, 24
    generator = torch.Generator().manual_seed(1)
    prompts = [torch.randint(0, 512, (n,), generator=generator).tolist() for n in (1, 40, 17, 70, 5, 33)]
    texts, done, found = [list(prompt) for prompt in prompts], [0] * len(prompts), []
    blocks = [[len(prompts) * at + who for at in range(-(-128 // size))] for who in range(len(prompts))]  # in turns
    for step in range(24):
        who = [at for at in range(len(prompts)) if at <= step and len(texts[at]) < len(prompts[at]) + 8 + at]
        work = []
        for at in who:
            end = min(len(texts[at]), done[at] + pieces)
            held = blocks[at][: -(-end // size)]
            work.append(Chunk(held, done[at], texts[at][done[at] : end], end == len(texts[at])))
            done[at] = end
        if not work:
            break
        logits = runner.step(work)
        found.append(logits.clone())
        asked = [at for at, chunk in zip(who, work, strict=True) if chunk.needs_logits]
        for at, token in zip(asked, logits.argmax(-1).tolist() if asked else [], strict=True):
            texts[at].append(token)
    return [text[len(prompt) :] for text, prompt in zip(texts, prompts, strict=True)], found


def main() -> None:
    torch.set_num_threads(1)
    library = torch.library.Library("npu", "IMPL")
    for stand_in in (npu_rms_norm, npu_add_rms_norm, npu_swiglu, npu_rotary_mul, npu_scatter_nd_update_):
        library.impl(stand_in.__name__, counted(stand_in), "CPU")
    library.impl(ATTENTION, counted(npu_fused_infer_attention_score), "CPU")
    torch.cpu.NPUGraph, torch.cpu.graph = Recorded, graph  # type: ignore[attr-defined]
    import llmc.runtimes.ascend as ascend

    for name in ("norm", "rotary", "graphs"):
        file = Path(ascend.__path__[0]) / f"{name}.py"
        loaded(file, f"llmc.runtimes.ascend.{name}", edits=(('"npu"', '"cpu"'),))
    npu, cpu = program(Path(sys.argv[1]), is_npu=True), program(Path(sys.argv[2]), is_npu=False)
    of_cpu = runner_of(cpu, None)
    of_npu = runner_of(npu, of_cpu.model.state_dict())
    tokens, logits = answers(of_npu, npu)
    expected, expected_logits = answers(of_cpu, cpu)
    off = max(float((a - b).abs().max()) for a, b in zip(logits, expected_logits, strict=True) if len(a))
    print(json.dumps({"tokens": tokens, "expected": expected, "logits": off, "calls": CALLS}))


def counted(stand_in: Any) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        CALLS[stand_in.__name__] += 1
        return stand_in(*args, **kwargs)

    return call


if __name__ == "__main__":
    main()
