"""A distillation method in a file of the user's own."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import pytest
import torch
from ray import cloudpickle

from mtkd_dist.config.load import ConfigError
from mtkd_dist.config.tree import Config, TrainingConfig
from mtkd_dist.methods import Batch, Crops, FrozenNetworks, Method, settings_of
from mtkd_dist.methods.own import is_own, own_method, own_title
from mtkd_dist.stages.check import check_settings
from mtkd_dist.stages.check_method import check_method
from mtkd_dist.stages.distil_method import distil_method, in_force, needs_aggregator
from tests.nets import Nearest

SOURCE = '''
from __future__ import annotations

from dataclasses import dataclass

import torch

from mtkd_dist.methods import Losses


@dataclass(frozen=True)
class Best:
    """The teacher that is nearest to the truth."""

    weight: float = 0.5
    needs_teachers: bool = True

    def teach(self, crops, networks):
        images = networks.teacher_images(crops.lr)
        best = (images - crops.hr[:, None]).abs().mean((2, 3, 4)).argmin(1)
        return {"best": images[torch.arange(len(images)), best]}

    def loss(self, student, batch):
        distance = (student(batch.lr) - batch.signals["best"]).abs().mean()
        return Losses(self.weight * distance, {"best": distance})
'''


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "best.py"
    path.write_text(SOURCE)
    return path


def config(method: str, **changes: object) -> Config:
    small = TrainingConfig(steps=4, batch_size=4, patch=8)
    base = Config(method=method, teachers=["edsr-baseline:width=8,blocks=1", "rlfn:width=8"], scale=2, distil=small)
    return dataclasses.replace(base, student="edsr-baseline:width=8,blocks=1", **changes)  # type: ignore[arg-type]


def test_a_file_is_a_method_with_the_settings_that_are_given(file: Path) -> None:
    method = own_method(f"{file}:weight=2.5")
    assert isinstance(method, Method)
    assert settings_of(method)["weight"] == 2.5
    assert settings_of(own_method(str(file)))["weight"] == 0.5
    assert own_title(f"{file}:weight=2.5") == "best:weight=2.5"


def test_names_of_our_own_methods_are_no_files() -> None:
    assert not is_own("mtkd")
    assert is_own("lib/my.py:weight=1")


@pytest.mark.parametrize("pickler", [pickle, cloudpickle])
def test_it_travels_without_its_file(file: Path, pickler: object) -> None:
    method = own_method(f"{file}:weight=3")
    packed = pickler.dumps(method)  # type: ignore[attr-defined]
    file.unlink()
    again = pickle.loads(packed)
    crops = Crops(torch.rand(2, 3, 4, 4), torch.rand(2, 3, 8, 8), (1, 2))
    networks = FrozenNetworks({"up": Nearest(2)})
    assert torch.equal(again.teach(crops, networks)["best"], method.teach(crops, networks)["best"])
    assert settings_of(again) == settings_of(method)


def test_an_edited_file_is_another_method(file: Path) -> None:
    before = settings_of(own_method(str(file)))
    file.write_text(SOURCE.replace("argmin", "argmax"))
    assert settings_of(own_method(str(file))) != before


def test_the_halves_are_those_of_the_file(file: Path) -> None:
    method = own_method(f"{file}:weight=2")
    lr, hr = torch.rand(1, 3, 4, 4), torch.rand(1, 3, 8, 8)
    near, far = Nearest(2), torch.nn.Sequential(Nearest(2), torch.nn.Hardtanh(5, 6))
    signals = method.teach(Crops(lr, hr), FrozenNetworks({"far": far, "near": near}))
    assert torch.equal(signals["best"], near(lr))
    losses = method.loss(far, Batch(lr, hr, signals))
    assert losses.total.item() == pytest.approx(2 * (5 - near(lr)).mean().item())


def test_whether_it_needs_an_aggregator_is_found_by_asking_it(file: Path) -> None:
    assert not needs_aggregator(config(str(file)))
    file.write_text(SOURCE.replace("images = networks", "networks.aggregate(crops.lr); images = networks"))
    assert needs_aggregator(config(str(file)))


def test_a_method_that_works_passes_the_check(file: Path) -> None:
    used, _ = in_force(config(str(file)))
    check_settings(used)
    check_method(used, {})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("import torch\n", "import torhc\n"), r"best.py, line 6: ModuleNotFoundError: No module named 'torhc'"),
        (("@dataclass(frozen=True)", "@dataclass"), "Best must be a frozen dataclass"),
        (("def loss", "def lose"), "holds none; expected one class with teach and loss"),
        (("    needs_teachers: bool = True\n", ""), "must say needs_teachers"),
        (("weight: float = 0.5", "weight: float"), "every field needs a default"),
        (("class Best:", "class Best"), "line 12: SyntaxError"),
    ],
)
def test_a_file_that_holds_no_method_is_refused(file: Path, change: tuple[str, str], told: str) -> None:
    file.write_text(SOURCE.replace(*change))
    with pytest.raises(ConfigError, match=told):
        distil_method(config(str(file)))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("none.py", "'none.py' is no file"),
        ("mktd", "'mktd' is unknown.*Did you mean 'mtkd'"),
    ],
)
def test_a_method_that_is_not_there_is_refused(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        distil_method(config(text))


@pytest.mark.parametrize(
    ("setting", "told"), [("wieght=1", "Did you mean 'weight'"), ("weight=much", "must be a number")]
)
def test_a_setting_that_it_does_not_have_is_refused(file: Path, setting: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        distil_method(config(f"{file}:{setting}"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (('batch.signals["best"]', 'batch.signals["bset"]'), r"fails on two crops of noise, line 24: KeyError: 'bset'"),
        (("return Losses(self.weight * distance, {", "return (self.weight * distance, {"), "must return Losses"),
        (("student(batch.lr) -", "student(batch.lr).detach() -"), "has no gradient"),
        ((".abs().mean()\n        return Losses", ".abs()\n        return Losses"), "expected a finite scalar"),
        (("best]}", "best].mean()}"), r"signal 'best' has the shape \(\) for 2 samples"),
    ],
)
def test_what_fails_in_a_half_is_told_before_anything_starts(file: Path, change: tuple[str, str], told: str) -> None:
    assert change[0] in SOURCE
    file.write_text(SOURCE.replace(*change))
    with pytest.raises(ConfigError, match=told):
        check_method(config(str(file)), {})
