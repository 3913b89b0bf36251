from __future__ import annotations

from pathlib import Path

from mtkd_dist.stages import manifest
from mtkd_dist.stages.manifest import Manifest, changed, fingerprint


def make(**changes: object) -> Manifest:
    values: dict[str, object] = {
        "stage": "distil",
        "inputs": {"seed": 0, "images": "abc"},
        "outputs": {"student.safetensors": "d1"},
        "seed": 0,
        "seconds": 1.5,
    }
    return Manifest(**(values | changes))  # type: ignore[arg-type]


def test_a_stage_without_a_manifest_runs() -> None:
    assert changed(None, {}, {}) == ["not done yet"]


def test_a_stage_with_the_same_inputs_and_whole_outputs_is_done() -> None:
    assert changed(make(), {"seed": 0, "images": "abc"}, {"student.safetensors": "d1"}) == []


def test_what_changed_is_named() -> None:
    assert changed(make(), {"seed": 1, "images": "abc", "new": 2}, {"student.safetensors": "d1"}) == ["new", "seed"]


def test_an_output_that_is_gone_or_differs_makes_the_stage_run() -> None:
    inputs = {"seed": 0, "images": "abc"}
    assert changed(make(), inputs, {"student.safetensors": None}) == ["student.safetensors"]
    assert changed(make(), inputs, {"student.safetensors": "d2"}) == ["student.safetensors"]


def test_a_manifest_survives_its_file(tmp_path: Path) -> None:
    manifest.write(tmp_path, make())
    assert manifest.read(tmp_path) == make()


def test_a_torn_manifest_counts_as_none(tmp_path: Path) -> None:
    assert manifest.read(tmp_path) is None
    (tmp_path / manifest.FILE).write_text('{"stage": "dis')
    assert manifest.read(tmp_path) is None


def test_the_fingerprint_depends_on_values_and_not_on_their_order() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
