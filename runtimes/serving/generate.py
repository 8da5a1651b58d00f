"""Completes one prompt on the command line, through the same engine as the server."""

from __future__ import annotations

import queue
import sys
from typing import TextIO

from .engine import Delta, Engine
from .generation import Generation, Sampling, generator_for
from .text import TextStream
from .vocabulary import Vocabulary


def generate(
    engine: Engine,
    vocabulary: Vocabulary,
    prompt: str,
    *,
    max_tokens: int,
    sampling: Sampling,
    out: TextIO | None = None,
) -> int:
    """Print the prompt and its continuation as it comes; the exit status. Ctrl-C ends the answer early."""
    tokens = vocabulary.encode(prompt, add_special=True) or ([vocabulary.bos] if vocabulary.bos is not None else [])
    room = engine.scheduler.max_seq_len - len(tokens)
    if not tokens or room < 1:
        problem = "is empty" if not tokens else f"has {len(tokens)} tokens, which leaves no room for an answer"
        print(f"the prompt {problem}", file=sys.stderr)
        return 1
    generation = Generation(
        tokens=tokens,
        num_prompt=len(tokens),
        max_tokens=min(max_tokens, room),
        sampling=sampling,
        eos=vocabulary.eos,
        text=TextStream(vocabulary.piece),
        rng=generator_for(sampling.seed, choice=0),
    )
    news: queue.SimpleQueue[list[Delta]] = queue.SimpleQueue()
    terminal = out or sys.stdout
    engine.start()
    try:
        engine.submit([generation], news.put)
        return _print(prompt, news, terminal)
    except KeyboardInterrupt:
        return 130
    finally:
        terminal.write("\n")
        engine.stop()


def _print(prompt: str, news: queue.SimpleQueue[list[Delta]], out: TextIO) -> int:
    out.write(prompt)
    while True:
        for delta in news.get():
            out.write(delta.text)
            out.flush()
            if delta.error is not None:
                print(f"\n{delta.error}", file=sys.stderr)
                return 1
            if delta.finish is not None:
                return 0
