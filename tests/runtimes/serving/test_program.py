"""The generated serve.py: it reads as written by hand, and serves the model that model.py is."""

from __future__ import annotations

import ast
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import torch
from programs import build, imported, plan_of, tiny_spec
from torch import Tensor

from llmc.compiler.emit.render import render
from llmc.compiler.lower.serving import ServeView
from llmc.runtimes.common.errors import RunError
from llmc.runtimes.pytorch.weights import save_weights
from llmc.runtimes.serving.generation import Generation, Sampling
from llmc.runtimes.serving.keys import new_key
from llmc.runtimes.serving.kv import KVBlocks
from llmc.runtimes.serving.prefix import PrefixBlocks
from llmc.runtimes.serving.sampler import RowSampler
from llmc.runtimes.serving.scheduler import Scheduler

VIEW = ServeView(
    name="tiny",
    origin="tiny.yaml",
    plan_lines=("8 sequences at a time, time to first token 20 ms.",),
    device="cpu",
    packed=None,
    compiles_kernels=False,
    is_bf16=False,
    kv_dtype="torch.float32",
    vocab_size=512,
    max_seq_len=128,
    max_batch=8,
    block_tokens=16,
    num_blocks=64,
    num_blocks_reason="the planned room of 1,024 tokens, 1.5 MiB",
    has_prefix_cache=False,
    is_fixed=False,
    max_blocks=8,
    asks_keys=False,
    has_tls=False,
    cors=(),
    requests_per_minute=None,
    has_tracing=False,
    has_page=False,
    replicas=1,
    ranks=None,
    has_draw=False,
    joins_prompts=False,
    experts=None,
    bounds=(),
    prefill_chunk=16,
    prefill_chunk_reason="9 ms",
    prefill_lengths=(16,),
    prefill_lengths_reason="9% of the last pieces is padding",
    max_waiting=32,
    max_waiting_reason="4 for each that runs",
    max_waiting_tokens=4000,
    max_waiting_tokens_reason="(ttft 0.5 s - prefill 0.1 s) * 10000 tokens/s",
    max_wait_steps=40,
    max_wait_steps_reason="(500 ms objective - 20 ms) of 12 ms",
    stall_s=30.0,
    drain_s=20,
    graph_batches=(),
    tells_lengths=False,
    chips=1,
)
VARIANTS = {
    "cpu-fp32": VIEW,
    "cpu-bf16": replace(VIEW, is_bf16=True, kv_dtype="torch.bfloat16"),
    "prefix-cache": replace(VIEW, has_prefix_cache=True, bounds=(("llmc_time_to_first_token_seconds", (0.3,)),)),
    "guarded": replace(
        VIEW, asks_keys=True, has_tls=True, cors=("https://a.example", "http://b:8080"), requests_per_minute=60
    ),
    "fixed": replace(VIEW, is_fixed=True, max_wait_steps=None, prefill_lengths=(4, 8, 16)),
    "gpu-fixed": replace(VIEW, device="cuda", is_fixed=True, has_prefix_cache=True),
    "traced": replace(VIEW, has_tracing=True),
    "page": replace(VIEW, has_page=True, asks_keys=True),
    "open-page": replace(VIEW, has_page=True),
    "gpu": replace(VIEW, device="cuda", is_bf16=True, kv_dtype="torch.bfloat16"),
    "hostile": replace(VIEW, name='a"""\nimport os\n{{ 7 * 7 }}', origin='"""; x', num_blocks_reason="\n1/0"),
}


PROGRAMS = ("serve", "router")


def text_of(view: ServeView, program: str = "serve") -> str:
    return render(f"pytorch/{program}.py.j2", {"s": view}).text


def write_variant(folder: Path, name: str) -> list[Path]:
    """Both programs of a variant, the second as if there were several replicas."""
    files = [folder / f"{program}_{name.replace('-', '_')}.py" for program in PROGRAMS]
    for file, program in zip(files, PROGRAMS, strict=True):
        file.write_text(text_of(replace(VARIANTS[name], replicas=3), program))
    return files


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build of a tiny model with its server."""
    spec = tiny_spec(without=("train", "data"), serve={"max_seq_len": 128, "weights": {"dtype": "fp32"}})
    path = build(spec, tmp_path_factory.mktemp("build"))
    (path / "serve.py").write_text(text_of(VIEW))
    return path


def test_the_program_is_formatted_and_linted(folder: Path):
    files = [file for name in VARIANTS for file in write_variant(folder, name)]
    ruff = Path(sys.executable).with_name("ruff")
    for command in (["format", "--diff"], ["check"]):
        done = subprocess.run(
            [ruff, *command, *(file.name for file in files)], cwd=folder, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_program_is_well_typed(folder: Path, import_root: Path, tmp_path: Path):
    for name in VARIANTS:
        write_variant(folder, name)
    config = {"include": [str(folder)], "typeCheckingMode": "standard", "extraPaths": [str(import_root), str(folder)]}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(config))
    checker = Path(sys.executable).with_name("basedpyright")
    done = subprocess.run([checker, "-p", tmp_path, "--pythonpath", sys.executable], capture_output=True, text=True)
    assert "0 errors" in done.stdout, done.stdout


def test_a_server_of_a_dense_model_is_read_in_an_evening(folder: Path):
    lines = {name: len((folder / name).read_text().splitlines()) for name in ("serve.py", "model.py")}
    assert sum(lines.values()) <= 1500, lines


def test_what_is_not_declared_is_not_imported():
    plain, guarded = text_of(VIEW), text_of(replace(VARIANTS["guarded"], has_prefix_cache=True))
    guarded += text_of(VARIANTS["traced"]) + text_of(VARIANTS["page"])
    for name in ("keys", "rates", "prefix", "tracing", "chat_page"):
        assert f"llmc.runtimes.serving.{name}" not in plain
        assert f"llmc.runtimes.serving.{name}" in guarded
    assert "CORSMiddleware" not in plain


def test_broken_weights_end_the_program_before_it_serves(folder: Path, tmp_path: Path, monkeypatch):
    """A cut file, and one of another model: an error with a help, and no socket."""
    with imported(folder, "model", "serve") as (module, program):
        save_weights(module.Model(), tmp_path / "cut")
        (tmp_path / "other").mkdir()
        file = next((tmp_path / "cut").glob("*.safetensors"))
        (tmp_path / "other" / file.name).write_bytes(file.read_bytes().replace(b"mlp_norm", b"mlp_morn"))
        file.write_bytes(file.read_bytes()[:-1000])
        for name in ("cut", "other"):
            save_tokenizer(tmp_path / name)
            monkeypatch.setattr(sys, "argv", ["serve.py", "--threads", "1", "--weights", str(tmp_path / name)])
            monkeypatch.setattr(program, "serve", lambda *_, **__: pytest.fail("it serves"))
            with pytest.raises(RunError, match={"cut": "cannot be read", "other": "mlp_"}[name]):
                program.main()


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_spec_reaches_the_program_as_text_only(program: str):
    text = text_of(VARIANTS["hostile"], program)
    tree = ast.parse(text)
    values = {node.targets[0].id: node.value for node in tree.body if isinstance(node, ast.Assign)}
    assert ast.literal_eval(values["NAME"]) == VARIANTS["hostile"].name
    plain = ast.parse(text_of(VIEW, program))
    assert [type(node) for node in ast.walk(tree)] == [type(node) for node in ast.walk(plain)]


def test_batched_steps_give_the_logits_of_the_whole_forward_pass(folder: Path):
    """Through the real scheduler: many prompts at once, in chunks, against `model.forward` of each alone."""
    with imported(folder, "model", "serve") as (model_module, serve_module):
        torch.manual_seed(0)
        model = model_module.Model()
        runner = serve_module.Runner(model, model_module.KVCache(20, 16, torch.float32))
        scheduler = scheduler_of(KVBlocks(20, block_tokens=16))  # too few for all: some are displaced
        prompts = [torch.randint(0, 512, (length,)).tolist() for length in (1, 2, 15, 16, 17, 40, 3, 90, 8, 33, 1, 60)]
        waiting = [
            Generation(tokens=list(p), num_prompt=len(p), max_tokens=6, sampling=Sampling(temperature=0))
            for p in prompts
        ]
        scheduler.submit(waiting)
        while scheduler.has_work:
            work = scheduler.step_plan()
            logits = runner.step(work)
            for row, generation in zip(logits, scheduler.awaiting_token, strict=True):
                with torch.no_grad():
                    expected = model.logits(model(torch.tensor([generation.tokens]))[0, -1])
                torch.testing.assert_close(row, expected, atol=1e-4, rtol=0)
            scheduler.commit(logits.argmax(-1).tolist())
        assert all(generation.num_output == 6 for generation in waiting)


def scheduler_of(kv: KVBlocks, **options) -> Scheduler:
    limits = {"max_batch": 8, "max_seq_len": 128, "prefill_chunk": 16, "max_waiting": 99, "max_waiting_tokens": 9999}
    return Scheduler(kv, **(limits | options))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_with_fixed_shapes_a_request_gets_the_same_bits_alone_and_in_company(folder: Path, dtype: torch.dtype):
    """Logits and sampled tokens of eight requests: each alone on a fresh server, then all together, out of step."""
    (folder / "serve.py").write_text(text_of(VARIANTS["fixed"]))
    with imported(folder, "model", "serve") as (model_module, serve_module):
        torch.manual_seed(0)
        model = model_module.Model().to(dtype)

        def run(numbers: list[int]) -> dict[int, tuple[list[Tensor], list[int]]]:
            runner = serve_module.Runner(model, model_module.KVCache(64, 16, dtype))
            scheduler = scheduler_of(PrefixBlocks(64, block_tokens=16), is_fixed=True)
            sampler, logits_of = RowSampler(512), {number: [] for number in numbers}
            coming = [request(number) for number in numbers]
            while coming or scheduler.has_work:
                if coming:
                    scheduler.submit([coming.pop(0)])  # one more in every step
                logits = runner.step(scheduler.step_plan())
                generations = list(scheduler.awaiting_token)
                for row, generation in zip(logits, generations, strict=True):
                    logits_of[generation.index].append(row)
                scheduler.commit([s.token for s in sampler.sample(logits, generations)])
            return {number: (logits_of[number], requests[number].tokens) for number in numbers}

        def request(number: int) -> Generation:
            pick = random.Random(number % 5)  # some begin alike
            prompt = [pick.randrange(512) for _ in range((1, 16, 17, 40, 90)[number % 5] + number // 5)]
            requests[number] = Generation(
                tokens=prompt,
                num_prompt=len(prompt),
                max_tokens=9,
                sampling=Sampling(temperature=(0, 1.3)[number % 2], top_p=0.95),
                index=number,
                rng=random.Random(number),
            )
            return requests[number]

        requests: dict[int, Generation] = {}
        alone = {number: run([number])[number] for number in range(8)}
        together = run(list(range(8)))
    (folder / "serve.py").write_text(text_of(VIEW))
    for number in range(8):
        assert alone[number][1] == together[number][1]
        for one, other in zip(alone[number][0], together[number][0], strict=True):
            assert torch.equal(one, other)


@contextmanager
def running(folder: Path, *flags: str) -> Iterator[str]:
    """The program serving on a free port; its address. Ends it with SIGTERM, which must be a clean end."""
    process = subprocess.Popen(
        [sys.executable, "serve.py", "--port", "0", "--threads", "1", *flags],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ},
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    try:
        assert line.startswith("serving on http://127.0.0.1:"), process.communicate(timeout=20)[1]
        yield line.removeprefix("serving on ").strip()
    finally:
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert "Traceback" not in err


def greedy(module, weights: dict, prompt: list[int], count: int) -> list[int]:
    """Plain decoding, without a cache."""
    model = module.Model()
    model.load_state_dict(weights)
    tokens = list(prompt)
    with torch.no_grad():
        for _ in range(count):
            tokens.append(int(model.logits(model(torch.tensor([tokens]))[0, -1]).argmax()))
    return tokens[len(prompt) :]


def test_the_program_serves_the_greedy_tokens_of_plain_decoding(folder: Path, tmp_path: Path):
    with imported(folder, "model") as (module,):
        torch.manual_seed(3)
        model = module.Model()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(3)  # so that answers vary
        save_weights(model, tmp_path)
        prompt = list(range(40, 70))
        expected = greedy(module, model.state_dict(), prompt, 20)
    save_tokenizer(tmp_path)
    with running(folder, "--weights", str(tmp_path)) as url:
        body = {
            "model": "tiny",
            "prompt": prompt,
            "temperature": 0,
            "max_tokens": 20,
            "ignore_eos": True,
            "logprobs": 0,
        }
        answer = httpx.post(f"{url}/v1/completions", json=body, timeout=30).json()
        models = httpx.get(f"{url}/v1/models").json()
    assert answer["choices"][0]["logprobs"]["tokens"] == [f"<{token}>" for token in expected]
    assert models["data"][0]["id"] == "tiny"


def save_tokenizer(folder: Path) -> None:
    """512 added tokens named `<id>`: their names tell which ids were sampled."""
    from tokenizers import Tokenizer, decoders, models

    tokenizer = Tokenizer(models.BPE())
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([f"<{token}>" for token in range(512)])
    tokenizer.save(str(folder / "tokenizer.json"))


def test_two_replicas_behind_their_router(tmp_path: Path):
    """As planned: `router.py` starts them, keys are asked for, probes have their port, and a beginning goes where it is known."""
    serve = {
        "max_seq_len": 128,
        "weights": {"dtype": "fp32"},
        "kv_cache": {"dtype": "fp32", "prefix_cache": True},
        "api": {"keys": True, "requests_per_minute": 1000},
        "ui": True,
    }
    spec = tiny_spec(without=("train", "data"), serve=serve)
    plan = plan_of(spec)
    assert plan.serve is not None
    layout = plan.serve.layout.model_copy(update={"replicas": 2})
    served = plan.serve.model_copy(update={"layout": layout, "devices": 2})
    folder = build(spec, tmp_path / "build", plan=plan.model_copy(update={"serve": served}))
    assert json.loads((folder / "surface.json").read_text())["router"]["sockets"]["connects"] == ["the replicas"]
    key, line = new_key("ann")
    (tmp_path / "keys").write_text(line)
    flags = ["--random", "--keys", "../keys", "--port", "0", "--probe-port", "0"]
    process = subprocess.Popen(
        [sys.executable, "router.py", *flags], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    probes = process.stdout.readline().removeprefix("probes on ").strip()
    url = process.stdout.readline().removeprefix("serving on ").strip()
    body = {"model": "tiny", "prompt": "a" * 100, "max_tokens": 4, "temperature": 0, "ignore_eos": True}
    with httpx.Client(base_url=url, timeout=60, headers={"authorization": f"Bearer {key}"}) as client:
        answers = [client.post("/v1/completions", json=body).json()["choices"][0]["text"] for _ in range(3)]
    assert answers[0] == answers[1] == answers[2]
    assert httpx.get(f"{probes}/health/progress").json() == {"status": "ok", "ready": 2, "out": 0, "stuck": 0}
    assert httpx.get(f"{url}/health/progress").status_code == 401
    assert httpx.get(f"{url}/health/live").status_code == 200
    assert 'data-keys="yes"' in httpx.get(url).text, "the chat page, which asks for one"
    assert httpx.get(f"{probes}/v1/models").status_code == 404
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("flags", "message", "help"),
    [
        ([], "there is no checkpoint in runs/tiny", "give --weights DIR, or --random to try without"),
        (["--weights", "."], "tokenizer.json cannot be read as a tokenizer", "give the tokenizer.json of this model"),
        (["--random", "--tokenizer", "t"], "has 512 tokens, the model has 300", "belongs to another model"),
    ],
)
def test_what_is_missing_or_wrong_is_an_error_with_a_help(
    folder: Path, tmp_path: Path, monkeypatch, flags, message, help
):
    (tmp_path / "t").mkdir()
    save_tokenizer(tmp_path / "t")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["serve.py", "--threads", "1", *flags])
    with imported(folder, "model", "serve") as (_, program):
        monkeypatch.setattr(program, "VOCAB_SIZE", 300)
        with pytest.raises(RunError) as caught:
            program.main()
    assert message in caught.value.message
    assert help in caught.value.help


def test_random_weights_complete_a_text_on_the_command_line_and_a_seed_repeats_it(folder: Path, monkeypatch, capsys):
    flags = ["--random", "--prompt", "abc", "--max-tokens", "8", "--threads", "1", "--seed"]
    texts = []
    with imported(folder, "model", "serve") as (_, program):
        for seed in ("5", "5", "6"):
            monkeypatch.setattr(sys, "argv", ["serve.py", *flags, seed])
            with pytest.raises(SystemExit) as caught:
                program.main()
            assert caught.value.code == 0
            texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]
    assert texts[0].startswith("abc ")
