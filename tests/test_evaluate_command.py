"""The whole evaluation command, as a user types it: scores, files, workers, and the ways it ends."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mtkd_dist import cli, evaluate, habits
from mtkd_dist.data import bicubic_upscale, matlab_downscale, read_image
from mtkd_dist.metrics import score, score_rgb, to_uint8
from mtkd_dist.models import (
    aggregator_metadata,
    build_aggregator,
    build_network,
    digest_file,
    load_aggregator,
    load_network,
    save_network,
)
from mtkd_dist.models.ensemble import self_ensemble
from tests.nets import TINY, TINY_AGGREGATOR, make_teacher, write_photos

KEYS = {"model", "role", "set", "scale", "psnr_y", "ssim_y", "params"}


def run(*words: object) -> int:
    return evaluate.main([str(word) for word in words])


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def as_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255


# Weight files of others


GOLDEN = {
    "DCTLSA_x4.pt": (32.52, 0.8990),
    "DCTLSA_x3.pt": (34.70, 0.9294),
    "DCTLSA_x2.pt": (38.25, 0.9614),
    "CRAFT_x4_ntire2024_team34.pth": (32.42, 0.8973),
    "rlfn_x4.pth": (32.24, 0.8953),
    "rlfn_x2.pth": (38.07, 0.9607),
}
"""File -> PSNR-Y and SSIM-Y on Set5 as measured with the code of their authors' protocol."""


@pytest.fixture(scope="module")
def on_set5(shared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Stem of a weight file -> its row: one command over all files and scales, in this process."""
    rows = tmp_path_factory.mktemp("set5") / "scores.json"
    files = [shared_dir / "weights" / name for name in GOLDEN]
    assert run(*files, "--data", shared_dir / "data/test/Set5", "--workers", 1, "--json", rows) == 0
    return {row["model"]: row for row in json.loads(rows.read_text())}


@pytest.mark.parametrize("file", GOLDEN)
def test_a_weight_file_scores_on_set5_what_it_is_known_for(on_set5: dict[str, dict[str, Any]], file: str) -> None:
    row = on_set5[Path(file).stem]
    assert (row["psnr_y"], row["ssim_y"]) == (
        pytest.approx(GOLDEN[file][0], abs=0.01),
        pytest.approx(GOLDEN[file][1], abs=0.0005),
    )


# Small models and photographs


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_photos(tmp_path / "waves", 3)
    return tmp_path / "waves"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_teacher(tmp_path, "tiny").path


def make_aggregator(folder: Path, teachers: Mapping[str, Path]) -> Path:
    """Away from the mean of its teachers, where a fresh one starts."""
    torch.manual_seed(7)
    aggregator = build_aggregator(TINY_AGGREGATOR, len(teachers), 2)
    torch.nn.init.normal_(aggregator.conv_last.weight, std=0.1)
    digests = {name: digest_file(path) for name, path in teachers.items()}
    save_network(folder / "aggregator.safetensors", aggregator, aggregator_metadata(TINY_AGGREGATOR, 2, digests))
    return folder / "aggregator.safetensors"


def test_the_rows_are_those_of_scores_json_and_the_means_of_the_csv(photos: Path, model: Path, tmp_path: Path) -> None:
    rows_file, csv_file = tmp_path / "rows.json", tmp_path / "images.csv"
    assert run(model, "--data", f"mine={photos}", "--workers", 1, "--json", rows_file, "--csv", csv_file) == 0
    rows, lines = json.loads(rows_file.read_text()), read_csv(csv_file)
    assert [(row["model"], row["role"], row["set"], row["scale"]) for row in rows] == [
        ("bicubic", "bicubic", "mine", 2),
        ("tiny", "model", "mine", 2),
    ]
    assert [(line["model"], line["image"]) for line in lines] == [
        (name, f"{i:02}.png") for i in range(3) for name in ("bicubic", "tiny")
    ]
    assert list(lines[0]) == ["set", "image", "scale", "model", "psnr_y", "ssim_y"]
    assert rows[1]["params"] == load_network(model).params
    for row in rows:
        assert row.keys() == KEYS
        of_row = [line for line in lines if (line["model"], line["set"]) == (row["model"], row["set"])]
        for metric in ("psnr_y", "ssim_y"):
            assert row[metric] == pytest.approx(np.mean([float(line[metric]) for line in of_row]), abs=1e-4)


def test_a_photograph_is_shrunk_as_matlab_does_and_scored_by_the_protocol(
    photos: Path, model: Path, tmp_path: Path
) -> None:
    assert run(model, "--data", photos / "01.png", "--workers", 1, "--rgb", "--csv", tmp_path / "images.csv") == 0
    hr = read_image(photos / "01.png")
    lr = matlab_downscale(hr, 2)
    with torch.no_grad():
        network = to_uint8(load_network(model).module(as_tensor(lr))[0])
    lines = read_csv(tmp_path / "images.csv")
    for line, sr in zip(lines, (bicubic_upscale(lr, 2), network), strict=True):
        expected = score(sr, hr, 2)._asdict() | score_rgb(sr, hr, 2)._asdict()
        assert {metric: float(line[metric]) for metric in expected} == pytest.approx(expected, abs=1e-4)


def test_models_of_several_scales_are_each_scored_at_their_own(photos: Path, model: Path, tmp_path: Path) -> None:
    other = make_teacher(tmp_path, "three", scale=3).path
    assert run(other, model, "--data", photos, "--workers", 1, "--json", tmp_path / "rows.json") == 0
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [(row["model"], row["scale"]) for row in rows] == [
        ("bicubic", 2),
        ("tiny", 2),
        ("bicubic", 3),
        ("three", 3),
    ]


def test_an_aggregator_is_scored_on_the_images_of_its_teachers(photos: Path, tmp_path: Path) -> None:
    b, a = (make_teacher(tmp_path, name, seed=seed).path for seed, name in enumerate("ba"))
    aggregator = make_aggregator(tmp_path, {"a": a, "b": b})
    rows, lines = tmp_path / "rows.json", tmp_path / "images.csv"
    assert run(aggregator, b, a, "--data", photos, "--workers", 1, "--json", rows, "--csv", lines) == 0
    hr = read_image(photos / "00.png")
    lr = as_tensor(matlab_downscale(hr, 2))
    with torch.no_grad():
        stack = torch.stack([load_network(path).module(lr) for path in (a, b)], 1)
        expected = score(
            to_uint8(load_aggregator(aggregator, {"a": digest_file(a), "b": digest_file(b)}, 2)(stack)[0]), hr, 2
        )
    line = next(line for line in read_csv(lines) if (line["model"], line["image"]) == ("aggregator", "00.png"))
    assert float(line["psnr_y"]) == pytest.approx(expected.psnr_y, abs=1e-3)
    of = {row["model"]: row for row in json.loads(rows.read_text())}
    assert {name: row["role"] for name, row in of.items()} == {
        "bicubic": "bicubic",
        "b": "teacher",
        "a": "teacher",
        "aggregator": "aggregate",
    }
    of_aggregator = sum(p.numel() for p in build_aggregator(TINY_AGGREGATOR, 2, 2).parameters())
    assert of["aggregator"]["params"] == of["a"]["params"] + of["b"]["params"] + of_aggregator


def test_a_file_that_a_launch_distilled_is_a_student(photos: Path, tmp_path: Path) -> None:
    metadata = {"network": TINY, "scale": "2", "method": "mtkd", "teachers": '{"a": "0"}'}
    save_network(tmp_path / "student.safetensors", build_network(TINY, 2), metadata)
    rows = tmp_path / "rows.json"
    assert run(tmp_path / "student.safetensors", "--data", photos, "--workers", 1, "--json", rows) == 0
    assert [row["role"] for row in json.loads(rows.read_text())] == ["bicubic", "student"]


def test_self_ensembles_are_rows_of_their_own_in_tables_of_their_own(
    photos: Path, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows, lines, tables = tmp_path / "rows.json", tmp_path / "images.csv", tmp_path / "tables.md"
    flags = ["--workers", 1, "--self-ensemble", "--json", rows, "--csv", lines, "--markdown", tables]
    assert run(model, "--data", photos, *flags) == 0
    assert [row["model"] for row in json.loads(rows.read_text())] == ["bicubic", "tiny", "tiny+"]
    hr = read_image(photos / "00.png")
    with torch.no_grad():
        sr = self_ensemble(load_network(model).module, as_tensor(matlab_downscale(hr, 2)))
    line = next(line for line in read_csv(lines) if (line["model"], line["image"]) == ("tiny+", "00.png"))
    assert float(line["psnr_y"]) == pytest.approx(score(to_uint8(sr[0]), hr, 2).psnr_y, abs=1e-3)
    plain, marked = tables.read_text().split("self-ensemble: mean over 8 flips and rotations")
    assert "| tiny | model |" in plain
    assert "| bicubic | bicubic |" in plain
    assert [line.split(" | ")[0] for line in marked.strip().splitlines()[2:]] == ["| tiny+"]
    assert "**" in plain
    assert "**" in marked
    assert capfd.readouterr().out.count("best in bold") == 2


@pytest.mark.usefixtures("ray_cluster")
def test_the_number_of_workers_changes_no_digit(photos: Path, model: Path, tmp_path: Path) -> None:
    make_teacher(tmp_path, "three", scale=3)
    written = []
    for workers in (1, 2):
        rows, lines = tmp_path / f"{workers}.json", tmp_path / f"{workers}.csv"
        models = (model, tmp_path / "three.safetensors")
        assert run(*models, "--data", photos, "--workers", workers, "--json", rows, "--csv", lines) == 0
        written.append(rows.read_text() + lines.read_text())
    assert written[0] == written[1]


@pytest.mark.usefixtures("ray_cluster")
def test_what_fails_in_a_worker_is_told_in_its_own_words(
    photos: Path, model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cut_short(photos / "01.png")
    assert run(model, "--data", photos, "--workers", 2) == habits.EXIT_FAILED
    assert_one_error(capfd, "01.png", "not a readable image", "truncated")


def test_one_worker_needs_no_ray(photos: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "cluster", None)
    assert run(model, "--data", photos, "--workers", 1) == 0
    assert run(model, "--data", photos / "00.png", "--workers", 8) == 0


def test_progress_and_table_are_on_the_screen(photos: Path, model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(model, "bicubic", "--data", photos, "--workers", 1) == 0
    out, err = capfd.readouterr()
    assert "photographs 3/3" in out
    assert "waves ×2" in out
    assert "PSNR-Y [dB] / SSIM-Y, best in bold" in out
    assert err == ""


# The ways it ends


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-600])


def assert_one_error(capfd: pytest.CaptureFixture[str], *words: str) -> None:
    """One paragraph on the error stream, without a traceback."""
    out, err = capfd.readouterr()
    assert err.startswith("error: ")
    assert "Traceback" not in out + err
    assert len(err.splitlines()) == 1
    for word in words:
        assert word in err


@pytest.fixture
def unstarted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test fails where scoring begins."""

    def refuse(*_: object) -> Iterator[None]:
        raise AssertionError("scoring began")

    monkeypatch.setattr(evaluate, "_scores", refuse)


@pytest.mark.usefixtures("unstarted")
def test_a_torn_photograph_is_named_before_anything_is_scored(
    photos: Path, model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (photos / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    assert run(model, "--data", photos) == habits.EXIT_FAILED
    assert_one_error(capfd, "torn.png", "not a readable image")


@pytest.mark.usefixtures("unstarted")
def test_a_photograph_too_small_for_ssim_is_named_with_the_size_that_is_needed(
    photos: Path, model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (40, 15)).save(photos / "small.png")
    assert run(model, "--data", photos) == habits.EXIT_FAILED
    assert_one_error(capfd, "small.png", "15x40 pixels", "x2", "16x16")


def test_the_smallest_photograph_that_is_let_through_can_be_scored(photos: Path, model: Path) -> None:
    Image.new("RGB", (17, 16)).save(photos / "small.png")
    assert run(model, "--data", photos / "small.png", "--workers", 1) == 0


@pytest.mark.usefixtures("unstarted")
@pytest.mark.parametrize("flag", ["--json", "--csv", "--markdown"])
def test_a_file_that_cannot_be_written_is_refused_before_the_work(
    flag: str, photos: Path, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for path, why in ((tmp_path / "absent" / "x", "no folder"), (tmp_path, "it is a folder")):
        assert run(model, "--data", photos, flag, path) == habits.EXIT_USAGE
        assert_one_error(capfd, f"{flag} {path} cannot be written", why)


@pytest.mark.usefixtures("unstarted")
def test_a_folder_without_photographs_is_refused(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert run(model, "--data", tmp_path / "empty") == habits.EXIT_FAILED
    assert_one_error(capfd, "no images in", "empty")


@pytest.mark.usefixtures("unstarted")
def test_two_outputs_into_one_file_are_refused(
    photos: Path, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(model, "--data", photos, "--csv", tmp_path / "x", "--json", tmp_path / "x") == habits.EXIT_USAGE
    assert_one_error(capfd, "same file")


def test_a_network_that_diverged_is_named_with_the_photograph_and_nothing_is_written(
    photos: Path, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    network = build_network(TINY, 2)
    torch.nn.init.constant_(next(network.parameters()), torch.nan)
    save_network(tmp_path / "broken.safetensors", network, {"network": TINY, "scale": "2"})
    files = ["--json", tmp_path / "rows.json", "--csv", tmp_path / "images.csv"]
    models = (model, tmp_path / "broken.safetensors")
    assert run(*models, "--data", photos, "--workers", 1, *files) == habits.EXIT_FAILED
    assert_one_error(capfd, "broken on waves/00.png", "NaN or infinity")
    assert not list(tmp_path.glob("*.json*")) + list(tmp_path.glob("*.csv*"))


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    def fail_with(error: BaseException) -> None:
        def score_nothing(*_: object) -> Iterator[None]:
            raise error
            yield

        monkeypatch.setattr(evaluate, "score_photos_here", score_nothing)

    return fail_with


def test_an_interrupt_ends_it_quietly(
    failing: Callable[[BaseException], None], photos: Path, model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    failing(KeyboardInterrupt())
    assert run(model, "--data", photos, "--workers", 1) == habits.EXIT_INTERRUPTED
    assert capfd.readouterr().err == ""


def test_an_unforeseen_error_leaves_a_log_with_the_whole_story(
    failing: Callable[[BaseException], None], photos: Path, model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    failing(RuntimeError("the lamp is out"))
    assert run(model, "--data", photos, "--workers", 1) == habits.EXIT_FAILED
    first, second = capfd.readouterr().err.splitlines()
    assert first == "error: RuntimeError: the lamp is out"
    log = Path(second.removeprefix("The whole story is in ").removesuffix(". --debug shows the traceback"))
    assert "Traceback" in log.read_text()
    log.unlink()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--data", "x"], ["MODEL", "before --data"]),
        (["bicubic"], ["--data"]),
        (["bicubic", "--data", "x", "--scale", "1"], ["--scale", "2 or more"]),
        (["bicubic", "--data", "x", "--workers", "0"], ["--workers", "1 or more"]),
        (["bicubic", "--data", "x", "--lpip"], ["--lpip"]),
    ],
)
def test_wrong_usage_is_one_line(words: list[str], expected: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert run(*words) == habits.EXIT_USAGE
    assert_one_error(capfd, *expected, "--help")


def test_it_is_a_command_of_mtkd_and_a_module(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", "bicubic"]) == habits.EXIT_USAGE
    assert_one_error(capfd, "--data")
    command = [sys.executable, "-m", "mtkd_dist.evaluate", "bicubic"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == habits.EXIT_USAGE
    assert done.stderr.startswith("error: ")
