"""A model of the catalogue OpenModelDB as JSON Schema: `src/lib/schema.ts` and what its validator asks for beyond it
(`src/lib/model-props.ts`, `schema-util.ts`), transcribed from OpenModelDB/open-model-database as of August 2026."""

from __future__ import annotations

from typing import Any

from mtkd_dist.export.catalogue import ARCHITECTURES

TAGS = ["general-upscaler", "photo", "pretrained", "research", "restoration"]
"""Those of the catalogue that could be meant here."""
MODEL_ID = r"^\d+x-[a-zA-Z0-9]+(?:-[a-zA-Z0-9]+)*$"

_USER_ID = {"type": "string", "pattern": r"^[a-z0-9]+(?:-[a-z0-9]+)*$"}
_COUNT = {"type": "integer", "minimum": 1}
_FILE = {
    "size": _COUNT,
    "sha256": {"type": "string", "pattern": r"^[0-9a-fA-F]{64}$"},
    "urls": {"type": "array", "items": {"type": "string"}, "minItems": 1},
}


def _resource(platform: str, kind: str) -> dict[str, Any]:
    properties = _FILE | {"platform": {"const": platform}, "type": {"const": kind}}
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


_PAIRED = {"type": {"const": "paired"}, "LR": {"type": "string"}, "SR": {"type": "string"}}
_STANDALONE = {"type": {"const": "standalone"}, "url": {"type": "string"}}
_IMAGES = [
    {
        "type": "object",
        "properties": image | {"caption": {"type": "string"}},
        "required": list(image),
        "additionalProperties": False,
    }
    for image in (_PAIRED, _STANDALONE)
]
_REQUIRED: dict[str, Any] = {
    "name": {"type": "string"},
    "author": {"oneOf": [_USER_ID, {"type": "array", "items": _USER_ID, "minItems": 1}]},
    "license": {"type": ["string", "null"], "pattern": r"^[A-Za-z0-9.\-]+(\s+OR\s+[A-Za-z0-9.\-]+)*$"},
    "tags": {"type": "array", "items": {"enum": TAGS}, "minItems": 1},
    "description": {"type": "string", "pattern": r"^\S[\s\S]*\S$"},
    "date": {"type": "string", "pattern": r"^\d{4}-(?:0[1-9]|1[012])-(?:0[1-9]|[12][0-9]|3[01])$"},
    "architecture": {"enum": ARCHITECTURES},
    "size": {
        "oneOf": [{"type": "null"}, {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1}]
    },
    "scale": {"type": "integer", "minimum": 1, "maximum": 16},
    "inputChannels": {"type": "integer", "minimum": 1, "maximum": 4},
    "outputChannels": {"type": "integer", "minimum": 1, "maximum": 4},
    "resources": {
        "type": "array",
        "items": {
            "oneOf": [_resource("pytorch", "pth"), _resource("pytorch", "safetensors"), _resource("onnx", "onnx")]
        },
        "minItems": 1,
    },
    "images": {"type": "array", "items": {"oneOf": _IMAGES}},
}
_OPTIONAL: dict[str, Any] = {
    "trainingIterations": _COUNT,
    "trainingEpochs": _COUNT,
    "trainingBatchSize": _COUNT,
    "trainingHRSize": _COUNT,
    "trainingOTF": {"type": "boolean"},
    "dataset": {"type": "string"},
    "datasetSize": _COUNT,
    "pretrainedModelG": {"type": "string", "pattern": MODEL_ID},
    "pretrainedModelD": {"type": "string", "pattern": MODEL_ID},
}
MODEL: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": _REQUIRED | _OPTIONAL,
    "required": list(_REQUIRED),
    "additionalProperties": False,
}
