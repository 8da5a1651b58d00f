"""A scheduler with small blocks, a "model" of ten tokens, and a cache that knows what lies where."""

from __future__ import annotations

from llmc.runtimes.serving.generation import Generation
from llmc.runtimes.serving.kv import KVBlocks
from llmc.runtimes.serving.scheduler import Scheduler
from llmc.runtimes.serving.text import TextStream

BLOCK_TOKENS = 4
NUM_BLOCKS = 9
MAX_BATCH = 4
MAX_SEQ_LEN = 24
PREFILL_CHUNK = 5
MAX_WAITING = 6
MAX_WAITING_TOKENS = 40
EOS = 7


def next_token(tokens: list[int]) -> int:
    """A "model": the next token (0–9) from all tokens before."""
    value = 17
    for token in tokens:
        value = (value * 31 + token + 1) % 1009
    return value % 10


def generation(
    prompt: list[int], *, max_tokens: int, stops: tuple[str, ...] = (), ignore_eos: bool = False, priority: int = 0
) -> Generation:
    return Generation(
        tokens=list(prompt),
        num_prompt=len(prompt),
        max_tokens=max_tokens,
        eos=frozenset() if ignore_eos else frozenset([EOS]),
        text=TextStream(lambda token: str(token).encode(), stops),
        priority=priority,
    )


def scheduler(blocks: KVBlocks | None = None, **options) -> Scheduler:
    defaults = {
        "max_batch": MAX_BATCH,
        "max_seq_len": MAX_SEQ_LEN,
        "prefill_chunk": PREFILL_CHUNK,
        "max_waiting": MAX_WAITING,
        "max_waiting_tokens": MAX_WAITING_TOKENS,
    }
    return Scheduler(blocks or KVBlocks(100, block_tokens=BLOCK_TOKENS), **{**defaults, **options})


class Cache:
    """The tokens whose keys and values lie at each place of each block."""

    def __init__(self) -> None:
        self.places: dict[tuple[int, int], int] = {}

    def run(self, chunks) -> list[int]:
        answers = []
        for chunk in chunks:
            where = [(chunk.blocks[at // BLOCK_TOKENS], at % BLOCK_TOKENS) for at in range(chunk.end)]
            self.places.update(zip(where[chunk.start :], chunk.tokens, strict=True))
            if chunk.needs_logits:
                answers.append(next_token([self.places[place] for place in where]))
        return answers

    def block(self, number: int) -> list[int]:
        return [self.places[number, at] for at in range(BLOCK_TOKENS)]


def alone(original: Generation) -> tuple[list[int], str]:
    """The answer of plain decoding, without scheduler or cache, and why it ends."""
    tokens = original.tokens[: original.num_prompt]
    text = TextStream(lambda token: str(token).encode(), original.text._stops)
    output: list[int] = []
    while True:
        output.append(next_token(tokens + output))
        if output[-1] in original.eos or text.push(output[-1]):
            return output, "stop"
        if len(output) == original.max_tokens:
            return output, "length"
