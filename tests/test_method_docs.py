"""What docs/methods.md says in numbers and names, against what is."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import get_args

import pytest
import torch

from mtkd_dist.config.load import flatten
from mtkd_dist.config.tree import Config, MethodName
from mtkd_dist.methods import FrozenNetworks
from mtkd_dist.methods.taps import LEVELS, resolve
from mtkd_dist.models import build_network, save_network
from mtkd_dist.pools.teacher_worker import TeacherFile, TeacherWorker, load_networks
from mtkd_dist.stages.distil_method import distil_method, needs_aggregator, settings_used
from tests.nets import make_aggregator, make_plan, make_store, make_teacher_job

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "methods.md").read_text()
METHODS: tuple[MethodName, ...] = get_args(MethodName)
WIDE = {
    "edsr": "edsr:width=256,blocks=3",
    "rcan": "rcan:groups=3,blocks=1",
    "swinir": "swinir:groups=3,layers=1",
}
"""The paper's teachers in all that an answer depends on; only shallower."""


def rows_of(heading: str) -> dict[str, list[str]]:
    """First cell -> the others, of the tables below a heading."""
    text = re.split(rf"^#+ {heading}\n", PAGE, flags=re.MULTILINE)[1]
    lines = re.findall(r"^\| (.*) \|$", re.split(r"^## ", text, flags=re.MULTILINE)[0], re.MULTILINE)
    cells = [[cell.strip() for cell in line.replace("\\|", "").split("|")] for line in lines]
    return {first.strip("`"): rest for first, *rest in cells}


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FrozenNetworks]:
    """A folder of photographs and of these teachers, and what a worker makes of their files."""
    folder = tmp_path_factory.mktemp("wide")
    make_store(folder, count=1, scale=4, side=144)
    for name, text in WIDE.items():
        save_network(folder / f"{name}.safetensors", build_network(text, 4), {"network": text, "scale": "4"})
    return folder, load_networks(files(folder, list(WIDE)), None, 4, torch.device("cpu"))


def files(folder: Path, names: list[str]) -> tuple[TeacherFile, ...]:
    return tuple(TeacherFile(name, folder / f"{name}.safetensors", None) for name in names)


def bytes_of_a_sample(method: MethodName, names: list[str], wide: tuple[Path, FrozenNetworks], tmp_path: Path) -> int:
    """As a teacher worker tells them to the link."""
    folder, networks = wide
    config, given = Config(method=method), files(folder, names)
    store = make_store(folder, count=1, scale=4, side=144)
    job = dataclasses.replace(
        make_teacher_job(tmp_path),
        method=distil_method(config),
        plan=make_plan(store, batch_size=1, patch=32),
        images=store.folder,
        slot_size=1,
        scale=4,
        teachers=given,
        aggregator=make_aggregator(tmp_path, given, scale=4) if needs_aggregator(config) else None,
        wire="float16",
    )
    held = FrozenNetworks({name: networks.teachers[name] for name in names})
    meta, _ = TeacherWorker(job, held).answer(step=0, slot=0)
    return meta["bytes"]


def test_the_bytes_of_a_sample_are_those_that_the_link_is_told(
    wide: tuple[Path, FrozenNetworks], tmp_path: Path
) -> None:
    said = rows_of("What crosses the link")
    assert said.keys() >= set(METHODS)
    assert said["scratch"][2:] == ["–", "–"]
    for method in METHODS:
        if method != "scratch":
            found = [bytes_of_a_sample(method, names, wide, tmp_path) for names in (["rcan"], list(WIDE))]
            assert said[method][2:] == [f"{count:,}" for count in found], method


def test_every_setting_of_every_method_is_there_with_its_default() -> None:
    said = {name: row[0] for names, row in rows_of("Settings").items() for name in names.replace("`", "").split(", ")}
    for method in METHODS:
        config = Config(method=method)
        used = {key for key in settings_used(config) if not key.startswith("loss.") or method in ("mtkd", "mean")}
        for key in used - {"loss.levels", "loss.wavelet", "loss.band_weights", "loss.teacher_weights"}:
            assert f"`{key.replace('_', '-')}`" in said[method], (method, key)
            default = flatten(dataclasses.asdict(config))[key]
            if isinstance(default, float):
                assert f"`{key.replace('_', '-')}` {default:g}" in said[method], (method, key)


def test_the_taps_that_short_names_stand_for_are_those_of_the_table() -> None:
    said = rows_of("Feature taps")
    networks = [build_network(text, 2) for text in ("edsr-baseline", "rcan:blocks=1", "swinir:layers=1", "rlfn")]
    for level in LEVELS:
        assert said[level][1:] == [f"`{resolve(network, level)}`" for network in networks]


def test_the_tests_that_show_what_is_not_repeated_are_there() -> None:
    for shown in rows_of("Known defects that are not repeated").values():
        if found := re.fullmatch(r"`(\w+\.py)`: `(test_\w+)`", shown[0]):
            assert f"def {found[2]}(" in (ROOT / "tests" / found[1]).read_text()
    assert PAGE.count("`: `test_") == 5
