"""Answers in OpenAI's JSON shapes, whole and as events of a stream."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .engine import Delta, TokenLogprob
from .vocabulary import Vocabulary

Json = dict[str, Any]
DONE = b"data: [DONE]\n\n"


def event(body: Json) -> bytes:
    """One server-sent event: JSON on one line, in ASCII, because some clients take U+2028 for the end of a line."""
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


def model_list(name: str, *, created: int, max_seq_len: int) -> Json:
    return {"object": "list", "data": [model_card(name, created=created, max_seq_len=max_seq_len)]}


def model_card(name: str, *, created: int, max_seq_len: int) -> Json:
    return {"id": name, "object": "model", "created": created, "owned_by": "llmc", "max_model_len": max_seq_len}


@dataclass
class Choice:
    """One choice of an answer, as far as it has come."""

    text: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish: str | None = None
    num_tokens: int = 0

    def add(self, delta: Delta) -> None:
        self.text += delta.text
        self.logprobs += delta.logprobs
        self.num_tokens += len(delta.tokens)
        self.finish = delta.finish or self.finish


class Answer:
    """What both kinds of answers share: an id, a time, the model's name, and the count of tokens."""

    prefix = ""
    object_whole = ""
    object_chunk = ""

    def __init__(self, model: str, vocabulary: Vocabulary, *, num_prompt_tokens: int, wants_logprobs: bool) -> None:
        self.id = f"{self.prefix}-{uuid.uuid4().hex}"
        self.created = int(time.time())
        self.model = model
        self.vocabulary = vocabulary
        self.num_prompt_tokens = num_prompt_tokens
        self.wants_logprobs = wants_logprobs
        self.extra: Json = {}

    def usage(self, choices: Iterable[Choice]) -> Json:
        num_output = sum(choice.num_tokens for choice in choices)
        return {
            "prompt_tokens": self.num_prompt_tokens,
            "completion_tokens": num_output,
            "total_tokens": self.num_prompt_tokens + num_output,
        }

    def whole(self, choices: list[Choice]) -> Json:
        body = self._body(self.object_whole, [self._choice(at, choice) for at, choice in enumerate(choices)])
        return {**body, "usage": self.usage(choices)}

    def chunk(self, delta: Delta) -> Json:
        """One event of a stream."""
        return self._body(self.object_chunk, [self._chunk_choice(delta)])

    def last_chunk(self, choices: list[Choice]) -> Json:
        return {**self._body(self.object_chunk, []), "usage": self.usage(choices)}

    def opening(self, index: int) -> Json | None:
        """The first event of a choice, if this kind of answer has one."""
        return None

    def _body(self, kind: str, choices: list[Json]) -> Json:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
            **self.extra,
        }

    def _choice(self, index: int, choice: Choice) -> Json:
        raise NotImplementedError

    def _chunk_choice(self, delta: Delta) -> Json:
        raise NotImplementedError


class CompletionAnswer(Answer):
    """`text_completion`. `echoes` are the prompts' texts, one a choice, when the request wants them back."""

    prefix = "cmpl"
    object_whole = object_chunk = "text_completion"
    echoes: list[str] | None = None

    def _choice(self, index: int, choice: Choice) -> Json:
        text = (self.echoes[index] if self.echoes is not None else "") + choice.text
        return self._shape(index, text, choice.logprobs, choice.finish)

    def _chunk_choice(self, delta: Delta) -> Json:
        return self._shape(delta.index, delta.text, list(delta.logprobs), delta.finish)

    def opening(self, index: int) -> Json | None:
        if self.echoes is None:
            return None
        return self._body(self.object_chunk, [self._shape(index, self.echoes[index], [], None)])

    def _shape(self, index: int, text: str, logprobs: list[TokenLogprob], finish: str | None) -> Json:
        shown = self._logprobs(logprobs) if self.wants_logprobs else None
        return {"index": index, "text": text, "logprobs": shown, "finish_reason": finish}

    def _logprobs(self, logprobs: list[TokenLogprob]) -> Json:
        return {
            "tokens": [self._name(p.token) for p in logprobs],
            "token_logprobs": [p.logprob for p in logprobs],
            "top_logprobs": [
                {self._name(token): value for token, value in ((p.token, p.logprob), *p.top)} for p in logprobs
            ],
            "text_offset": [p.offset for p in logprobs],
        }

    def _name(self, token: int) -> str:
        return token_name(self.vocabulary.spelling(token))


class ChatAnswer(Answer):
    """`chat.completion`."""

    prefix = "chatcmpl"
    object_whole = "chat.completion"
    object_chunk = "chat.completion.chunk"

    def _choice(self, index: int, choice: Choice) -> Json:
        message = {"role": "assistant", "content": choice.text, "refusal": None}
        return {
            "index": index,
            "message": message,
            "logprobs": self._logprobs(choice.logprobs),
            "finish_reason": choice.finish,
        }

    def _chunk_choice(self, delta: Delta) -> Json:
        content = {"content": delta.text} if delta.text else {}
        return self._chunk_shape(delta.index, content, list(delta.logprobs), delta.finish)

    def opening(self, index: int) -> Json | None:
        role = {"role": "assistant", "content": ""}
        return self._body(self.object_chunk, [self._chunk_shape(index, role, [], None)])

    def _chunk_shape(self, index: int, content: Json, logprobs: list[TokenLogprob], finish: str | None) -> Json:
        shown = self._logprobs(logprobs) if logprobs else None
        return {"index": index, "delta": content, "logprobs": shown, "finish_reason": finish}

    def _logprobs(self, logprobs: list[TokenLogprob]) -> Json | None:
        if not self.wants_logprobs:
            return None
        content = []
        for p in logprobs:
            top = [self._token(token, value) for token, value in p.top]
            content.append({**self._token(p.token, p.logprob), "top_logprobs": top})
        return {"content": content, "refusal": None}

    def _token(self, token: int, logprob: float) -> Json:
        spelling = self.vocabulary.spelling(token)
        return {"token": token_name(spelling), "logprob": logprob, "bytes": list(spelling)}


def token_name(spelling: bytes) -> str:
    """A token as text; one that is not whole characters as OpenAI writes it, `bytes:\\xe2\\x82`."""
    try:
        return spelling.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelling)
