"""A picture in, a picture out: of the same kind, with what belongs to it, in tiles where it must be."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

import mtkd_dist
from mtkd_dist.metrics import from_uint8, to_uint8
from mtkd_dist.models import build_network, load_network, save_network
from mtkd_dist.models.ensemble import self_ensemble
from mtkd_dist.pictures import Upscaler
from mtkd_dist.pictures.tiles import SMALLEST
from tests.nets import Nearest, make_aggregator, make_teacher, nearest_teacher

RNG = np.random.default_rng(3)


def repeated(array: np.ndarray, times: int = 2) -> np.ndarray:
    return array.repeat(times, 0).repeat(times, 1)


def upscaler(network: nn.Module | None = None, **options: object) -> Upscaler:
    return Upscaler(network or Nearest(2), 2, device="cpu", **options)  # type: ignore[arg-type]


def random_image(mode: str, height: int = 5, width: int = 7) -> Image.Image:
    return Image.fromarray(RNG.integers(0, 256, (height, width, 4), np.uint8), "RGBA").convert(mode)


class Blurred(nn.Module):
    """x2, from the mean of 3x3 pixels: colours from beyond an edge come across it."""

    def forward(self, lr: Tensor) -> Tensor:
        return Nearest(2)(avg_pool2d(lr, 3, 1, 1, count_include_pad=False))


# Three lines


def test_three_lines_make_a_larger_picture(tmp_path: Path) -> None:
    path = nearest_teacher(tmp_path, "student").path
    random_image("RGB").save(tmp_path / "photo.png")

    student = mtkd_dist.load(path, device="cpu")
    student(Image.open(tmp_path / "photo.png")).save(tmp_path / "large.png")

    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "large.png")), repeated(np.asarray(Image.open(tmp_path / "photo.png")))
    )


def test_importing_the_package_loads_nothing_else() -> None:
    script = "import sys, mtkd_dist; mtkd_dist.load; print({'torch', 'numpy', 'PIL', 'ray'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_picture_is_what_the_network_makes_of_it(tmp_path: Path) -> None:
    path = make_teacher(tmp_path, "tiny").path
    pixels = RNG.integers(0, 256, (33, 20, 3), np.uint8)
    with torch.no_grad():
        expected = to_uint8(load_network(path).module(from_uint8(pixels))[0])
    np.testing.assert_array_equal(mtkd_dist.load(path, device="cpu")(pixels), expected)


def test_published_weights_enlarge_as_they_are_scored(shared_dir: Path) -> None:
    path = shared_dir / "weights" / "rlfn_x2.pth"  # which works on values from 0 to 255
    pixels = np.asarray(Image.open(shared_dir / "data/test/Set5/HR/woman.png").convert("RGB"))[100:148, 80:120]
    with torch.no_grad():
        expected = to_uint8(load_network(path).module(from_uint8(pixels.copy()))[0])
    np.testing.assert_array_equal(mtkd_dist.load(path, device="cpu")(pixels), expected)


def test_an_aggregator_is_refused(tmp_path: Path) -> None:
    aggregator = make_aggregator(tmp_path, [make_teacher(tmp_path, "a")])
    with pytest.raises(ValueError, match=r"aggregator\.safetensors is an aggregator: .*give the student"):
        mtkd_dist.load(aggregator)


def test_the_folder_of_a_run_is_its_student(tmp_path: Path) -> None:
    path = make_teacher(tmp_path, "student").path
    make_teacher(tmp_path, "student-rlfn", seed=1)
    pixels = RNG.integers(0, 256, (16, 16, 3), np.uint8)
    np.testing.assert_array_equal(
        mtkd_dist.load(str(tmp_path), device="cpu")(pixels), mtkd_dist.load(path, device="cpu")(pixels)
    )


def test_loading_needs_no_ray() -> None:
    script = "import sys, mtkd_dist.pictures, mtkd_dist.stages.student_file; print({'ray'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for name in ("gone.safetensors", "gone.pth"):
        with pytest.raises(FileNotFoundError, match=rf"{name}: there is no such file"):
            mtkd_dist.load(tmp_path / name)


# Kinds


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_an_image_keeps_its_mode(mode: str) -> None:
    image = random_image(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(255)
    large = upscaler()(image)
    assert large.mode == mode
    np.testing.assert_array_equal(np.asarray(large), repeated(np.asarray(image)))


def test_16_bit_grey_keeps_every_bit() -> None:
    grey = RNG.integers(0, 65536, (5, 7), np.uint16)
    large = upscaler()(Image.fromarray(grey))
    assert large.mode == "I;16"
    np.testing.assert_array_equal(np.asarray(large), repeated(grey))


def test_what_cannot_be_interpolated_becomes_what_can() -> None:
    palette = random_image("RGB").quantize(8)
    assert upscaler()(palette).mode == "RGB"
    np.testing.assert_array_equal(np.asarray(upscaler()(palette)), repeated(np.asarray(palette.convert("RGB"))))
    palette.info["transparency"] = 3
    assert upscaler()(palette).mode == "RGBA"
    assert upscaler()(random_image("1")).mode == "L"


def test_an_image_is_turned_upright_and_keeps_profile_exif_and_resolution(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112], exif[0x8298] = 6, "Jane Doe"
    random_image("RGB").save(tmp_path / "a.png", exif=exif, icc_profile=profile, dpi=(300, 300))
    image = Image.open(tmp_path / "a.png")
    large = upscaler()(image)
    np.testing.assert_array_equal(np.asarray(large), repeated(np.rot90(np.asarray(image), -1)))
    large.save(tmp_path / "b.png", exif=large.info["exif"])
    written = Image.open(tmp_path / "b.png")
    assert written.info["icc_profile"] == profile
    assert large.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    assert written.getexif()[0x8298] == "Jane Doe"
    assert written.getexif().get(0x0112, 1) == 1


def test_a_jpeg_gets_profile_and_exif_as_the_documentation_shows(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x8298] = "Jane Doe"
    random_image("RGB").save(tmp_path / "a.jpg", exif=exif, icc_profile=profile)
    large = upscaler()(Image.open(tmp_path / "a.jpg"))
    large.save(tmp_path / "b.jpg", icc_profile=large.info.get("icc_profile"), exif=large.getexif())
    with Image.open(tmp_path / "b.jpg") as written:
        assert written.info["icc_profile"] == profile
        assert written.getexif()[0x8298] == "Jane Doe"


@pytest.mark.parametrize("mode", ["CMYK", "LAB", "HSV", "F", "I"])
def test_other_modes_are_refused_by_name(mode: str) -> None:
    image = Image.new(mode, (4, 4))
    with pytest.raises(ValueError, match=rf"mode '{mode}' .*convert\('RGB'\)"):
        upscaler()(image)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3)])
def test_an_array_keeps_its_kind(shape: tuple[int, ...], dtype: type) -> None:
    samples = RNG.random(shape)
    array = (samples * np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else samples).astype(dtype)
    large = upscaler()(array)
    assert large.dtype == dtype
    np.testing.assert_allclose(large, repeated(array), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3, 5, 7), (2, 3, 5, 7)])
def test_a_tensor_keeps_its_kind(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    tensor = (torch.rand(shape) * (255 if dtype == torch.uint8 else 1)).to(dtype)
    large = upscaler()(tensor)
    assert large.dtype == dtype
    expected = tensor.repeat_interleave(2, -1).repeat_interleave(2, -2)
    torch.testing.assert_close(large, expected, rtol=1e-6, atol=0)


def test_values_stay_in_their_range() -> None:
    bright = np.full((4, 4, 3), 200, np.uint8)
    assert upscaler(Nearest(2, gain=2.0))(bright).max() == 255
    assert upscaler(Nearest(2, gain=-1.0))(bright).max() == 0
    assert upscaler(Nearest(2, gain=2.0))(torch.ones(3, 4, 4)).max() == 1


def test_gradients_are_no_matter_of_pictures() -> None:
    tensor = torch.rand(3, 4, 4, requires_grad=True)
    large = upscaler(nn.Sequential(Nearest(2), nn.Conv2d(3, 3, 1)))(tensor)
    assert not large.requires_grad
    assert not large.is_inference()


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (np.zeros((3, 8, 8), np.uint8), "channels last"),
        (np.zeros((8, 8, 5), np.uint8), "1 to 4 channels"),
        (np.zeros((0, 8, 3), np.uint8), "shape"),
        (np.zeros((8, 8, 3), np.int32), "int32"),
        (torch.zeros(8, 8, 3), r"\(B,3,h,w\)"),
        (torch.zeros(1, 1, 8, 8), r"\(B,3,h,w\)"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), "int64"),
    ],
)
def test_what_is_no_picture_is_refused_in_words(picture: np.ndarray | Tensor, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        upscaler()(picture)


@pytest.mark.parametrize("as_kind", [np.asarray, torch.from_numpy])
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (float("nan"), "the picture holds NaN"),
        (float("-inf"), "the picture holds NaN or infinity"),
        (255.0, r"floats up to 255; expected \[0,1\]: divide it"),
        (1.3, r"floats up to 1.3; expected \[0,1\]"),
    ],
)
def test_floats_that_are_not_of_0_to_1_are_refused(as_kind: Callable[..., Any], value: float, expected: str) -> None:
    samples = RNG.random((3, 8, 3), np.float32)  # both (H,W,C) and (3,h,w)
    samples[1, 2, 1] = value
    with pytest.raises(ValueError, match=expected):
        upscaler()(as_kind(samples))


@pytest.mark.parametrize("as_kind", [np.asarray, torch.from_numpy])
def test_floats_a_little_beyond_0_to_1_are_of_a_picture_that_was_resized(as_kind: Callable[..., Any]) -> None:
    large = upscaler()(as_kind(np.full((3, 8, 3), 1.2, np.float32)))
    assert large.max() == 1


def test_a_path_is_no_picture() -> None:
    with pytest.raises(TypeError, match=r"a str is no picture.*read_picture"):
        upscaler()("photo.png")  # type: ignore[type-var]


# Transparency


def disc(height: int = 40, width: int = 50) -> np.ndarray:
    """An orange disc with a soft edge on nothing, which is black as files have it."""
    y, x = np.mgrid[:height, :width]
    alpha = np.clip(14.5 - np.hypot(y - 20, x - 25), 0, 1)
    colour = np.where(alpha[..., None] > 0, np.array([240, 160, 20]), 0)
    return np.concatenate([colour, np.rint(255 * alpha)[..., None]], -1).astype(np.uint8)


def test_colours_of_what_is_hidden_do_not_show() -> None:
    large = upscaler(Blurred())(disc())
    seen = large[large[..., 3] > 0]
    np.testing.assert_array_equal(np.unique(seen[:, :3], axis=0), [[240, 160, 20]])


def test_alpha_is_enlarged_and_has_no_values_beyond_those_around() -> None:
    picture = disc()
    large = upscaler(nn.Sequential(Blurred(), Nearest(1, gain=0.9)))(picture)
    opaque, clear = picture[..., 3] == 255, picture[..., 3] == 0
    inside = np.lib.stride_tricks.sliding_window_view(np.pad(opaque, 1), (3, 3)).all((-1, -2))
    outside = np.lib.stride_tricks.sliding_window_view(np.pad(clear, 1, constant_values=True), (3, 3)).all((-1, -2))
    assert (large[..., 3][repeated(inside)] == 255).all()
    assert (large[..., 3][repeated(outside)] == 0).all()
    soft = large[..., 3][~repeated(inside) & ~repeated(outside)]
    assert len(np.unique(soft)) > 20


@pytest.mark.parametrize("value", [0, 77, 255])
def test_a_picture_of_one_alpha_keeps_it(value: int) -> None:
    picture = np.concatenate([RNG.integers(0, 256, (9, 9, 3), np.uint8), np.full((9, 9, 1), value, np.uint8)], -1)
    large = upscaler(Nearest(2, gain=0.9))(picture)
    assert (large[..., 3] == value).all()


def test_transparency_in_tiles_is_that_of_the_whole() -> None:
    picture = np.tile(disc(), (5, 5, 1))
    whole, tiled = upscaler(Blurred())(picture), upscaler(Blurred(), tile=SMALLEST)(picture)
    assert np.abs(whole.astype(int) - tiled).max() <= 1


# Memory


class Cramped(nn.Module):
    """x2; has room for images of so many pixels, and notes the sides that it was asked for."""

    def __init__(self, room: int, error: Callable[[], Exception] = torch.OutOfMemoryError) -> None:
        super().__init__()
        self.room, self.error = room, error
        self.sides: list[int] = []

    def forward(self, lr: Tensor) -> Tensor:
        self.sides.append(max(lr.shape[-2:]))
        if lr.shape[-2] * lr.shape[-1] > self.room:
            raise self.error()
        return Nearest(2)(lr)


def no_memory_on_a_cpu() -> Exception:
    return RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory")


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, no_memory_on_a_cpu, MemoryError])
def test_tiles_are_halved_until_they_fit(error: Callable[[], Exception]) -> None:
    network = Cramped(180**2, error)
    upscale = upscaler(network)
    pixels = RNG.integers(0, 256, (250, 240, 3), np.uint8)
    np.testing.assert_array_equal(upscale(pixels), repeated(pixels))
    assert network.sides[0] == 250
    assert max(network.sides[1:]) == SMALLEST
    network.sides.clear()
    np.testing.assert_array_equal(upscale(pixels), repeated(pixels))
    assert max(network.sides) == SMALLEST  # it remembers


def test_memory_that_runs_out_half_way_leaves_no_seam() -> None:
    network = Cramped(1 << 40)
    upscale = upscaler(network, tile=256)
    pixels = RNG.integers(0, 256, (500, 100, 3), np.uint8)
    calls = 0

    def shrink(module: nn.Module, inputs: tuple[Tensor]) -> None:
        nonlocal calls
        calls += 1
        network.room = 180 * 100 if calls == 3 else network.room

    network.register_forward_pre_hook(shrink)
    np.testing.assert_array_equal(upscale(pixels), repeated(pixels))
    assert calls > 3


def test_what_does_not_fit_at_all_says_so() -> None:
    with pytest.raises(MemoryError, match=r"not even a tile of 160 LR pixels fits into memory; free some"):
        upscaler(Cramped(10))(np.zeros((250, 250, 3), np.uint8))


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="the lamp is out"):
        upscaler(Cramped(10, lambda: RuntimeError("the lamp is out")))(np.zeros((50, 50, 3), np.uint8))


def test_a_large_picture_is_tiled_by_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Cramped(1 << 40)
    pixels = RNG.integers(0, 256, (280, 400, 3), np.uint8)
    monkeypatch.setattr("mtkd_dist.pictures.upscaler.free_bytes", lambda device: 8 << 20)
    np.testing.assert_array_equal(upscaler(network, memory_share=0.5)(pixels), repeated(pixels))
    assert network.sides[0] == 128  # what it needs is measured once
    assert max(network.sides[1:]) < 256


def test_a_tile_may_be_given() -> None:
    network = Cramped(1 << 40)
    pixels = RNG.integers(0, 256, (280, 400, 3), np.uint8)
    np.testing.assert_array_equal(upscaler(network, tile=200)(pixels), repeated(pixels))
    assert SMALLEST <= max(network.sides) <= 200
    with pytest.raises(ValueError, match=r"tile=159 is too small.*160 LR pixels or more"):
        upscaler(tile=159)


def test_tiles_of_a_student_are_the_whole_within_a_level(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_network("edsr-baseline:width=8,blocks=4", 2)
    save_network(tmp_path / "s.safetensors", network, {"network": "edsr-baseline:width=8,blocks=4", "scale": "2"})
    pixels = RNG.integers(0, 256, (251, 203, 3), np.uint8)
    whole, tiled = (mtkd_dist.load(tmp_path / "s.safetensors", device="cpu", tile=t)(pixels) for t in (1024, SMALLEST))
    assert np.abs(whole.astype(int) - tiled).max() <= 1


# What else


def test_the_self_ensemble_is_the_mean_over_flips_and_rotations(tmp_path: Path) -> None:
    path = make_teacher(tmp_path, "tiny").path
    pixels = RNG.integers(0, 256, (12, 9, 3), np.uint8)
    with torch.no_grad():
        expected = to_uint8(self_ensemble(load_network(path).module, from_uint8(pixels))[0])
    np.testing.assert_array_equal(mtkd_dist.load(path, device="cpu", self_ensemble=True)(pixels), expected)


def test_a_network_that_diverged_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN or infinity"):
        upscaler(Nearest(2, gain=float("nan")))(np.zeros((8, 8, 3), np.uint8))


def test_a_network_that_leaves_the_range_of_float16_computes_in_float32() -> None:
    class Loud(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Conv2d(3, 3, 1, bias=False), nn.Conv2d(3, 3, 1, bias=False)
            with torch.no_grad():
                self.up.weight.copy_(1e5 * torch.eye(3)[..., None, None])
                self.down.weight.copy_(1e-5 * torch.eye(3)[..., None, None])

        def forward(self, lr: Tensor) -> Tensor:
            return Nearest(2)(self.down(self.up(lr)))

    upscale = upscaler(Loud())
    upscale._dtype = torch.float16  # as on a GPU
    pixels = RNG.integers(1, 256, (8, 8, 3), np.uint8)
    np.testing.assert_array_equal(upscale(pixels), repeated(pixels))
    assert upscale._dtype == torch.float32


@pytest.mark.gpu
def test_a_gpu_answers_as_a_cpu_within_a_level(tmp_path: Path) -> None:
    path = make_teacher(tmp_path, "tiny").path
    pixels = RNG.integers(0, 256, (201, 163, 3), np.uint8)
    on_gpu = mtkd_dist.load(path)
    assert on_gpu.device.type == "cuda"
    difference = on_gpu(pixels).astype(int) - mtkd_dist.load(path, device="cpu")(pixels)
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("picture", [np.zeros((300, 200, 4), np.uint8), torch.zeros(2, 3, 250, 100)])
def test_progress_goes_from_0_to_1(picture: np.ndarray | Tensor) -> None:
    if isinstance(picture, np.ndarray):
        picture[:100, :, 3] = 255
    shares: list[float] = []
    upscaler(tile=SMALLEST)(picture, shares.append)
    assert len(shares) > 3
    assert shares == sorted(shares)
    assert shares[-1] == 1
