"""Small deterministic models behind the real scheduler, engine and API."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from llmc.runtimes.serving.api import create_app
from llmc.runtimes.serving.engine import Engine
from llmc.runtimes.serving.intake import Service
from llmc.runtimes.serving.kv import KVBlocks
from llmc.runtimes.serving.metrics import Metrics
from llmc.runtimes.serving.sampler import Sampler
from llmc.runtimes.serving.scheduler import Scheduler
from llmc.runtimes.serving.vocabulary import HubVocabulary
from llmc.runtimes.serving.work import Chunk

EOS = 256
VOCAB = 260

Logits = Callable[[list[int]], np.ndarray]


def hashed(tokens: list[int]) -> np.ndarray:
    """Logits [V] that depend on every token before: a mixed-up KV cache gives other ones."""
    seed = 1
    for token in tokens:
        seed = (seed * 6364136223846793005 + token + 1442695040888963407) % 2**64
    return np.random.Generator(np.random.PCG64(seed)).normal(size=VOCAB).astype(np.float32)


def scripted(answer: bytes | list[int]) -> Logits:
    """A model that answers any prompt ending in `>` with these tokens (bytes are their own ids), then ends."""

    def logits(tokens: list[int]) -> np.ndarray:
        last = max(at for at, token in enumerate(tokens) if token == ord(">"))
        at = len(tokens) - 1 - last
        row = np.zeros(VOCAB, np.float32)
        row[answer[at] if at < len(answer) else EOS] = 50
        return row

    return logits


@dataclass
class FakeRunner:
    """A cache of token ids instead of keys and values: logits come from what the blocks of a sequence hold."""

    num_blocks: int = 64
    block_tokens: int = 4
    logits: Logits = hashed
    step_s: float = 0.0
    fault: Exception | None = None
    gate: threading.Event | None = None  # a step waits for it
    num_steps: int = 0
    largest_batch: int = 0
    cache: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.cache = np.full((self.num_blocks, self.block_tokens), -1)

    def step(self, work: Sequence[Chunk]) -> torch.Tensor:
        if self.gate is not None:
            self.gate.wait(10)
        time.sleep(self.step_s)
        if self.fault is not None:
            raise self.fault
        self.num_steps += 1
        self.largest_batch = max(self.largest_batch, len(work))
        rows = [self.compute(chunk) for chunk in work]
        wanted = [row for row, chunk in zip(rows, work, strict=True) if chunk.needs_logits]
        return torch.from_numpy(np.stack(wanted)) if wanted else torch.empty(0, VOCAB)

    def compute(self, chunk: Chunk) -> np.ndarray:
        places = [(chunk.blocks[at // self.block_tokens], at % self.block_tokens) for at in range(chunk.end)]
        for place, token in zip(places[chunk.start :], chunk.tokens, strict=True):
            self.cache[place] = token
        return self.logits([int(self.cache[place]) for place in places])


@dataclass
class StagedFakeRunner(FakeRunner):
    """The last of several stages, which goes by the order in which steps began in the first."""

    begun: deque[Sequence[Chunk]] = field(default_factory=deque)
    most_begun: int = 0

    def begin(self, work: Sequence[Chunk]) -> None:
        self.begun.append(work)
        self.most_begun = max(self.most_begun, len(self.begun))

    def step(self, work: Sequence[Chunk]) -> torch.Tensor:
        assert self.begun.popleft() == work
        return super().step(work)


@dataclass
class Parts:
    """A whole server but for the socket."""

    runner: FakeRunner
    engine: Engine
    scheduler: Scheduler
    metrics: Metrics
    service: Service
    app: Any

    def is_empty(self) -> bool:
        """Nothing runs, waits or holds a block, and the engine remembers no request."""
        scheduler = self.scheduler
        return (
            not scheduler.running
            and not scheduler.waiting
            and scheduler.waiting.num_tokens == 0
            and scheduler.kv.num_used == 0
            and not self.engine._entries
        )

    def wait_empty(self, timeout_s: float = 5.0) -> bool:
        end = time.monotonic() + timeout_s
        while time.monotonic() < end and not self.is_empty():
            time.sleep(0.005)
        return self.is_empty()


@pytest.fixture(scope="session")
def vocabulary() -> HubVocabulary:
    """Byte-level: ids 0–255 are the bytes, then `<eos>`, `<user>`, `<bot>` (special), `tool` (added, not special)."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    from llmc.runtimes.serving.vocabulary import _byte_level_table

    vocab = dict(_byte_level_table())
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<eos>", "<user>", "<bot>"])
    tokenizer.add_tokens([AddedToken("tool", normalized=False)])
    return HubVocabulary(tokenizer, eos=frozenset([EOS]))


@contextmanager
def builder(vocabulary: HubVocabulary) -> Iterator[Callable[..., Parts]]:
    """Builds servers around a FakeRunner; `start=False` leaves the engine to the application's lifespan."""
    engines: list[Engine] = []

    def build(
        *,
        max_batch: int = 4,
        max_seq_len: int = 128,
        block_tokens: int = 4,
        num_blocks: int | None = None,
        blocks: type[KVBlocks] = KVBlocks,
        prefill_chunk: int = 16,
        max_waiting: int = 64,
        max_waiting_tokens: int = 10_000,
        steps_under_way: int = 1,
        stall_s: float = 30.0,
        start: bool = True,
        service: dict[str, Any] | None = None,
        app: Callable[[Service], Any] = create_app,
        **runner: Any,
    ) -> Parts:
        num_blocks = num_blocks or max_batch * -(-max_seq_len // block_tokens)
        kind = FakeRunner if steps_under_way == 1 else StagedFakeRunner
        fake = kind(num_blocks=num_blocks, block_tokens=block_tokens, **runner)
        scheduler = Scheduler(
            blocks(num_blocks, block_tokens=block_tokens),
            max_batch=max_batch,
            max_seq_len=max_seq_len,
            prefill_chunk=prefill_chunk,
            max_waiting=max_waiting,
            max_waiting_tokens=max_waiting_tokens,
            steps_under_way=steps_under_way,
        )
        metrics = Metrics()
        engine = Engine(fake, Sampler(VOCAB), scheduler, metrics=metrics, stall_s=stall_s)
        whole = Service(name="tiny", engine=engine, vocabulary=vocabulary, metrics=metrics, **(service or {}))
        engines.append(engine)
        if start:
            engine.start()
        return Parts(fake, engine, scheduler, metrics, whole, app(whole))

    yield build
    for engine in engines:
        engine.stop()


@pytest.fixture
def make(vocabulary: HubVocabulary) -> Iterator[Callable[..., Parts]]:
    with builder(vocabulary) as build:
        yield build


class Api:
    """Calls an application in this process, without a socket."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def __call__(self, method: str, path: str, **options: Any) -> httpx.Response:
        return asyncio.run(self.call(method, path, **options))

    async def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **options)

    def complete(self, prompt: Any = "say>", **body: Any) -> httpx.Response:
        return self("POST", "/v1/completions", json={"model": "tiny", "prompt": prompt, **body})

    def chat(self, content: Any = "hi", **body: Any) -> httpx.Response:
        messages = [{"role": "user", "content": content}]
        return self("POST", "/v1/chat/completions", json={"model": "tiny", "messages": messages, **body})


@pytest.fixture
def api(make: Callable[..., Parts]) -> Callable[..., tuple[Api, Parts]]:
    """An API in this process and the parts behind it."""

    def build(**options: Any) -> tuple[Api, Parts]:
        parts = make(**options)
        return Api(parts.app), parts

    return build


@pytest.fixture
def say() -> Callable[[bytes | list[int]], Logits]:
    """A model that answers any prompt ending in `>` with this."""
    return scripted


@dataclass
class Live:
    """A server on a free port of this machine, in a thread."""

    url: str
    parts: Parts
    server: Any
    thread: threading.Thread

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(15)


@contextmanager
def starter(make: Callable[..., Parts]) -> Iterator[Callable[..., Live]]:
    """Starts real servers."""
    from llmc.runtimes.serving.server import prepare

    started: list[Live] = []

    def start(*, drain_s: int = 10, **options: Any) -> Live:
        parts = make(start=False, **options)
        server, listener = prepare(parts.app, host="127.0.0.1", port=0, drain_s=drain_s)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        end = time.monotonic() + 10
        while not server.started and time.monotonic() < end:
            time.sleep(0.005)
        started.append(Live(server.url, parts, server, thread))
        return started[-1]

    yield start
    for one in started:
        one.stop()


@pytest.fixture
def live(make: Callable[..., Parts]) -> Iterator[Callable[..., Live]]:
    with starter(make) as start:
        yield start


@pytest.fixture(scope="module")
def live_for_module(vocabulary: HubVocabulary) -> Iterator[Callable[..., Live]]:
    """The same, for a server that several tests share."""
    with builder(vocabulary) as make, starter(make) as start:
        yield start
