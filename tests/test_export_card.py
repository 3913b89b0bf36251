"""The model card, in Markdown and as an entry of the catalogue OpenModelDB."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from mtkd_dist.config.load import ConfigError
from mtkd_dist.export.card import card
from mtkd_dist.export.catalogue import Resource, entry, to_text
from mtkd_dist.export.publication import Publication
from mtkd_dist.export.source import file_stem, read_source
from tests.catalogue_schema import MODEL, MODEL_ID
from tests.nets import make_teacher
from tests.runs import PHOTOS, make_run

FILES = [
    Resource("2x-run-1.safetensors", "safetensors", 4321, "1" * 64),
    Resource("2x-run-1.onnx", "onnx", 1234, "2" * 64),
    Resource("2x-run-1.pt2", "program", 99, "3" * 64),
]
FULL = Publication("run-1", author="Some Body", licence="CC-BY-NC-4.0", url="https://example.org/models/")
DATE = "2026-11-28"


def faults(model: dict[str, object]) -> list[str]:
    """Where an entry is none of the catalogue's."""
    return sorted({".".join(map(str, error.absolute_path)) for error in Draft202012Validator(MODEL).iter_errors(model)})


@pytest.mark.parametrize(
    ("network", "architecture", "size"),
    [
        ("edsr-baseline:width=8,blocks=1", "edsr", ["8nf", "1nb"]),
        ("rcan:groups=1,blocks=2,width=16", "rcan", ["16nf", "1nrg", "2nrb"]),
        ("swinir-light:width=12,groups=1,layers=2,heads=2", "swinir", ["s64w8", "12dim"]),
    ],
)
def test_an_entry_has_the_fields_of_the_catalogue(
    tmp_path: Path, network: str, architecture: str, size: list[str]
) -> None:
    model = entry(read_source(str(make_run(tmp_path, network))), FULL, FILES, DATE)
    assert faults(model) == []
    assert (model["architecture"], model["size"], model["scale"]) == (architecture, size, 2)
    assert (model["author"], model["license"], model["date"]) == ("some-body", "CC-BY-NC-4.0", DATE)
    assert (model["trainingIterations"], model["trainingBatchSize"], model["trainingHRSize"]) == (12, 4, 16)
    assert (model["dataset"], model["datasetSize"]) == ("DIV2K_train_HR", PHOTOS)
    assert model["trainingEpochs"] == 12 * 4 // PHOTOS
    assert [resource["type"] for resource in model["resources"]] == ["safetensors", "onnx"]
    assert model["resources"][0]["urls"] == ["https://example.org/models/2x-run-1.safetensors"]


def test_what_only_a_person_knows_is_left_for_the_validator_to_miss(tmp_path: Path) -> None:
    model = entry(read_source(str(make_run(tmp_path))), Publication("run-1"), FILES[:1], DATE)
    assert faults(model) == ["author", "resources.0"]
    assert model["resources"][0]["urls"] == []
    assert model["license"] is None


@pytest.mark.parametrize(
    ("author", "called"),
    [
        ("Müller", "muller"),
        ("Søren Æbelø", "soren-aebelo"),
        ("Łukasz Groß", "lukasz-gross"),
        ("张三 (Zhang San)", "zhang-san"),
    ],
)
def test_an_author_is_called_by_plain_letters(tmp_path: Path, author: str, called: str) -> None:
    publication = dataclasses.replace(FULL, author=author)
    model = entry(read_source(str(make_run(tmp_path))), publication, FILES, DATE)
    assert model["author"] == called
    assert faults(model) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"author": "张三"}, "--author 张三: .*write it in Latin letters"),
        ({"licence": "do what you like"}, "--licence do what you like: expected an SPDX identifier"),
        ({"licence": "MIT OR"}, "--licence MIT OR: expected"),
        ({"url": "not a url"}, "--url not a url: expected a web address"),
        ({"url": "example.org/models"}, "--url example.org/models: expected"),
        ({"url": "https://exa mple.org"}, "expected a web address"),
        ({"url": "https://[::1"}, "expected a web address"),
        ({"url": "file:///tmp"}, "expected a web address"),
    ],
)
def test_what_the_catalogue_could_not_take_is_refused(given: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Publication("run-1", **given)


@pytest.mark.parametrize("licence", ["MIT", "CC-BY-NC-4.0", "MIT OR Apache-2.0"])
def test_a_licence_of_the_catalogue_is_taken(tmp_path: Path, licence: str) -> None:
    publication = dataclasses.replace(FULL, licence=licence)
    assert faults(entry(read_source(str(make_run(tmp_path))), publication, FILES, DATE)) == []


def test_an_architecture_that_the_catalogue_does_not_have_keeps_its_name(tmp_path: Path) -> None:
    model = entry(read_source(str(make_run(tmp_path, "rlfn:width=8,blocks=1"))), FULL, FILES, DATE)
    assert model["architecture"] == "rlfn"
    assert faults(model) == ["architecture"]


def test_of_a_file_alone_the_entry_says_nothing_of_its_training(tmp_path: Path) -> None:
    model = entry(read_source(str(make_teacher(tmp_path, "alone").path)), FULL, FILES, DATE)
    assert faults(model) == []
    assert not [key for key in model if key.startswith(("training", "dataset"))]


def test_the_entry_is_laid_out_as_the_catalogue_writes_its_files(tmp_path: Path) -> None:
    model = entry(read_source(str(make_run(tmp_path))), Publication("Müller", author="me"), FILES, DATE)
    text = to_text(model)
    assert text.startswith('{\n    "name": "Müller",\n    "author": "me",')
    assert text.endswith('"images": []\n}')
    assert json.loads(text) == model
    assert re.match(MODEL_ID, file_stem(FULL.name, 2))


def test_the_card_says_what_the_model_is_how_it_is_used_and_whose_terms_hold(tmp_path: Path) -> None:
    source = read_source(str(make_run(tmp_path)))
    text = card(source, FULL, FILES, {"safetensors": "mtkd-dist reads it"}, DATE)
    assert text.startswith("---\nlicense: cc-by-nc-4.0\n")
    assert "| student | student | 900 | **31.50** / **0.9000** |" in text
    assert "| `2x-run-1.onnx` | 1,234 | `" + "2" * 64 in text
    assert 'mtkd_dist.load("2x-run-1.safetensors")' in text
    assert 'onnxruntime.InferenceSession("2x-run-1.onnx")' in text
    assert 'torch.export.load("2x-run-1.pt2")' in text
    assert "| big | `" + "a" * 64 in text
    assert "12 steps of 4 crops of 8×8 LR pixels, from 3 images of DIV2K_train_HR" in text
    assert "Licence: CC-BY-NC-4.0. The weights derive from the answers of the teachers big and bigger" in text
    assert "Not known" not in text
    assert str(tmp_path) not in text


def test_what_is_given_for_a_card_is_text_to_a_reader_of_yaml(tmp_path: Path) -> None:
    source = read_source(str(make_run(tmp_path)))
    head = card(source, dataclasses.replace(FULL, licence="NO"), [], {}, DATE).split("---")[1]
    assert yaml.safe_load(head)["license"] == "no"
    assert yaml.safe_load(head)["pipeline_tag"] == "image-to-image"


def test_the_card_of_a_file_alone_lists_what_is_not_known(tmp_path: Path) -> None:
    text = card(read_source(str(make_teacher(tmp_path, "alone").path)), Publication("alone"), [], {}, DATE)
    assert "## Not known\n\n- configuration: the file does not lie" in text
    assert "Licence: none was given." in text
    assert "## Scores" not in text
    assert "```" not in text
