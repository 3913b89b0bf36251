from __future__ import annotations

from pathlib import Path

import pytest

from mtkd_dist.config.load import ConfigError, load_config
from mtkd_dist.config.presets import PRESETS
from mtkd_dist.stages.check import check, named_set
from tests.nets import TINY, make_teacher


def test_the_demos_pass() -> None:
    check(load_config([]))
    check(load_config(["--preset", "demo-sweep"]))


@pytest.mark.parametrize("name", [name for name in PRESETS if name.startswith("paper")])
def test_a_paper_preset_asks_for_data_and_passes_with_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"data.*{name}"):
        check(load_config(["--preset", name]))
    check(load_config(["--preset", name, "--data", str(tmp_path)]))


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--data", "/nowhere/photos"], ["data", "/nowhere/photos"]),
        (["--test", "/nowhere/Set5"], ["test", "/nowhere/Set5"]),
        (["--student", "edrs-baseline"], ["student", "edrs-baseline", "edsr-baseline"]),
        (["--student", "edsr:blocks=none"], ["student", "blocks=none"]),
        (["--aggregator", "dctswn"], ["aggregator", "dctswn", "dctswin"]),
        (["--aggregator", "dctswin:width=10,heads=3"], ["aggregator", "width=10", "heads=3"]),
        (["--teachers", "absent.pth"], ["teachers", "absent.pth", "edsr"]),
        (["--teachers", "edsr", "edsr"], ["teachers", "name="]),
        (["--distil.steps", "0"], ["distil.steps", "0", "at least 1"]),
        (["--distil.ema", "1"], ["distil.ema", "1"]),
        (["--distil.halve_at", "2"], ["distil.halve_at", "between 0 and 1"]),
        (["--aggregate.learning_rate", "-1"], ["aggregate.learning_rate", "-1", "above 0"]),
        (["--distil.batch_size", "6"], ["distil.batch_size", "6", "link.slot_size", "4"]),
        (["--loss.levels", "9"], ["loss.levels", "9", "divisible"]),
        (["--loss.wavelet", "dbb2"], ["loss.wavelet", "dbb2", "such as 'db2'"]),
        (["--loss.wavelet", "db20", "--loss.levels", "3"], ["loss.wavelet", "level 3", "fewer levels"]),
        (["--loss.band_weights", "1", "2"], ["loss.band_weights", "4 numbers", "LL, LH, HL, HH"]),
        (["--loss.band_weights", "1", "1", "1", "-1"], ["loss.band_weights", "-1", "0 or more"]),
        (["--loss.band_weights", "0", "0", "0", "0"], ["loss.band_weights", "above 0"]),
        (["--link.max_bytes", "1000"], ["link.max_bytes", "1000", "at least"]),
        (["--num-gpus", "2", "--teacher-gpus", "2", "--student-gpus", "1"], ["num_gpus", "2", "3"]),
        (["--num-gpus", "8", "--teacher-gpus", "0"], ["teacher_gpus", "0", "at least 1"]),
        (["--num-gpus", "8", "--student-gpus", "8"], ["student_gpus", "8", "other pool"]),
        (["--num-gpus", "8", "--student-gpus", "3"], ["student_gpus", "3", "divisor"]),
        (["--cluster.student_workers", "3"], ["cluster.student_workers", "3", "divisor"]),
        (["--link.slot_size", "0"], ["link.slot_size", "0", "at least 1"]),
        (["--output", ""], ["output", "a folder"]),
        (["--output", __file__], ["output", "this is a file"]),
        (["--teachers", __file__], ["teachers", "test_check.py", "no weight file"]),
        (["--cluster.teacher_workers", "0"], ["cluster.teacher_workers", "0"]),
        (["--distil.validate_every", "-1"], ["distil.validate_every", "-1", "never"]),
        (["--distil.result", "best", "--distil.validate_every", "0"], ["distil.result", "best", "validate_every (0)"]),
        (["--student_weights", "absent.pth"], ["student_weights", "absent.pth"]),
        (["--student_weights", __file__], ["student_weights", "test_check.py", "no weight file"]),
        (["--images.held_out", "1"], ["images.held_out", "1"]),
        (["--images.held_out_names", "0801*", " "], ["images.held_out_names", "none of them empty"]),
    ],
)
def test_what_cannot_work_is_refused_naming_key_value_and_what_is_allowed(argv: list[str], words: list[str]) -> None:
    config = load_config(argv)
    with pytest.raises(ConfigError) as error:
        check(config)
    for word in words:
        assert word in str(error.value)


def test_other_wavelets_and_weights_of_bands_pass() -> None:
    check(load_config(["--loss.wavelet", "db2", "--loss.levels", "2", "--loss.band-weights", "0", "1", "1", "2"]))


def test_a_teacher_of_another_scale_is_refused_before_ray_starts(tmp_path: Path) -> None:
    teacher = make_teacher(tmp_path, "a", scale=3)
    with pytest.raises(ConfigError, match=r"teachers: .*a\.safetensors: enlarges 3 times, expected 2"):
        check(load_config(["--teachers", str(teacher.path), "--scale", "2"]))


def test_student_weights_of_another_network_are_refused_naming_both(tmp_path: Path) -> None:
    teacher = make_teacher(tmp_path, "a")
    flags = ["--scale", "2", "--student_weights", str(teacher.path)]
    check(load_config([*flags, "--student", TINY]))
    with pytest.raises(ConfigError, match=rf"student_weights: .*a\.safetensors: holds {TINY}, expected rlfn"):
        check(load_config([*flags, "--student", "rlfn"]))


def test_a_folder_is_offered_when_its_name_is_nearly_right(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(ConfigError, match=r"Did you mean .*photos"):
        check(load_config(["--data", str(tmp_path / "fotos")]))


@pytest.mark.parametrize(
    ("entry", "name"), [("Kodak24", "Kodak24"), ("Set5/HR", "Set5"), ("mine=Set5/HR", "mine"), ("Set5/HR/", "Set5")]
)
def test_a_test_set_is_named_after_its_folder_or_as_told(entry: str, name: str) -> None:
    assert named_set(entry)[0] == name
