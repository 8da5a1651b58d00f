"""Renders a chat template in a process of its own. Started by `chat.py`; speaks one JSON object a line.

A chat template is a program that came with a checkpoint. The sandbox keeps it from reaching Python's objects, but not
from running for ever or filling memory, and a thread cannot be stopped; a process can. It has a bound on its memory and
a clock that ends it, should the server die and nobody else do it.

    first line in:   {"template": "…", "timeout_s": 2, "memory_bytes": 536870912}
    first line out:  {} when ready, {"error": "…"} when the template is broken
    each line in:    {"messages": […], …}           variables of the template
    each line out:   {"text": "…"} or {"error": "…"}

Imports nothing of llmc: it is run as a file.
"""

import json
import resource
import signal
import sys
from datetime import datetime

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_TEXT = 4 * 2**20  # characters of a rendered conversation


class Environment(ImmutableSandboxedEnvironment):
    """Leaves arithmetic to rendering; jinja2 would compute `{{ 2 ** (2 ** 40) }}` while compiling, where no clock runs."""

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)


class GenerationBlock(Extension):
    """`{% generation %}…{% endgeneration %}` marks answers for training; rendering passes them through."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def raise_exception(message):
    """What templates call to refuse a conversation."""
    raise TemplateError(message)


def to_json(value, indent=None):
    """JSON as transformers writes it into prompts: not escaped for HTML."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def compile_template(source):
    environment = Environment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, GenerationBlock])
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(source)


def answer(template, variables):
    try:
        text = template.render(**variables)
    except MemoryError:
        return {"error": "the chat template needs too much memory"}
    except Exception as error:  # whatever a template does wrong is the template's or the conversation's fault
        return {"error": f"the chat template refuses this conversation: {str(error)[:500]}"}
    if len(text) > MAX_TEXT:
        return {"error": f"the chat template renders more than {MAX_TEXT} characters"}
    return {"text": text}


def main():
    settings = json.loads(sys.stdin.readline())
    resource.setrlimit(resource.RLIMIT_AS, (settings["memory_bytes"], settings["memory_bytes"]))
    try:
        template = compile_template(settings["template"])
    except Exception as error:
        send({"error": f"the chat template is broken: {str(error)[:500]}"})
        return
    send({})
    for line in sys.stdin:
        signal.alarm(settings["timeout_s"] + 1)
        reply = answer(template, json.loads(line))
        signal.alarm(0)
        send(reply)


def send(reply):
    print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
