"""What stands behind a name: presets, families, Hugging Face folders and accelerators, laid under what the user wrote.

A value that comes from the catalog has for its place the name that brought it in, so a caret always finds something
that the user wrote.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .base import Path
from .diagnostics import Diagnostic, Edit, Fix, Label, diagnose
from .document import Spec
from .fields import walk
from .merge import expand, overlay
from .nodes import Entry, MappingNode, ScalarNode, YamlNode, from_data
from .suggest import by_closeness, did_you_mean, listing

MODEL_BASES = ("preset", "family", "hf")


@dataclass
class Resolved:
    """A tree with every name looked up, and the sections whose names could not be."""

    tree: MappingNode
    diagnostics: list[Diagnostic] = field(default_factory=list)
    unresolved: list[Path] = field(default_factory=list)
    """Places whose missing fields are the fault of a name that was not found, and are not reported again."""

    def fail(self, diagnostic: Diagnostic, place: Path) -> None:
        self.diagnostics.append(diagnostic)
        self.unresolved.append(place)

    def put(self, path: Path, node: YamlNode) -> None:
        self.tree = _replaced(self.tree, path, node)


def resolve(tree: MappingNode) -> Resolved:
    """Presets and the catalog laid under the user's tree."""
    result = Resolved(tree)
    _resolve_model(result)
    _resolve_hardware(result)
    return result


def _replaced(tree: MappingNode, path: Path, node: YamlNode) -> MappingNode:
    key = str(path[0])
    entry = tree.entries[key]
    value = node if len(path) == 1 else _replaced(_mapping(entry.value), path[1:], node)
    return MappingNode({**tree.entries, key: Entry(entry.key, value)}, tree.span, tree.written)


def _mapping(node: YamlNode) -> MappingNode:
    assert isinstance(node, MappingNode)
    return node


def _resolve_model(result: Resolved) -> None:
    model = result.tree.get("model")
    if not isinstance(model, MappingNode):
        return
    if any(not isinstance(model.get(key), ScalarNode | None) for key in MODEL_BASES):
        result.unresolved.append(("model",))  # a list or mapping where a name stands: validation says so
    given = [key for key in MODEL_BASES if _text(model, key) is not None]
    if len(given) > 1:
        result.fail(_several_bases(model, given), ("model",))
        return
    if not given:
        return
    key = given[0]
    name = _scalar(model, key)
    base = _catalog_model(result, key, name) if key != "hf" else _hf_model(result, name)
    if base is None:
        return
    base.pop("source", None)
    lower = from_data(base, span=name.span)
    shape, _ = walk(Spec, result.tree, ("model",))
    result.put(("model",), overlay(lower, model, shape=shape, path=("model",)))


def _several_bases(model: MappingNode, given: list[str]) -> Diagnostic:
    first, second = given[:2]
    fixes = [
        Fix(f"keep `{kept}` and remove `{gone}`", (Edit("remove", ("model", gone)),))
        for kept, gone in ((first, second), (second, first))
    ]
    return diagnose(
        "S117",
        f"`{first}` and `{second}` both say what the model is; one of them can",
        path=("model", second),
        part="key",
        labels=[Label("the other one", ("model", first), part="key")],
        fixes=fixes if len(given) == 2 else (),
    )


def _text(mapping: MappingNode, key: str) -> str | None:
    node = mapping.get(key)
    return node.value if isinstance(node, ScalarNode) and isinstance(node.value, str) else None


def _scalar(mapping: MappingNode, key: str) -> ScalarNode:
    node = mapping.get(key)
    assert isinstance(node, ScalarNode)
    return node


def _catalog_model(result: Resolved, key: str, name: ScalarNode) -> dict[str, Any] | None:
    """The fields of a preset (its family's included) or of a family."""
    from . import catalog

    known = catalog.list_presets() if key == "preset" else catalog.list_families()
    if name.value in known:
        return dict((catalog.preset if key == "preset" else catalog.family)(name.value))
    code, what = ("S204", "preset") if key == "preset" else ("S205", "family")
    other = catalog.list_families() if key == "preset" else catalog.list_presets()
    result.fail(_unknown_name(code, what, name, known, path=("model", key), other_key=other), ("model",))
    return None


def _unknown_name(
    code: str, what: str, name: ScalarNode, known: list[str], *, path: Path, other_key: list[str] | None = None
) -> Diagnostic:
    """A name that is not in the catalog: the known ones, closest first."""
    text = str(name.value)
    fixes = [Fix(f"did you mean `{near}`?", (Edit("set", path, near),)) for near in did_you_mean(text, known)]
    notes = [f"known, closest first: {listing(by_closeness(text, known))}"]
    if other_key is not None and text in other_key:
        other = "family" if what == "preset" else "preset"
        notes.insert(
            0, f"`{text}` is a {other}" + (": `family` takes it, with dimensions" if other == "family" else "")
        )
        fixes.insert(0, Fix(f"write `{other}: {text}`", (Edit("rename", path, other),)))
    return diagnose(
        code,
        f"the catalog has no {what} `{text}`",
        path=path,
        notes=notes,
        fixes=fixes,
    )


def _hf_model(result: Resolved, name: ScalarNode) -> dict[str, Any] | None:
    """The fields that a Hugging Face config.json means."""
    from .hf.families import family_of_config
    from .hf_config import UnsupportedConfig, from_hf_config
    from .hf_folder import Unreadable, read_config

    try:
        config = read_config(
            name.span.source.folder / str(name.value) / "config.json", shown=f"{name.value}/config.json"
        )
    except Unreadable as problem:
        result.fail(diagnose("S207", str(problem), path=("model", "hf")), ("model",))
        return None
    try:
        return {"family": family_of_config(config), **from_hf_config(config)}
    except UnsupportedConfig as problem:
        message = f"`{problem.field}` of config.json is not supported: {problem.why}"
        result.fail(diagnose("S208", message, path=("model", "hf")), ("model",))
        return None


def _resolve_hardware(result: Resolved) -> None:
    """The accelerator, the host around it and the storage, each `like` an entry of the catalog."""
    from . import catalog

    hardware = result.tree.get("hardware")
    if not isinstance(hardware, MappingNode):
        return
    for key, code, folder in (
        ("accelerator", "S206", catalog.ACCELERATORS),
        ("host", "S209", catalog.HOSTS),
        ("storage", "S209", catalog.STORAGES),
    ):
        node = hardware.get(key)
        if node is not None:
            _resolve_entry(result, node, path=("hardware", key), code=code, folder=folder)


def _resolve_entry(result: Resolved, node: YamlNode, *, path: Path, code: str, folder: str) -> None:
    from . import catalog

    mapping = expand(path, node)
    if not isinstance(mapping, MappingNode) or _text(mapping, "like") is None:
        return
    name, known = _scalar(mapping, "like"), catalog.list_names(folder)
    if name.value not in known:
        at = path if isinstance(node, ScalarNode) else (*path, "like")
        result.fail(_unknown_name(code, str(path[-1]), name, known, path=at), path)
        return
    lower = from_data(_as_described(catalog.entry(folder, name.value), key=str(path[-1])), span=name.span)
    shape, _ = walk(Spec, result.tree, path)
    result.put(path, overlay(lower, mapping, shape=shape, path=path))


def _as_described(entry: dict[str, Any], *, key: str) -> dict[str, Any]:
    """A catalog entry without the sources of its figures."""
    from .hardware import Accelerator, Host, Storage

    fields = {"accelerator": Accelerator, "host": Host, "storage": Storage}[key].model_fields
    return {name: value for name, value in entry.items() if name in fields}
