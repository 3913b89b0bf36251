from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mtkd_dist.data import bicubic_upscale, list_images, matlab_downscale, read_image
from mtkd_dist.metrics import modcrop, score

Resize = Callable[[np.ndarray, int], np.ndarray]
SCALES = st.integers(2, 4)


def set5_pairs(shared_dir: Path, scale: int) -> list[tuple[np.ndarray, np.ndarray]]:
    folder = shared_dir / "data" / "test" / "Set5"
    return [
        (
            modcrop(read_image(path), scale),
            read_image(folder / "LR_bicubic" / f"X{scale}" / f"{path.stem}x{scale}.png"),
        )
        for path in list_images(folder / "HR")
    ]


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_downscaling_repeats_every_value_that_matlab_made_for_set5(shared_dir: Path, scale: int) -> None:
    pairs = set5_pairs(shared_dir, scale)
    assert len(pairs) == 5
    for hr, lr in pairs:
        np.testing.assert_array_equal(matlab_downscale(hr, scale), lr)


# 33.67 at x2, not 33.68: the latter leaves out the rounding between the passes.
@pytest.mark.parametrize(("scale", "psnr"), [(2, 33.67), (3, 30.40), (4, 28.43)])
def test_upscaling_gives_the_bicubic_row_of_set5(shared_dir: Path, scale: int, psnr: float) -> None:
    scores = [score(bicubic_upscale(lr, scale), hr, scale).psnr_y for hr, lr in set5_pairs(shared_dir, scale)]
    assert round(float(np.mean(scores)), 2) == psnr


@settings(deadline=None)
@given(st.integers(0, 255), SCALES, st.integers(1, 5), st.integers(1, 5))
def test_a_flat_image_stays_flat_at_every_size(value: int, scale: int, height: int, width: int) -> None:
    small = np.full((height, width, 3), value, np.uint8)
    large = np.full((scale * height, scale * width, 3), value, np.uint8)
    np.testing.assert_array_equal(matlab_downscale(large, scale), small)
    np.testing.assert_array_equal(bicubic_upscale(small, scale), large)


def test_a_slope_keeps_its_values_away_from_the_edges() -> None:
    # Cubic convolution is exact for straight lines; output pixel i sits at 2i + 0.5 of the input.
    y, x = np.mgrid[:24, :32]
    hr = (4 * x + 2 * y)[:, :, None].astype(np.uint8)
    y, x = np.mgrid[:12, :16]
    expected = (8 * x + 2 + 4 * y + 1)[:, :, None]
    np.testing.assert_array_equal(matlab_downscale(hr, 2)[2:-2, 2:-2], expected[2:-2, 2:-2])


@settings(deadline=None)
@given(arrays(np.uint8, st.tuples(st.integers(2, 4), st.integers(2, 4), st.just(3))), SCALES)
def test_edges_behave_as_if_the_image_went_on_mirrored(lr: np.ndarray, scale: int) -> None:
    hr = bicubic_upscale(lr, scale)
    mirrored = np.concatenate([hr[::-1], hr, hr[::-1]])
    mirrored = np.concatenate([mirrored[:, ::-1], mirrored, mirrored[:, ::-1]], axis=1)
    height, width = lr.shape[:2]
    middle = matlab_downscale(mirrored, scale)[height : 2 * height, width : 2 * width]
    np.testing.assert_array_equal(middle, matlab_downscale(hr, scale))


@pytest.mark.parametrize("resize", [matlab_downscale, bicubic_upscale])
@pytest.mark.parametrize(
    "image", [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)]
)
def test_what_is_no_uint8_image_is_refused(resize: Resize, image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8 image"):
        resize(image, 2)


def test_a_size_that_the_scale_does_not_divide_is_refused_with_the_crop_that_mends_it() -> None:
    with pytest.raises(ValueError, match="9x13 pixels cannot be shrunk by 4: crop it to 8x12"):
        matlab_downscale(np.zeros((9, 13, 3), np.uint8), 4)


@pytest.mark.parametrize("resize", [matlab_downscale, bicubic_upscale])
def test_a_scale_below_one_is_refused(resize: Resize) -> None:
    with pytest.raises(ValueError, match="scale must be"):
        resize(np.zeros((4, 4, 3), np.uint8), 0)
