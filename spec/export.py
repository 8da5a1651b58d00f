"""The language as a JSON Schema (draft 2020-12), for editors and for anyone who checks specs without llmc.

Pydantic writes the schema of the models; the functions below turn it into one for *texts*: shorthands, names from the
catalog, and `required` only where nothing else can fill a field. A preset fills the whole model and `extends` may fill
anything, so what must be given is stated once, at the root, for specs that extend nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from . import catalog
from .document import Spec
from .fields import Shape, fields_of
from .hardware import Accelerator
from .model import Model
from .resolve import MODEL_BASES
from .training import Train

SCHEMA_FILE = "llmc.schema.json"
DIALECT = "https://json-schema.org/draft/2020-12/schema"

Json = dict[str, Any]


def spec_schema() -> Json:
    """The schema of a spec file."""
    raw = Spec.model_json_schema(mode="validation")
    definitions = {name: _tidy(definition) for name, definition in raw.pop("$defs").items()}
    root = _tidy(raw)
    for cls in _classes():
        _describe(definitions[cls.__name__] if cls is not Spec else root, cls)
    _offer_catalog(definitions)
    definitions[_COMPLETE_STAGE] = _required_of_stage()
    return {
        "$schema": DIALECT,
        "title": "llmc spec",
        "description": root["description"],
        "type": "object",
        "properties": root["properties"],
        "additionalProperties": False,
        "if": {"required": ["extends"]},
        "else": _required_of_spec(),
        "$defs": dict(sorted(definitions.items())),
    }


def schema_text() -> str:
    """As it is committed: stable, readable, one line break at the end."""
    return json.dumps(spec_schema(), indent=2, ensure_ascii=False) + "\n"


def schema_path() -> Path:
    """Where the committed schema lies."""
    return Path(__file__).parent.parent / "schema" / SCHEMA_FILE


def _classes() -> list[Any]:
    """Every class of the language, the root first."""
    found: list[Any] = [Spec]
    for cls in found:
        for shape in fields_of(cls).values():
            found += [other for other in (shape.item or shape).classes() if other not in found]
    return found


def _tidy(schema: Any) -> Any:
    """Without what is noise or OpenAPI; nested alternatives flattened, so that editors offer all of them."""
    if isinstance(schema, list):
        return [_tidy(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    tidy: Json = {}
    for key, value in schema.items():
        if key == "properties":
            tidy[key] = {name: _tidy(item) for name, item in value.items()}
        elif key == "oneOf":
            tidy["anyOf"] = _tidy(value)  # members are told apart by `kind`, which a preset may fill in
        elif key == "default":
            tidy[key] = value
        elif key not in ("title", "discriminator", "required"):
            tidy[key] = _tidy(value)
    if "anyOf" in tidy:
        tidy["anyOf"] = _flat(tidy["anyOf"], tidy)
        tidy.pop("minLength", None)  # meant for the list, where it is stated too
    return tidy


def _flat(alternatives: list[Json], outer: Json) -> list[Json]:
    """[anyOf [a, b], null] -> [a, b, null]; the unit and the examples move out to the field."""
    flat: list[Json] = []
    for alternative in alternatives:
        for note in ("x-unit", "examples"):
            if note in alternative:
                outer[note] = alternative.pop(note)
        flat += alternative.get("anyOf", [alternative])
    return flat


def _describe(definition: Json, cls: Any) -> None:
    """Each field's description and default, which pydantic drops beside a reference or a factory."""
    for name, info in cls.model_fields.items():
        field = definition["properties"][name]
        field["description"] = info.description
        default = _default(info)
        if default is not None:
            field["default"] = default
        elif field.get("default", "") is None:
            field["default"] = None
    definition["description"] = (cls.__doc__ or "").strip()


def _default(info: Any) -> Any:
    """A default as it would be written; None where there is none, or where it depends on other fields."""
    value = info.default
    if info.default_factory is not None and not info.default_factory_takes_validated_data:
        value = info.default_factory()
    if not hasattr(value, "model_dump"):
        return None if info.is_required() or value is None or info.default_factory is not None else _plain(value)
    return _plain(value.model_dump(exclude_none=True))


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _offer_catalog(definitions: Json) -> None:
    """Names from the catalog as choices, wherever one is written."""
    model = definitions["Model"]["properties"]
    _name_or_null(model["preset"], catalog.list_presets())
    _name_or_null(model["family"], catalog.list_families())
    accelerators = catalog.list_accelerators()
    _name_or_null(definitions["Accelerator"]["properties"]["like"], accelerators)
    field = definitions["Hardware"]["properties"]["accelerator"]
    field["anyOf"] = [{"type": "string", "enum": accelerators}, {"$ref": field.pop("$ref")}]
    field["examples"] = ["cpu", "h100-sxm-80g", {"like": "h100-sxm-80g", "memory_gib": 96}]
    for part, kind, folder in (("host", "Host", catalog.HOSTS), ("storage", "Storage", catalog.STORAGES)):
        names = catalog.list_names(folder)
        _name_or_null(definitions[kind]["properties"]["like"], names)
        field = definitions["Hardware"]["properties"][part]
        field["anyOf"] = [{"type": "string", "enum": names}, *field["anyOf"]]
    families = [name for name in ("llama", "gpt2") if name in catalog.list_families()]
    model["family"]["examples"] = families


def _name_or_null(field: Json, names: list[str]) -> None:
    field["anyOf"] = [{"type": "string", "enum": names}, {"type": "null"}]


def _required_of_spec() -> Json:
    """What a spec that extends nothing must give."""
    required = _required_in(Shape(node=Spec)) or {}
    stage = {"$ref": f"#/$defs/{_COMPLETE_STAGE}"}
    required["properties"] |= {
        "model": _required_of_model(),
        "hardware": {"required": ["accelerator"], "properties": {"accelerator": _required_of_accelerator()}},
        "train": {"if": {"type": "array"}, "then": {"items": stage}, "else": stage},
    }
    return required


_COMPLETE_STAGE = "CompleteTrain"


def _required_of_stage() -> Json:
    """The same for one stage of training, which stands alone or in a list."""
    return {"description": "What a stage of training must give.", **(_required_in(Shape(node=Train)) or {})}


def _required_of_model() -> Json:
    """A preset or a configuration gives everything, a family all but the dimensions."""
    fields = [name for name, shape in fields_of(Model).items() if shape.is_required]
    dimensions = [name for name in fields if not fields_of(Model)[name].classes()]
    preset, family, hf = MODEL_BASES
    return _any_of([preset], [hf], [family, *dimensions], fields)


def _required_of_accelerator() -> Json:
    """A name gives everything, and so does the one that a description is like."""
    fields = [name for name, shape in fields_of(Accelerator).items() if shape.is_required]
    return {"if": {"type": "object"}, "then": _any_of(["like"], fields)}


def _any_of(*alternatives: list[str]) -> Json:
    return {"anyOf": [{"required": names} for names in alternatives]}


def _required_in(shape: Shape) -> Json | None:
    """`required` of a mapping and of the mappings in it; None where nothing is required."""
    if shape.item is not None:
        inner = _required_in(shape.item)
        return {"items": inner} if inner else None
    if shape.members:
        return _required_of_members(shape)
    if shape.node is None:
        return None
    fields = fields_of(shape.node)
    required = [name for name, field in fields.items() if field.is_required]
    inner = {name: found for name, field in fields.items() if (found := _required_in(field)) is not None}
    return {**({"required": required} if required else {}), **({"properties": inner} if inner else {})} or None


def _required_of_members(shape: Shape) -> Json:
    """For a union: the key that tells its members apart, and then what that member requires."""
    key = shape.tag_key
    if key is None:
        return {"if": {"type": "object"}, "then": _any_of(*([tag] for tag in shape.members))}
    parts: Json = {"if": {"type": "object"}, "then": {"required": [key]}}
    cases = []
    for tag, cls in shape.members.items():
        required = [name for name, field in fields_of(cls).items() if field.is_required and name != key]
        if required:
            when = {"required": [key], "properties": {key: {"const": tag}}}
            cases.append({"if": when, "then": {"required": required}})
    return {**parts, **({"allOf": cases} if cases else {})}
