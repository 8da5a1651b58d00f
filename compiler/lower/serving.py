"""The view of serve.py: what one server process holds and admits, every constant worked out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ServeView:
    """What templates/pytorch/serve.py.j2 needs, under the name `s`. `…_reason` texts become comments beside the number."""

    name: str
    """The spec's name: the model that clients ask for, and the folder runs/<name> whose latest checkpoint is served."""
    origin: str
    """The spec's file, for the header."""
    plan_lines: tuple[str, ...]
    """What the plan expects (TTFT, TPOT, tokens/s, memory), a line each, for the header."""
    device: Literal["cpu", "cuda"]
    is_bf16: bool
    """Weights and activations in bf16 (on a CPU, if it turns out to be fast there), else in fp32."""
    is_kv_bf16: bool
    """Keys and values in bf16, else in fp32."""
    vocab_size: int
    """Rows of the model's embedding. The tokenizer may have fewer tokens."""
    max_seq_len: int
    """Longest prompt and answer together, tokens: `serve.max_seq_len`, at most `model.max_seq_len`."""
    num_slots: int
    """Sequences that run at a time, each with room for `max_seq_len` tokens: the plan's `max_batch`."""
    num_slots_reason: str
    """What their keys and values take, such as "their keys and values take 24 MiB"."""
    prefill_chunk: int
    """Prompt tokens computed in one step, over all prompts: the plan's `prefill_chunk`. Bounds how long a prompt delays others."""
    prefill_chunk_reason: str
    max_waiting: int
    """Requests that may wait for a slot; more are refused with 429."""
    max_waiting_reason: str
    max_waiting_tokens: int
    """Prompt tokens that may wait: (ttft_slo - prefill) * prefill rate, from the plan."""
    max_waiting_tokens_reason: str
    stall_s: float
    """A step that takes longer means that the engine is stuck: well above the longest step of the plan, at least seconds."""
    drain_s: int
    """Seconds that running requests have to finish after SIGTERM: max_seq_len times the plan's time per output token."""
