"""Kubernetes objects held to their schemas: Kubernetes' own by `kubernetes-validate`, others by those in crds/."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012
from ruamel.yaml import YAML

CRDS = Path(__file__).with_name("crds")
VERSION = "1.37.0"


def objects(text: str) -> list[dict[str, Any]]:
    """The objects of a manifest, in their order."""
    return [each for each in YAML(typ="safe", pure=True).load_all(text) if each is not None]


def validate(found: dict[str, Any]) -> None:
    """Fails with the place and what is wrong there."""
    own = CRDS / f"{found['kind'].lower()}.json"
    try:
        if not own.exists():
            kubernetes_validate.validate(found, VERSION, strict=True)
            return
        schema = json.loads(own.read_text(encoding="utf-8"))
        jsonschema.Draft202012Validator(schema, registry=_registry()).validate(found)
    except jsonschema.ValidationError as error:
        raise AssertionError(f"{found['kind']} {error.json_path}: {error.message[:500]}") from None


@cache
def _registry() -> Any:
    """What the schemas in crds/ refer to."""
    folder = files("kubernetes_validate") / "kubernetes-json-schema" / f"v{VERSION}-local-strict"
    definitions = json.loads((folder / "_definitions.json").read_text(encoding="utf-8"))
    resource = Resource.from_contents(definitions, default_specification=DRAFT202012)
    return Registry().with_resource("/api/_definitions.json", resource)
