"""The whole upscaling command, as a user types it: pictures, refusals, workers, and the ways it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mtkd_dist import cli
from mtkd_dist.habits import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE
from mtkd_dist.pictures import Picture, Upscaler, read_picture, write_picture
from mtkd_dist.pools.upscale import Failure
from mtkd_dist.upscale import command
from tests.nets import make_aggregator, make_teacher, nearest_teacher, write_photos


def run(*words: object) -> int:
    return command.main([str(word) for word in words])


def repeated(array: np.ndarray) -> np.ndarray:
    return array.repeat(2, 0).repeat(2, 1)


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """x2, by repeating every pixel."""
    return nearest_teacher(tmp_path, "student").path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_photos(tmp_path / "photos" / "sub", 2, side=20)
    write_photos(tmp_path / "photos", 1, side=24)
    return tmp_path / "photos"


def test_a_folder_becomes_a_folder_of_larger_pictures(
    photos: Path, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(photos, "--model", model, "--output", out) == EXIT_OK
    assert names(out) == ["00.png", "sub/00.png", "sub/01.png"]
    for name in names(out):
        np.testing.assert_array_equal(read_picture(out / name).pixels, repeated(read_picture(photos / name).pixels))
    screen = capfd.readouterr()
    assert "student.safetensors: x2, on " in screen.out
    assert "pictures 3/3" in screen.out
    assert "3 of 3 pictures" in screen.out
    assert screen.err == ""


def test_16_bits_transparency_and_metadata_go_all_the_way(model: Path, tmp_path: Path) -> None:
    deep = Picture(np.random.default_rng(0).integers(0, 65536, (9, 7, 4), np.uint16), pixels_per_mm=(11.0, 11.0))
    deep.pixels[..., 3] |= 0x8000
    write_picture(tmp_path / "deep.tif", deep, "tif")
    exif = Image.Exif()
    exif[0x0112], exif[0x8298] = 8, "Jane Doe"
    Image.fromarray(np.uint8(deep.pixels[..., :3] >> 8)).save(tmp_path / "turned.png", exif=exif)
    words = (tmp_path / "deep.tif", tmp_path / "turned.png")
    assert run(*words, "--model", model, "--output", tmp_path / "out") == EXIT_OK
    large = read_picture(tmp_path / "out" / "deep.tif")
    assert large.pixels_per_mm == pytest.approx((11, 11), rel=1e-3)
    np.testing.assert_array_equal(large.pixels[..., :3], repeated(deep.pixels[..., :3]))
    upright = Image.open(tmp_path / "out" / "turned.png")
    assert upright.size == (18, 14)
    assert (upright.getexif()[0x0112], upright.getexif()[0x8298]) == (1, "Jane Doe")
    np.testing.assert_array_equal(np.asarray(upright), repeated(np.rot90(np.uint8(deep.pixels[..., :3] >> 8))))


def test_patterns_that_the_shell_left_alone_formats_and_suffixes(photos: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    flags = ["--format", "webp", "--suffix", "_x2", "--quality", "100"]
    assert run(f"{photos}/**/0*.png", "--model", model, "--output", out, *flags) == EXIT_OK
    assert names(out) == ["00_x2.webp", "sub/00_x2.webp", "sub/01_x2.webp"]
    np.testing.assert_array_equal(
        read_picture(out / "00_x2.webp").pixels, repeated(read_picture(photos / "00.png").pixels)
    )


def test_one_picture_becomes_the_file_that_is_named(photos: Path, model: Path, tmp_path: Path) -> None:
    large = tmp_path / "new" / "large.png"
    assert run(photos / "00.png", "--model", model, "--output", large) == EXIT_OK
    np.testing.assert_array_equal(read_picture(large).pixels, repeated(read_picture(photos / "00.png").pixels))
    assert run(photos / "00.png", "--model", model, "--output", large) == EXIT_USAGE  # it is there already


@pytest.mark.parametrize(("name", "format"), [("JPG", "jpg"), ("jpeg", "jpg"), (".TIFF", "tif"), ("webp", "webp")])
def test_a_format_goes_by_all_its_names(name: str, format: str) -> None:
    assert command.parser().parse_args(["a", "--model", "b", "--output", "c", "--format", name]).format == format


def test_any_teacher_is_a_model(photos: Path, shared_dir: Path, tmp_path: Path) -> None:
    teacher = f"{shared_dir}/weights/rlfn_x2.pth:name=RLFN,input_range=255"
    assert run(photos / "00.png", "--model", teacher, "--output", tmp_path / "out") == EXIT_OK
    large, small = (read_picture(folder / "00.png").pixels.astype(int) for folder in (tmp_path / "out", photos))
    assert large.shape == (48, 48, 3)
    assert np.abs(large.reshape(24, 2, 24, 2, 3).mean((1, 3)) - small).max() < 8


def test_tiles_and_self_ensemble_are_asked_for(model: Path, tmp_path: Path) -> None:
    write_photos(tmp_path / "large", 1, side=190)
    flags = ["--tile", "160", "--self-ensemble"]
    assert run(tmp_path / "large", "--model", model, "--output", tmp_path / "out", *flags) == EXIT_OK
    np.testing.assert_array_equal(
        read_picture(tmp_path / "out/00.png").pixels, repeated(read_picture(tmp_path / "large/00.png").pixels)
    )


# What is there already


def test_nothing_is_written_over_but_by_force(
    photos: Path, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "00.png").write_text("precious")
    assert run(photos, "--model", model, "--output", out) == EXIT_USAGE
    assert "1 of 3 pictures are there already" in capfd.readouterr().err
    assert names(out) == ["00.png"]  # nothing was begun
    assert run(photos, "--model", model, "--output", out, "--skip-existing") == EXIT_OK
    assert "2 to" in (screen := capfd.readouterr().out)
    assert "(1 more are there already)" in screen
    assert (out / "00.png").read_text() == "precious"
    assert names(out) == ["00.png", "sub/00.png", "sub/01.png"]
    assert run(photos, "--model", model, "--output", out, "--force") == EXIT_OK
    assert read_picture(out / "00.png").pixels.shape == (48, 48, 3)


def test_a_command_that_has_nothing_left_to_do_is_done(photos: Path, model: Path, tmp_path: Path) -> None:
    flags = ("--model", model, "--output", tmp_path / "out", "--skip-existing")
    assert run(photos, *flags) == EXIT_OK
    assert run(photos, *flags) == EXIT_OK


def test_an_output_that_appears_meanwhile_is_left_as_it_is(
    photos: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    before = command.upscale_here

    def late(job: object, files: object, progress: object) -> Iterator[Failure | None]:
        (out / "00.png").write_text("precious")
        return before(job, files, progress)  # type: ignore[arg-type]

    monkeypatch.setattr(command, "upscale_here", late)
    assert run(photos, "--model", model, "--output", out) == EXIT_FAILED
    assert "written by somebody else meanwhile" in capfd.readouterr().err
    assert (out / "00.png").read_text() == "precious"


# What goes wrong


def spoil(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def test_a_broken_file_is_named_at_the_end_and_the_others_are_done(
    photos: Path, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    spoil(photos / "sub" / "00.png")
    assert run(photos, "--model", model, "--output", tmp_path / "out") == EXIT_FAILED
    assert names(tmp_path / "out") == ["00.png", "sub/01.png"]
    screen = capfd.readouterr()
    assert "2 of 3 pictures" in screen.out
    assert len(screen.err.splitlines()) == 1
    assert screen.err.startswith(f"error: {photos}/sub/00.png: not a readable image")


def test_debug_shows_the_traceback_of_a_broken_file(
    photos: Path, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    spoil(photos / "sub" / "00.png")
    assert run(photos, "--model", model, "--output", tmp_path / "out", "--debug") == EXIT_FAILED
    traceback, _, error = capfd.readouterr().err.rpartition("error: ")
    assert traceback.startswith("Traceback (most recent call last):\n")
    assert "in read_picture" in traceback
    assert error.startswith(f"{photos}/sub/00.png: not a readable image")


@pytest.mark.parametrize(
    ("shape", "format", "found"),
    [
        ((8, 8, 4), "jpg", "transparent pixels, which .jpg cannot hold"),
        ((2, 8192, 3), "webp", "16384x4 pixels, and .webp ends at 16383 on each side"),
    ],
)
def test_a_picture_that_the_format_cannot_hold_is_named_before_it_is_enlarged(
    shape: tuple[int, ...],
    format: str,
    found: str,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    write_picture(tmp_path / "given.png", Picture(np.full(shape, 100, np.uint8)), "png")
    monkeypatch.setattr(Upscaler, "__call__", None)
    flags = ("--model", model, "--output", tmp_path / "out", "--format", format)
    assert run(tmp_path / "given.png", *flags) == EXIT_FAILED
    assert f"{tmp_path}/given.png: {found}" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["gone.png", "--model", "MODEL", "--output", "out"], ["'gone.png'", "no such file"]),
        (["photos", "--model", "gone.pth", "--output", "out"], ["'gone.pth'", "weight file"]),
        (["photos", "--model", "edsr", "--output", "out"], ["'edsr'", "without weights"]),
        (["photos", "--model", "MODEL"], ["--output"]),
        (["photos", "--model", "MODEL", "--output", ""], ["--output", "'' is no folder", "variable"]),
        (["", "--model", "MODEL", "--output", "out"], ["'' is no file", "variable"]),
        (["--model", "MODEL", "--output", "out"], ["IN"]),
        (["photos", "--model", "MODEL", "--output", "out", "--tile", "8"], ["--tile", "160"]),
        (["photos", "--model", "MODEL", "--output", "out", "--quality", "101"], ["--quality", "1 to 100"]),
        (["photos", "--model", "MODEL", "--output", "out", "--quality", "abc"], ["'abc'", "a number from 1 to 100"]),
        (["photos", "--model", "MODEL", "--output", "out", "--quality", "²"], ["'²'", "a number from 1 to 100"]),
        (["photos", "--model", "MODEL", "--output", "out", "--format", "gif"], ["--format", "gif"]),
        (["photos", "--model", "MODEL", "--output", "out", "--force", "--skip-existing"], ["not allowed with"]),
        (["photos", "--model", "MODEL", "--output", "photos"], ["which is to be read", "--output"]),
        (["photos", "--model", "MODEL", "--output", "photos/00.png"], ["photos/00.png", "names a picture"]),
        (["photos", "--model", "MODEL", "--output", "photos/00.png/x"], ["photos/00.png/x", "cannot be written"]),
        (["photos", "--model", "MODEL", "--output", "out", "--suffix", "a/b"], ["--suffix", "'a/b'", "without '/'"]),
        (["empty", "--model", "MODEL", "--output", "out"], ["no images in empty"]),
        (["photos/*.gif", "--model", "MODEL", "--output", "out"], ["matches no image"]),
    ],
)
def test_wrong_usage_is_one_line_and_nothing_is_begun(
    photos: Path,
    model: Path,
    words: list[str],
    expected: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(photos.parent)
    Path("empty").mkdir()
    before = names(photos)
    assert run(*[str(model) if word == "MODEL" else word for word in words]) == EXIT_USAGE
    error = capfd.readouterr().err
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1
    for text in expected:
        assert text in error
    assert names(photos) == before


def test_an_aggregator_is_refused(photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    aggregator = make_aggregator(tmp_path, [make_teacher(tmp_path, "a")])
    assert run(photos, "--model", aggregator, "--output", tmp_path / "out") == EXIT_USAGE
    assert "is an aggregator" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_network_is_refused(photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("torn.pth", "torn.safetensors"):
        (tmp_path / name).write_bytes(b"torn")
        assert run(photos, "--model", tmp_path / name, "--output", tmp_path / "out") == EXIT_USAGE
        assert f"error: {tmp_path}/{name}: " in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


@contextmanager
def interrupted_after_one() -> Iterator[None]:
    before = command.upscale_here

    def interrupted(job: object, files: object, progress: object) -> Iterator[Failure | None]:
        yield next(before(job, files, progress))  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "upscale_here", interrupted)
        yield


def test_an_interrupt_keeps_what_is_done_and_says_how_to_go_on(
    photos: Path, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with interrupted_after_one():
        assert run(photos, "--model", model, "--output", out) == EXIT_INTERRUPTED
    assert "1 of 3 pictures are done; the same command with --skip-existing goes on" in capfd.readouterr().err
    assert names(out) == ["00.png"]
    assert run(photos, "--model", model, "--output", out, "--skip-existing") == EXIT_OK
    assert names(out) == ["00.png", "sub/00.png", "sub/01.png"]


def test_what_was_begun_in_the_folder_of_the_pictures_goes_on_as_the_interrupt_says(photos: Path, model: Path) -> None:
    flags = (photos, "--model", model, "--output", photos, "--suffix", "_x2")
    with interrupted_after_one():
        assert run(*flags) == EXIT_INTERRUPTED
    assert run(*flags, "--skip-existing") == EXIT_OK
    expected = ["00.png", "00_x2.png", "sub/00.png", "sub/00_x2.png", "sub/01.png", "sub/01_x2.png"]
    assert names(photos) == expected


def test_what_was_begun_by_force_goes_on_as_the_interrupt_says(
    photos: Path, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flags = (photos, "--model", model, "--output", tmp_path / "out")
    with interrupted_after_one():
        assert run(*flags, "--force") == EXIT_INTERRUPTED
    assert "--skip-existing in place of --force goes on, and leaves older files" in capfd.readouterr().err
    assert run(*flags, "--skip-existing") == EXIT_OK
    assert names(tmp_path / "out") == ["00.png", "sub/00.png", "sub/01.png"]


def test_an_input_is_not_written_over_by_force_because_it_looks_like_a_result(
    photos: Path, model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_photos(photos, 1, side=12)[0].rename(photos / "00_x2.png")
    write_photos(photos, 1, side=24)
    before = (photos / "00_x2.png").read_bytes()
    assert run(photos, "--model", model, "--output", photos, "--suffix", "_x2", "--force") == EXIT_USAGE
    assert "00_x2.png, which is to be read" in capfd.readouterr().err
    assert (photos / "00_x2.png").read_bytes() == before


# Workers


@pytest.mark.usefixtures("ray_cluster")
def test_workers_share_many_pictures_and_one_of_them_is_broken(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    photos = write_photos(tmp_path / "many", 6, side=20)
    spoil(photos[3])
    flags = ("--model", model, "--output", tmp_path / "out", "--workers", 2)
    assert run(tmp_path / "many", *flags) == EXIT_FAILED
    assert names(tmp_path / "out") == [path.name for path in photos if path != photos[3]]
    for name in names(tmp_path / "out"):
        np.testing.assert_array_equal(
            read_picture(tmp_path / "out" / name).pixels, repeated(read_picture(tmp_path / "many" / name).pixels)
        )
    screen = capfd.readouterr()
    assert "pictures 6/6" in screen.out
    assert screen.err.startswith(f"error: {photos[3]}: not a readable image")


def test_few_pictures_need_no_ray(photos: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "cluster", None)
    assert run(photos, "--model", model, "--output", tmp_path / "out") == EXIT_OK


def test_many_pictures_are_shared_where_there_are_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_cores", lambda: 8)
    assert command._workers(command.FEW - 1, None) == 1
    assert command._workers(command.FEW, None) == 8
    assert command._workers(3, 4) == 3
    assert command._workers(100, 1) == 1


def test_the_help_fits_a_screen_and_has_an_example(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        run("--help")
    assert done.value.code == 0
    text = capfd.readouterr().out
    assert len(text.splitlines()) <= 30
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "example:\n  mtkd upscale " in text


def test_it_is_a_command_of_mtkd(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["upscale", "x"]) == EXIT_USAGE
    assert "--model" in capfd.readouterr().err
