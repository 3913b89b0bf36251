from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mtkd_dist.stages import manifest
from mtkd_dist.stages.manifest import Manifest, changed, differences, fingerprint


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


DIGESTS = ["a" * 64, "b" * 64]


def inputs_of(**changes: Any) -> dict[str, Any]:
    inputs = {
        "training": {"steps": 4, "halve_at": [0.5]},
        "method": ["MTKD", {"levels": 1}],
        "images": DIGESTS[0],
        "teachers": [["edsr", DIGESTS[0], None], ["rcan", DIGESTS[1], 255]],
        "start": None,
    }
    return inputs | changes


def told(**changes: Any) -> list[str]:
    return differences(inputs_of(), inputs_of(**changes), {"training": "distil", "method": "loss"})


def test_equal_inputs_have_no_differences() -> None:
    assert told() == []


def test_a_difference_shows_the_users_name_of_the_nested_key_and_both_values() -> None:
    assert told(training={"steps": 8, "halve_at": []}) == ["distil.steps: 4 -> 8", "distil.halve_at: [0.5] -> []"]
    assert told(method=["MTKD", {"levels": 2}]) == ["loss.levels: 1 -> 2"]


def test_files_are_told_apart_by_the_first_digits_of_their_digests() -> None:
    assert told(images=DIGESTS[1]) == ["images: aaaaaaaaaaaa -> bbbbbbbbbbbb (other photographs)"]
    assert told(start=DIGESTS[1]) == ["start: none -> bbbbbbbbbbbb"]


def test_a_changed_an_added_and_a_reordered_teacher_are_named() -> None:
    edsr, rcan = inputs_of()["teachers"]
    assert told(teachers=[["edsr", DIGESTS[1], None], rcan]) == ["teachers.edsr: aaaaaaaaaaaa -> bbbbbbbbbbbb"]
    assert "teachers.swinir: none -> aaaaaaaaaaaa" in told(teachers=[edsr, rcan, ["swinir", DIGESTS[0], None]])
    assert told(teachers=[rcan, edsr]) == ["teachers (their order): ['edsr', 'rcan'] -> ['rcan', 'edsr']"]


leaves = st.none() | st.booleans() | st.integers() | st.text(max_size=3)
nested = st.dictionaries(
    st.sampled_from("abc"), st.recursive(leaves, lambda v: st.dictionaries(st.sampled_from("xyz"), v, min_size=1))
)


@given(nested, nested)
def test_no_difference_is_shown_exactly_where_the_inputs_are_equal(old: dict[str, Any], new: dict[str, Any]) -> None:
    # None and a key that is absent are one: a setting that is not given.
    def given_alone(inputs: Any) -> Any:
        if not isinstance(inputs, dict):
            return inputs
        return {k: v for k, v in ((k, given_alone(v)) for k, v in inputs.items()) if v is not None and v != {}}

    assert (differences(old, new, {}) == []) == (given_alone(old) == given_alone(new))
