"""A published checkpoint as a spec, and the program that converts its weights.

    imported_spec({"model_type": "llama", …}, name="smollm2") -> the text of spec.yaml
    write_converter(spec, folder)                             -> model.py, convert.py, hf_config.json

The spec names the family and whatever of it the checkpoint changes, so that a reader sees what the model is, and every
number is there to be edited. Nothing is planned: weights can be converted on a machine that could not serve them.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..spec.catalog import family
from ..spec.hf.families import family_of_config
from ..spec.hf_config import from_hf_config
from ..spec.model import Model
from .emit.program import File, Program
from .emit.tree import render_program, write_tree
from .frontend.model import build_model
from .lower.convert import lower_convert
from .lower.model import lower_model

if TYPE_CHECKING:
    from ..spec.document import Spec

SERVED_TOKENS = 2048
"""Longest request of the spec that is written, if the model allows it: the KV cache is sized for it."""

_SIZES = (
    "hidden_size",
    "num_layers",
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "intermediate_size",
    "vocab_size",
    "max_seq_len",
)
_DTYPES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


def imported_spec(config: Mapping[str, Any], *, name: str) -> str:
    """A spec that serves the checkpoint on this machine. Raises UnsupportedConfig for a model that llmc cannot express."""
    model = _model_section(config)
    stored = _DTYPES.get(str(config.get("dtype") or config.get("torch_dtype")), "")
    dtype = "fp32" if stored == "fp32" else "bf16"
    longest = int(model["max_seq_len"])
    served = min(SERVED_TOKENS, longest)
    spec = _block(
        {
            "llmc": 1,
            "name": name,
            "model": _block(model),
            "hardware": {"accelerator": "cpu"},
            "serve": _block(
                {"max_seq_len": served, "weights": {"dtype": dtype}, "kv_cache": {"dtype": dtype}},
                comments={
                    "max_seq_len": f"the model accepts {longest}" if served < longest else "",
                    "weights": f"stored as {stored}" if stored and stored != dtype else "",
                },
            ),
        }
    )
    return _separated(_dump(spec))


def write_converter(spec: Spec, folder: Path) -> bool:
    """Write the files that convert the weights of the spec's model; False if checkpoints of its kind are not converted."""
    origin = "spec.yaml"
    convert = lower_convert(spec.model, name=spec.name, origin=origin)
    if convert is None:
        return False
    size = build_model(spec.model, name=spec.name).num_parameters()
    model = lower_model(spec, origin=origin, num_parameters=size, recompute="none", kernels=())
    files = (
        File("model.py", "pytorch/model.py.j2", {"m": model}, key="model"),
        File("convert.py", "pytorch/convert.py.j2", {"c": convert}, key="model"),
        File("hf_config.json", "pytorch/hf_config.json.j2", {"c": convert}, key="model"),
    )
    write_tree(render_program(Program(name=spec.name, files=files), locate=lambda key: None), folder)
    return True


def _model_section(config: Mapping[str, Any]) -> dict[str, Any]:
    """The family by its name, the dimensions, and what else differs from the family."""
    model = Model.model_validate(from_hf_config(config))
    name = family_of_config(config)
    values = model.model_dump()
    sizes = {key: values.pop(key) for key in _SIZES}
    if sizes["head_dim"] == sizes["hidden_size"] // sizes["num_heads"]:
        del sizes["head_dim"]
    style = {} if name is None else {"family": name}
    changes = _differing(values, family(name) if name else {}, short=model.model_dump(exclude_defaults=True))
    return {**style, **sizes, **changes}


def _differing(values: Mapping[str, Any], base: Mapping[str, Any], *, short: Mapping[str, Any]) -> dict[str, Any]:
    """What `values` change of `base`, where what base leaves open is the language's default. `short` is `values` less those.

    A mapping of another kind is given whole: it replaces the one below.
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        below = base.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping) and value.get("kind") == below.get("kind"):
            if inner := _differing(value, below, short=short.get(key, {})):
                found[key] = inner
        elif key in base and value != below:
            found[key] = short.get(key, value)
        elif key not in base and key in short and key not in _SIZES:
            found[key] = short[key]
    return found


def _block(values: Mapping[str, Any], *, comments: Mapping[str, str] | None = None) -> Any:
    """A key a line; mappings and lists of plain values stay on theirs."""
    from ruamel.yaml.comments import CommentedMap, CommentedSeq

    block = CommentedMap()
    for key, value in values.items():
        if isinstance(value, Mapping) and not isinstance(value, CommentedMap):
            is_plain = not any(isinstance(inner, Mapping | tuple) for inner in value.values())
            value = CommentedMap(value) if is_plain else _block(value)
            if is_plain:
                value.fa.set_flow_style()
        elif isinstance(value, tuple):
            value = CommentedSeq(value)
            value.fa.set_flow_style()
        block[key] = value
        if comments and comments.get(key):
            block.yaml_add_eol_comment(comments[key], key)
    return block


def _dump(value: Any) -> str:
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.width = 110
    out = io.StringIO()
    yaml.dump(value, out)
    return out.getvalue()


def _separated(text: str) -> str:
    """An empty line before each section."""
    lines = text.splitlines(keepends=True)
    return "".join(f"\n{line}" if line.startswith(("model:", "hardware:", "serve:")) else line for line in lines)
