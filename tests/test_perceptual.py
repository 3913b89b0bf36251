"""LPIPS and DISTS, with a stand-in for the package `piq`, which is no dependency."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mtkd_dist import evaluate, habits
from mtkd_dist.data import bicubic_upscale, matlab_downscale, read_image
from mtkd_dist.metrics import PerceptualError, load_perceptual
from tests.nets import write_photos

CPU = torch.device("cpu")


class MeanDistance(nn.Module):
    """Mean distance of (1,3,H,W) images in [0,1], times 10."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        assert x.shape == y.shape
        assert x.shape[:2] == (1, 3)
        assert min(x.min(), y.min()) >= 0
        assert max(x.max(), y.max()) <= 1
        return 10 * (x - y).abs().mean()


class MeanSquare(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (x - y).square().mean()


@pytest.fixture
def piq(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("piq")
    module.LPIPS, module.DISTS = MeanDistance, MeanSquare  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "piq", module)
    return module


def fails(error: Exception) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        raise error

    return build


@pytest.mark.usefixtures("piq")
def test_the_package_gets_shaved_images_in_0_to_1() -> None:
    sr, hr = np.full((40, 50, 3), 100, np.uint8), np.full((40, 50, 3), 151, np.uint8)
    sr[:4], hr[:, -4:] = 0, 255
    assert load_perceptual("lpips", CPU)(sr, hr, 4) == pytest.approx(10 * 51 / 255)
    assert load_perceptual("dists", CPU)(sr, hr, 4) == pytest.approx((51 / 255) ** 2)


def test_without_the_package_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "piq", None)
    with pytest.raises(PerceptualError, match=r"--lpips needs the package piq.*: pip install piq"):
        load_perceptual("lpips", CPU)


def test_a_download_that_fails_is_told_in_one_line(piq: ModuleType) -> None:
    piq.DISTS = fails(OSError("no route\nto host"))  # type: ignore[attr-defined]
    with pytest.raises(PerceptualError, match=r"--dists: piq cannot load .*first use: OSError: no route to host$"):
        load_perceptual("dists", CPU)


def test_a_package_that_cannot_be_imported_is_not_called_absent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "piq.py").write_text("import a_part_that_is_absent\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "piq", raising=False)
    with pytest.raises(PerceptualError, match=r"piq cannot be imported: ModuleNotFoundError: .*a_part_that_is_absent"):
        load_perceptual("lpips", CPU)


@pytest.mark.usefixtures("piq")
def test_the_command_has_a_table_and_a_key_for_them(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (photo,) = write_photos(tmp_path / "photos", 1)
    flags = ["--data", str(photo), "--scale", "2", "--lpips", "--dists", "--json", str(tmp_path / "rows.json")]
    assert evaluate.main(["bicubic", *flags]) == 0
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    assert list(row) == ["model", "role", "set", "scale", "psnr_y", "ssim_y", "lpips", "dists", "params"]
    hr = read_image(photo)
    sr = bicubic_upscale(matlab_downscale(hr, 2), 2)
    apart = np.abs(sr[2:-2, 2:-2].astype(float) - hr[2:-2, 2:-2]).mean() / 255
    assert row["lpips"] == pytest.approx(10 * apart, abs=1e-5)
    assert "LPIPS / DISTS, best in bold (lower is better)" in " ".join(capfd.readouterr().out.split())


def test_the_command_stops_before_the_work_where_they_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "piq", None)
    (photo,) = write_photos(tmp_path / "photos", 1)
    assert evaluate.main(["bicubic", "--data", str(photo), "--scale", "2", "--dists"]) == habits.EXIT_FAILED
    out, err = capfd.readouterr()
    assert (out, err) == ("", "error: --dists needs the package piq, which is not installed: pip install piq\n")
