"""Each field of each request type: implemented, or refused by name. Nothing is ignored.

A refused field is still accepted with a value that asks for what happens anyway (`accepts`; null always is). A field in no
table is refused as unknown. A test holds these tables against the types of the official client, so that a new field
there has to be decided here.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import ApiError


@dataclass(frozen=True)
class Implemented:
    """Honoured as documented by OpenAI; `note` tells what differs or what is our own."""

    note: str = ""


@dataclass(frozen=True)
class Refused:
    """Answered with 400, unless the value asks for nothing."""

    why: str
    accepts: tuple[Any, ...] = ()


Fields = Mapping[str, Implemented | Refused]

_NO_TOOLS = "tool calling is not supported"
_NO_AUDIO = "only text is supported"
_NO_CACHE_CONTROL = "what is cached cannot be chosen by requests"
_NO_STORE = "requests are not stored"

SAMPLING: Fields = {
    "model": Implemented(),
    "stream": Implemented(),
    "stream_options": Implemented(),
    "n": Implemented(),
    "seed": Implemented("the same seed and request give the same tokens; choice i of n has its own numbers"),
    "stop": Implemented(),
    "temperature": Implemented(),
    "top_p": Implemented(),
    "frequency_penalty": Implemented(),
    "presence_penalty": Implemented(),
    "logit_bias": Implemented(),
    "user": Implemented("written to the log"),
    "top_k": Implemented("not in OpenAI's API: sample from the k most likely tokens"),
    "min_p": Implemented("not in OpenAI's API: drop tokens less likely than this share of the most likely one"),
    "repetition_penalty": Implemented("not in OpenAI's API: as in transformers"),
    "priority": Implemented("not in OpenAI's API: lower goes first, and displaces higher, as in vLLM"),
    "ignore_eos": Implemented("not in OpenAI's API: do not stop at the end token"),
}

COMPLETION: Fields = {
    **SAMPLING,
    "prompt": Implemented(),
    "max_tokens": Implemented("at least 1"),
    "echo": Implemented("not together with logprobs"),
    "logprobs": Implemented(),
    "best_of": Refused("choices are not ranked", accepts=(1,)),
    "suffix": Refused("text is only continued, not filled in"),
}

CHAT: Fields = {
    **SAMPLING,
    "messages": Implemented(),
    "max_completion_tokens": Implemented(),
    "max_tokens": Implemented("the older name of max_completion_tokens"),
    "logprobs": Implemented(),
    "top_logprobs": Implemented(),
    "safety_identifier": Implemented("written to the log"),
    "service_tier": Implemented("only auto and default, which are the same here"),
    "audio": Refused(_NO_AUDIO),
    "function_call": Refused(_NO_TOOLS, accepts=("none",)),
    "functions": Refused(_NO_TOOLS, accepts=([],)),
    "metadata": Refused(_NO_STORE, accepts=({},)),
    "modalities": Refused(_NO_AUDIO, accepts=(["text"],)),
    "moderation": Refused("texts are not moderated"),
    "parallel_tool_calls": Refused(_NO_TOOLS, accepts=(True,)),
    "prediction": Refused("predicted outputs are not supported"),
    "prompt_cache_key": Refused(_NO_CACHE_CONTROL),
    "prompt_cache_options": Refused(_NO_CACHE_CONTROL),
    "prompt_cache_retention": Refused(_NO_CACHE_CONTROL),
    "reasoning_effort": Refused("the effort of reasoning cannot be set"),
    "response_format": Refused("structured output is not supported", accepts=({"type": "text"},)),
    "store": Refused(_NO_STORE, accepts=(False,)),
    "tool_choice": Refused(_NO_TOOLS, accepts=("none",)),
    "tools": Refused(_NO_TOOLS, accepts=([],)),
    "verbosity": Refused("the length of answers cannot be set", accepts=("medium",)),
    "web_search_options": Refused(_NO_TOOLS),
}

STREAM_OPTIONS: Fields = {
    "include_usage": Implemented(),
    "continuous_usage_stats": Implemented("not in OpenAI's API: the usage so far in every event, as in vLLM"),
    "include_obfuscation": Refused("events are not padded", accepts=(False,)),
}

MESSAGE: Fields = {
    "role": Implemented("system, developer, user, assistant"),
    "content": Implemented("text, or parts of type text"),
    "name": Refused("chat templates have no names"),
    "audio": Refused(_NO_AUDIO),
    "refusal": Refused("refusals are not marked"),
    "function_call": Refused(_NO_TOOLS),
    "tool_calls": Refused(_NO_TOOLS, accepts=([],)),
    "tool_call_id": Refused(_NO_TOOLS),
}

CONTENT_PART: Fields = {
    "type": Implemented("text"),
    "text": Implemented(),
    "prompt_cache_breakpoint": Refused(_NO_CACHE_CONTROL),
}


def check_fields(body: dict[str, Any], fields: Fields, *, where: str = "") -> dict[str, Any]:
    """The implemented fields of a request that are set, as they came; ApiError for the first that is not implemented."""
    wanted = {}
    for name, value in body.items():
        field = fields.get(name)
        param = where + name
        if field is None:
            raise ApiError(f"unknown field: {param}{_did_you_mean(name, fields)}", param=param, code="unknown_field")
        if value is None:
            continue
        if isinstance(field, Implemented):
            wanted[name] = value
        elif not any(type(value) is type(accepted) and value == accepted for accepted in field.accepts):
            raise ApiError(f"{param} is not supported: {field.why}", param=param, code="unsupported_field")
    return wanted


def _did_you_mean(name: str, fields: Fields) -> str:
    close = difflib.get_close_matches(name[:64], fields, n=1)
    return f"; did you mean {close[0]}?" if close else ""
