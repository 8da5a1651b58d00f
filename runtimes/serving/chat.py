"""Conversations to prompts, by the checkpoint's chat template, with a bound on time and memory."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from pathlib import Path
from typing import Any

from .errors import ApiError
from .vocabulary import TokenizerFiles

WORKER = Path(__file__).with_name("template_worker.py")
MEMORY_BYTES = 512 * 2**20
START_TIMEOUT_S = 30
MAX_LINE_BYTES = 64 * 2**20  # 4 Mi characters, each escaped


class ChatTemplate:
    """Renders in a worker process, one conversation at a time. A render that takes too long costs that worker, no more.

    Args:
        source: the template.
        variables: what templates expect besides the messages: bos_token, eos_token.
    """

    def __init__(self, source: str, *, variables: dict[str, str | None], timeout_s: int = 2) -> None:
        self._source = source
        self._variables = {name: value for name, value in variables.items() if value is not None}
        self._timeout_s = timeout_s
        self._worker: Process | None = None
        self._broken: str | None = None  # why the template cannot even be compiled
        self._turn = asyncio.Lock()

    async def render(self, messages: list[dict[str, str]]) -> str:
        """The prompt that ends where the assistant is to answer. ApiError if the template will not."""
        variables = {**self._variables, "messages": messages, "add_generation_prompt": True}
        async with self._turn:
            try:
                worker = await self._ready_worker()
                reply = await self._exchange(worker, variables, timeout_s=self._timeout_s)
            except BaseException:  # a failed or cancelled exchange leaves half a line behind: begin afresh
                await self.close()
                raise
        return _unless_error(reply)["text"]

    async def close(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            with contextlib.suppress(ProcessLookupError):
                worker.kill()
            await worker.wait()

    async def _ready_worker(self) -> Process:
        """The worker, with its template. `-P` keeps the folder of this file, with its common names, off its path."""
        if self._broken is not None:
            raise _failed(self._broken)
        if self._worker is None or self._worker.returncode is not None:
            self._worker = await asyncio.create_subprocess_exec(
                sys.executable, "-P", str(WORKER), stdin=PIPE, stdout=PIPE, stderr=DEVNULL, limit=MAX_LINE_BYTES
            )
            settings = {"template": self._source, "timeout_s": self._timeout_s, "memory_bytes": MEMORY_BYTES}
            reply = await self._exchange(self._worker, settings, timeout_s=START_TIMEOUT_S)
            self._broken = reply.get("error")
            _unless_error(reply)
        return self._worker

    async def _exchange(self, worker: Process, message: dict[str, Any], *, timeout_s: int) -> dict[str, str]:
        """One line there, one line back."""
        assert worker.stdin is not None
        assert worker.stdout is not None
        try:
            async with asyncio.timeout(timeout_s):
                worker.stdin.write(json.dumps(message).encode() + b"\n")
                await worker.stdin.drain()
                line = await worker.stdout.readline()
        except TimeoutError:
            raise _failed(f"the chat template takes more than {timeout_s} s for this conversation") from None
        except ConnectionError:
            line = b""
        if not line:
            raise _failed("the chat template ended its process")
        return json.loads(line)


def open_chat_template(tokenizer: Path | None) -> ChatTemplate | None:
    """The chat template that lies with a tokenizer, if one does."""
    files = TokenizerFiles(tokenizer) if tokenizer is not None else None
    if files is None or files.chat_template is None:
        return None
    return ChatTemplate(files.chat_template, variables={n: files.special(n) for n in ("bos_token", "eos_token")})


def _unless_error(reply: dict[str, str]) -> dict[str, str]:
    if "error" in reply:
        raise _failed(reply["error"])
    return reply


def _failed(message: str) -> ApiError:
    return ApiError(message, param="messages", code="chat_template_failed")
