"""The manifest of docs/kuberay: what KubeRay knows, and what this project does with it."""

from __future__ import annotations

import copy
import json
import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from mtkd_dist.config.load import load_config
from mtkd_dist.pools.cluster import address_of

ROOT = Path(__file__).parents[1]
SCHEMA = json.loads((ROOT / "tests" / "kuberay" / "rayjob.schema.json").read_text())


@pytest.fixture
def manifest() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docs" / "kuberay" / "rayjob.yaml").read_text())


def containers(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    spec = manifest["spec"]["rayClusterSpec"]
    return [
        container
        for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
        for container in group["template"]["spec"]["containers"]
    ]


def test_the_manifest_fits_the_schema_of_kuberay(manifest: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(manifest, SCHEMA)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all mappings with fixed keys."""
    found = [path] if isinstance(value, dict) else []
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        if key not in ("rayStartParams", "requests", "limits"):
            found += places(inner, (*path, key))
    return found


def test_a_misspelt_field_fails_wherever_it_stands(manifest: dict[str, Any]) -> None:
    everywhere = places(manifest)
    assert len(everywhere) > 30
    for path in everywhere:
        wrong = copy.deepcopy(manifest)
        inner = wrong
        for key in path:
            inner = inner[key]
        inner["mispelt"] = "x"
        with pytest.raises(jsonschema.ValidationError, match="'mispelt' was unexpected"):
            jsonschema.validate(wrong, SCHEMA)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "backoffLimit"), "three"),
        (("spec", "rayClusterSpec", "authOptions", "mode"), "tokens"),
        (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "template", "spec", "containers", 0, "name"), None),
        (("kind",), "RayCluster"),
    ],
)
def test_a_wrong_value_fails(manifest: dict[str, Any], path: tuple[Any, ...], value: Any) -> None:
    inner = manifest
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(manifest, SCHEMA)


def test_its_command_is_one_that_the_launch_understands(manifest: dict[str, Any]) -> None:
    words = shlex.split(manifest["spec"]["entrypoint"])
    assert words[:3] == ["python", "-m", "mtkd_dist.launch"]
    config = load_config(words[3:])
    assert address_of(config.cluster, {}) == "auto"
    gpus = 0
    for group in manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
        (container,) = group["template"]["spec"]["containers"]
        gpus += group["replicas"] * int(container["resources"]["limits"]["nvidia.com/gpu"])
    assert config.num_gpus == gpus


def test_all_nodes_see_data_and_output_and_run_the_same_image(manifest: dict[str, Any]) -> None:
    config = load_config(shlex.split(manifest["spec"]["entrypoint"])[3:])
    images = set()
    for container in containers(manifest):
        images.add(container["image"])
        (mount,) = container["volumeMounts"]
        for place in [*config.data, *config.test, *config.teachers, config.output]:
            assert place.startswith(mount["mountPath"] + "/")
    assert len(images) == 1


def test_it_asks_for_a_token_and_for_the_ray_that_is_tested(manifest: dict[str, Any]) -> None:
    spec = manifest["spec"]["rayClusterSpec"]
    assert spec["authOptions"]["mode"] == "token"
    tested = re.search(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert tested is not None
    assert spec["rayVersion"] == tested[1]
