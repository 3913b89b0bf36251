"""Makes rayjob.schema.json: of KubeRay's RayJob, the schema of those fields that docs/kuberay/rayjob.yaml uses.

    python tests/kuberay/prune.py ray.io_rayjobs.yaml

The argument is ray-operator/config/crd/bases/ray.io_rayjobs.yaml of github.com/ray-project/kuberay (Apache-2.0), at the
tag that SOURCE names. The whole schema is 25,000 lines; and Kubernetes drops fields that it does not know without a
word, so here every other field is an error.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

SOURCE = "github.com/ray-project/kuberay v1.7.0, ray-operator/config/crd/bases/ray.io_rayjobs.yaml, Apache-2.0, pruned"
MANIFEST = Path(__file__).parents[2] / "docs" / "kuberay" / "rayjob.yaml"
SCHEMA = Path(__file__).with_name("rayjob.schema.json")
NAME_ONLY = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
"""Of `metadata`, which the resource leaves to Kubernetes."""


def pruned(schema: dict[str, Any], values: list[Any]) -> dict[str, Any]:
    """`schema` without the fields that none of `values` (all that stand at this place) has; no others are allowed."""
    kept = {key: value for key, value in schema.items() if key != "description" and not key.startswith("x-")}
    if "properties" in schema:
        used = {key for value in values for key in value}
        if unknown := used - schema["properties"].keys():
            raise ValueError(f"the manifest has fields that KubeRay does not know: {sorted(unknown)}")
        kept["properties"] = {
            key: pruned(schema["properties"][key], [value[key] for value in values if key in value])
            for key in sorted(used)
        }
        kept["additionalProperties"] = False
    elif "items" in schema:
        kept["items"] = pruned(schema["items"], [item for value in values for item in value])
    return kept


def main(crd: Path) -> None:
    versions = yaml.safe_load(crd.read_text())["spec"]["versions"]
    (schema,) = (version["schema"]["openAPIV3Schema"] for version in versions if version["name"] == "v1")
    schema["properties"]["metadata"] = NAME_ONLY
    small = {"$comment": SOURCE, "required": ["apiVersion", "kind", "metadata", "spec"]}
    small |= pruned(schema, [yaml.safe_load(MANIFEST.read_text())])
    small["properties"] |= {"apiVersion": {"const": "ray.io/v1"}, "kind": {"const": "RayJob"}}
    SCHEMA.write_text(json.dumps(small, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
