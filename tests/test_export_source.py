"""What is known of a model that is exported: from its file, and from the run that made it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mtkd_dist.config.load import ConfigError
from mtkd_dist.config.tree import Config
from mtkd_dist.export.publication import FAMILIES, Publication, configuration, licence_note, metadata
from mtkd_dist.export.source import file_stem, read_source
from mtkd_dist.models import aggregator_metadata, build_aggregator, network_names, save_network
from mtkd_dist.stages import manifest
from mtkd_dist.stages.manifest import Manifest
from tests.nets import TINY, TINY_AGGREGATOR, make_teacher
from tests.runs import PHOTOS, TEACHERS, make_run


def test_every_network_that_can_be_named_is_known_by_the_name_that_others_give_it() -> None:
    assert FAMILIES.keys() == {*network_names()}


def test_a_run_tells_configuration_scores_teachers_and_photographs(tmp_path: Path) -> None:
    source = read_source(str(make_run(tmp_path)))
    assert source.unknown == {}
    assert (source.name, source.network.architecture, source.network.scale) == ("run-1", TINY, 2)
    assert source.teachers == TEACHERS
    assert source.config is not None
    assert source.config.distil.steps == 12
    assert source.photographs == PHOTOS
    assert [row["psnr_y"] for row in source.own_scores] == [31.5]


def test_the_file_of_a_run_knows_as_much_as_its_folder(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    folder, file = read_source(str(run)), read_source(str(run / "student.safetensors"))
    for known in ("name", "digest", "config", "photographs", "scores", "title", "unknown"):
        assert getattr(file, known) == getattr(folder, known), known
    assert read_source(f"{run / 'student.safetensors'}:name=mine").name == "mine"


def test_a_file_alone_says_what_is_not_known_of_it(tmp_path: Path) -> None:
    source = read_source(str(make_teacher(tmp_path, "alone").path))
    assert source.name == "alone"
    assert source.unknown.keys() == {"configuration", "scores", "photographs"}
    assert "does not lie in the folder of a run" in source.unknown["scores"]


def test_of_a_teacher_in_its_run_it_is_said_that_only_students_are_known_of(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    folder = run / "teachers" / "tiny"
    folder.mkdir(parents=True)
    make_teacher(folder, "weights")
    manifest.write(folder, Manifest("teachers/tiny", {}, {}, seed=0, seconds=1.0))
    source = read_source(str(folder / "weights.safetensors"))
    assert set(source.unknown.values()) == {"the file is a teacher of its run, and these are told of students only"}


def test_a_student_that_its_run_did_not_make_gets_none_of_the_run_s_knowledge(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    make_teacher(run, "student", seed=5)
    source = read_source(str(run))
    assert source.config is None
    assert source.scores == ()
    assert "is not the file any more" in source.unknown["scores"]


@pytest.mark.parametrize("change", [("steps: 12", "steps: 13"), ("width=8", "width=9"), ("output: ", "outptu: ")])
def test_a_configuration_of_another_training_is_left_out(tmp_path: Path, change: tuple[str, str]) -> None:
    file = make_run(tmp_path) / "config.yaml"
    assert change[0] in file.read_text()
    file.write_text(file.read_text().replace(*change))
    source = read_source(str(file.parent))
    assert source.config is None
    assert source.unknown.keys() == {"configuration", "photographs"}
    assert source.own_scores


def test_an_aggregator_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "aggregator.safetensors"
    aggregator = build_aggregator(TINY_AGGREGATOR, 2, 2)
    save_network(file, aggregator, aggregator_metadata(TINY_AGGREGATOR, 2, TEACHERS))
    with pytest.raises(ConfigError, match=r"is an aggregator.*give a student"):
        read_source(str(file))


def test_what_is_no_model_is_refused_with_what_was_expected(tmp_path: Path) -> None:
    make_teacher(tmp_path, "student-1")
    with pytest.raises(ConfigError, match=r"no student.safetensors in this folder; it holds .*student-1.safetensors"):
        read_source(str(tmp_path))
    with pytest.raises(ConfigError, match=r"no such file or folder.*Did you mean 'student-1.safetensors'"):
        read_source(str(tmp_path / "studnt-1.safetensors"))
    with pytest.raises(ConfigError, match="a network without weights"):
        read_source("edsr")


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("demo", "4x-demo"),
        ("real-x4", "4x-real"),
        ("4x_My model (1)", "4x-My-model-1"),
        ("rlfn_x2", "4x-rlfn-x2"),
        ("x4", "4x-model"),
        ("Größe é", "4x-Grosse-e"),
    ],
)
def test_files_are_called_as_the_catalogue_wants_it(name: str, stem: str) -> None:
    assert file_stem(name, 4) == stem


def test_the_configuration_that_is_published_names_no_folder_of_the_machine(tmp_path: Path) -> None:
    source = read_source(str(make_run(tmp_path)))
    assert source.config is not None
    values = configuration(source.config)
    assert (values["data"], values["test"]) == (["DIV2K_train_HR"], ["held=held"])
    assert values["teachers"] == ["big.pth:name=big", "bigger.pth"]
    assert values["distil"]["steps"] == 12
    assert str(tmp_path) not in json.dumps(values)


def test_of_a_method_of_ones_own_the_name_and_settings_are_published(tmp_path: Path) -> None:
    method = f"{tmp_path}/mine.py:temperature=0.1"
    assert configuration(Config(method=method))["method"] == "mine.py:temperature=0.1"


def test_the_metadata_name_what_is_known_and_warn_of_the_terms_of_others(tmp_path: Path) -> None:
    source = read_source(str(make_run(tmp_path)))
    told = metadata(source, Publication("mine", author="me", licence="CC-BY-4.0"))
    assert {key: told[key] for key in ("network", "scale", "method", "name", "author", "license")} == {
        "network": TINY,
        "scale": "2",
        "method": "mtkd",
        "name": "mine",
        "author": "me",
        "license": "CC-BY-4.0",
    }
    assert json.loads(told["teachers"]) == TEACHERS
    assert json.loads(told["scores"])[0]["psnr_y"] == 31.5
    assert json.loads(told["configuration"])["distil"]["steps"] == 12
    assert told["license_note"] == licence_note(source)
    assert "big and bigger" in licence_note(source)
    assert "DIV2K_train_HR" in licence_note(source)
    assert str(tmp_path) not in json.dumps(told)


def test_what_is_not_known_is_not_in_the_metadata(tmp_path: Path) -> None:
    told = metadata(read_source(str(make_teacher(tmp_path, "alone").path)), Publication("alone"))
    assert told.keys() == {
        "network", "scale", "name", "architecture", "license_note", "source_sha256", "software"
    }  # fmt: skip
