"""Strings of a spec that try to break out of a launch file are refused by the language, or arrive as the values they are."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
from typing import Any

import pydantic
import pytest
from objects import objects
from trees import cpus, launch_texts, serving, training

NASTY = {
    "command": "$(touch /tmp/owned)",
    "backquotes": "`touch /tmp/owned`",
    "double-quote": 'x"; touch /tmp/owned; "',
    "single-quote": "x'; touch /tmp/owned; '",
    "variable": "$HOME ${PATH}",
    "yaml-comment": "x # y",
    "yaml-map": "x: {y: z}",
    "yaml-tag": "!!python/object/apply:os.system ['id']",
    "yaml-anchor": "&a *b",
    "yaml-yes": "yes",
    "yaml-number": "1e3",
    "backslash": "x\\",
    "jinja": "{{ 7 * 7 }}{% include 'x' %}",
    "percent": "%i %n %%",
    "unicode": "größe 😀",
    "options": "--privileged",
}
BREAKING = {
    "newline": "x\n#SBATCH --uid=0",
    "carriage-return": "x\rroot",
    "line-separator": "x\u2028root",
    "null": "x\x00y",
    "direction": "\u202egnp",
    "marks": "\x02model\n\x03",
}
"""What is no line of text; the language refuses it everywhere."""

TARGETS: dict[str, dict[str, Any]] = {
    "torchrun": {"target": "torchrun"},
    "slurm": {"target": "slurm"},
    "kubernetes": {"target": "kubernetes", "image": "registry.example/tiny"},
    "ray": {"target": "ray"},
    "docker": {"target": "docker"},
    "systemd": {"target": "systemd", "folder": "/srv/tiny"},
}
FREE = {  # target -> fields that take any line of text
    "torchrun": ("environment", "python"),
    "slurm": ("environment", "python"),
    "kubernetes": ("environment", "weights"),
    "ray": ("environment", "weights", "storage"),
    "docker": ("environment", "weights"),
    "systemd": ("environment", "weights"),
}
HELD = {  # target -> fields that are held to what their systems allow
    "slurm": ("partition", "account", "qos", "constraint", "container"),
    "kubernetes": ("image", "namespace", "claim", "queue", "rdma_resource", "topology_level", "prometheus"),
    "docker": ("image",),
    "systemd": ("folder", "python", "user"),
    "torchrun": ("network.interface", "network.hca"),
}


def deploy(target: str, fields: tuple[str, ...], text: str) -> dict[str, Any]:
    found = dict(TARGETS[target])
    for name in fields:
        outer, _, inner = name.partition(".")
        found[outer] = {"OWN_VALUE": text} if name == "environment" else {inner: text} if inner else text
    return found


def texts(target: str, text: str) -> dict[str, str]:
    spec = deploy(target, FREE[target], text)
    found: dict[str, str] = {}
    if target in ("torchrun", "slurm", "kubernetes", "ray"):
        found |= {f"train/{path}": each for path, each in launch_texts(*training(spec, cpus(2))).items()}
    if target in ("kubernetes", "ray", "docker", "systemd"):
        found |= {f"serve/{path}": each for path, each in launch_texts(*serving(spec, cpus(1))).items()}
    return found


@pytest.mark.parametrize("name", NASTY)
@pytest.mark.parametrize("target", TARGETS)
def test_values_arrive_and_nothing_else_changes(target: str, name: str) -> None:
    nasty, harmless = texts(target, NASTY[name]), texts(target, "harmless")
    assert nasty.keys() == harmless.keys()
    arrived = 0
    for path, text in nasty.items():
        found, expected = (values(path, each) for each in (text, harmless[path]))
        assert found == [NASTY[name] if value == "harmless" else _inside(value, NASTY[name]) for value in expected], (
            path
        )
        arrived += sum(NASTY[name] in str(value) for value in found)
    assert arrived >= len(FREE[target])


def _inside(value: object, text: str) -> object:
    return value.replace("harmless", text) if isinstance(value, str) else value


def values(path: str, text: str) -> list[object]:
    """A file as its reader takes it apart: words of a script, scalars of YAML, literals of Python, settings of a unit."""
    if path.endswith((".sh", ".sbatch")):
        assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
        return list(shlex.split(text, comments=True))
    if path.endswith(".yaml"):
        return [value for each in objects(text) for value in _scalars(each)]
    if path.endswith(".json"):
        return list(_scalars(json.loads(text)))
    if path.endswith(".py"):
        return [node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)]
    if path.endswith(".service"):
        return [
            _unquoted(word, path)
            for line in text.splitlines()
            for word in re.findall(r'"(?:[^"\\]|\\.)*"|[^\s"]+', line)
        ]
    return text.splitlines()


def _unquoted(word: str, path: str) -> str:
    if not word.startswith('"'):
        return word
    inner = word[1:-1].replace('\\"', '"').replace("\\\\", "\\").replace("%%", "%")
    return inner if inner.startswith("OWN_VALUE=") else inner.replace("$$", "$")


def _scalars(value: object) -> list[object]:
    if isinstance(value, dict):
        return [each for key, inner in value.items() for each in (key, *_scalars(inner))]
    if isinstance(value, list):
        return [each for inner in value for each in _scalars(inner)]
    return [value]


@pytest.mark.parametrize("name", BREAKING)
@pytest.mark.parametrize(("target", "field"), [(target, field) for target in FREE for field in FREE[target]])
def test_what_is_no_line_of_text_is_refused(target: str, field: str, name: str) -> None:
    with pytest.raises(pydantic.ValidationError):
        launch_texts(*_any(deploy(target, (field,), BREAKING[name])))


HARMLESS_NAMES = {"yaml-yes", "yaml-number"}
"""Words that are names as good as any; they arrive in quotes."""


@pytest.mark.parametrize("name", sorted({*NASTY, *BREAKING} - HARMLESS_NAMES))
@pytest.mark.parametrize(("target", "field"), [(target, field) for target in HELD for field in HELD[target]])
def test_names_have_no_character_with_a_meaning(target: str, field: str, name: str) -> None:
    with pytest.raises(pydantic.ValidationError):
        _any(deploy(target, (field,), {**NASTY, **BREAKING}[name]))


@pytest.mark.parametrize("variable", ["A B", "A=1; B", "1A", "A\nB", "", "A-B", "Ä"])
def test_names_of_variables_are_names(variable: str) -> None:
    with pytest.raises(pydantic.ValidationError):
        _any({"target": "torchrun", "environment": {variable: "x"}})


def _any(spec: dict[str, Any]) -> Any:
    return training(spec, cpus(2)) if spec["target"] in ("torchrun", "slurm") else serving(spec, cpus(1))


@pytest.mark.parametrize("word", ["yes", "null", "1e3", "0x10"])
def test_words_that_yaml_reads_otherwise_stay_text(word: str) -> None:
    spec = TARGETS["kubernetes"] | {"namespace": word.replace(".", "")}
    for path, text in launch_texts(*serving(spec, cpus(1))).items():
        if path.endswith(".yaml"):
            assert {each["metadata"]["namespace"] for each in objects(text)} == {word}
