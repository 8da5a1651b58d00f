"""Derives a small JSON Schema from a CustomResourceDefinition: `python derive.py CRD.yaml SOURCE > NAME.json`.

Descriptions go, unknown keys become errors, and what a CRD copies from Kubernetes' own types (a pod, a container, metadata)
becomes a reference into the definitions that `kubernetes-validate` carries. Rules in CEL are lost.
"""

from __future__ import annotations

import json
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

Json = dict[str, Any]
VERSION = "v1.37.0-local-strict"
DEFINITIONS = json.loads(
    (files("kubernetes_validate") / "kubernetes-json-schema" / VERSION / "_definitions.json").read_text()
)["$defs"]
REFERENCE = "/api/_definitions.json#/$defs/"
POD_SPEC, CONTAINER_TYPE = "io.k8s.api.core.v1.PodSpec", "io.k8s.api.core.v1.Container"
METADATA = {"$ref": f"{REFERENCE}io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}
POD = {"containers", "nodeSelector", "tolerations", "restartPolicy"}
CONTAINER = {"args", "command", "env", "image", "livenessProbe"}
KEPT = ("type", "enum", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "required")
LEFT_OUT = {  # kinds of KServe that no generated object uses
    "explainer", "transformer", "canaryTrafficPercent", "huggingface", "lightgbm", "mlserver", "model", "onnx", "paddle",
    "pmml", "predictiveserver", "pytorch", "sklearn", "tensorflow", "triton", "xgboost", "workerSpec", "confidential",
}  # fmt: skip


def derive(crd: Json, source: str) -> Json:
    """The schema of the stored version."""
    version = next(each for each in crd["spec"]["versions"] if each["storage"])
    kind, group = crd["spec"]["names"]["kind"], crd["spec"]["group"]
    root = small(version["schema"]["openAPIV3Schema"], is_model=kind == "InferenceService")
    root["properties"] |= {
        "apiVersion": {"const": f"{group}/{version['name']}"},
        "kind": {"const": kind},
        "metadata": METADATA,
    }
    root["required"] = ["apiVersion", "kind", "metadata", "spec"]
    root["properties"].pop("status", None)
    return {"$comment": f"Derived by derive.py from {source}", **root}


def small(schema: Json, *, is_model: bool, name: str = "") -> Json:
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    properties = schema.get("properties", {})
    for marks, ref in ((POD, POD_SPEC), (CONTAINER, CONTAINER_TYPE)):
        if marks <= properties.keys():
            return _extended(schema, ref, is_model=is_model)
    if name in ("metadata", "objectMeta") and schema.get("type") == "object" and "additionalProperties" not in schema:
        return METADATA
    kept: Json = {key: schema[key] for key in KEPT if key in schema}
    if properties:
        wanted = {key: value for key, value in properties.items() if not (is_model and key in LEFT_OUT)}
        kept["properties"] = {key: small(value, is_model=is_model, name=key) for key, value in wanted.items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            kept["additionalProperties"] = False
    elif isinstance(schema.get("additionalProperties"), dict):
        kept["additionalProperties"] = small(schema["additionalProperties"], is_model=is_model)
    if "items" in schema:
        kept["items"] = small(schema["items"], is_model=is_model)
    return kept


def _extended(schema: Json, ref: str, *, is_model: bool) -> Json:
    """A type of Kubernetes' own, with the fields that the CRD adds to it, if any."""
    copied = DEFINITIONS[ref]["properties"].keys()
    own = {key: value for key, value in schema["properties"].items() if key not in copied}
    own = {key: small(value, is_model=is_model, name=key) for key, value in own.items() if key not in LEFT_OUT}
    if not own:
        return {"$ref": REFERENCE + ref}
    properties = own | {key: {"$ref": f"{REFERENCE}{ref}/properties/{key}"} for key in sorted(copied)}
    return {"type": "object", "properties": properties, "additionalProperties": False}


if __name__ == "__main__":
    definition = YAML(typ="safe").load(
        Path(sys.argv[1]).read_text(encoding="utf-8").replace("{{", "").replace("}}", "")
    )
    print(json.dumps(derive(definition, sys.argv[2]), separators=(",", ":"), sort_keys=True))
