"""What a registered student makes of what it is sent, as MLflow hands it on."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mtkd_dist.metrics import from_uint8, to_uint8
from mtkd_dist.models import load_network
from mtkd_dist.tracking.served import Enlarger, _load_pyfunc
from tests.nets import make_teacher, write_photos


class Served:
    """A student as MLflow loads it, a photograph, and what the student's network itself makes of that."""

    def __init__(self, folder: Path) -> None:
        weights = make_teacher(folder, "student").path
        self.model: Enlarger = _load_pyfunc(str(weights))
        self.file = write_photos(folder, 1, side=24)[0].read_bytes()
        self.lr = np.asarray(Image.open(io.BytesIO(self.file)))
        with torch.no_grad():
            self.sr = to_uint8(load_network(weights).module(from_uint8(self.lr)))[0]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return Served(tmp_path_factory.mktemp("served"))


def decoded(file: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(file))
    assert image.format == "PNG"
    return np.asarray(image)


def test_pixels_of_one_image_come_back_as_pixels(served: Served) -> None:
    sr = served.model.predict(served.lr)
    assert sr.dtype == np.uint8
    np.testing.assert_array_equal(sr, served.sr)


def test_pixels_of_several_images_come_back_as_one_array(served: Served) -> None:
    both = served.model.predict(np.stack([served.lr, served.lr[::-1]]))
    assert both.shape == (2, *served.sr.shape)
    np.testing.assert_array_equal(both[0], served.sr)


def test_an_image_file_comes_back_as_a_png_file(served: Served) -> None:
    (png,) = served.model.predict(np.array([served.file], dtype=object))
    np.testing.assert_array_equal(decoded(png), served.sr)


def test_what_a_file_brings_along_is_kept(served: Served) -> None:
    file = io.BytesIO()
    image = Image.fromarray(served.lr)
    image.putalpha(128)
    image.save(file, "PNG", icc_profile=b"a profile")
    (png,) = served.model.predict(np.array([file.getvalue()], dtype=object))
    enlarged = Image.open(io.BytesIO(png))
    assert (enlarged.mode, enlarged.size, enlarged.info["icc_profile"]) == ("RGBA", (48, 48), b"a profile")


def test_base64_comes_back_as_base64_also_where_lines_were_broken(served: Served) -> None:
    texts = [base64.b64encode(served.file).decode(), base64.encodebytes(served.file).decode()]
    for text in served.model.predict(np.array(texts, dtype=object)):
        np.testing.assert_array_equal(decoded(base64.b64decode(text)), served.sr)


def test_images_of_different_sizes_come_back_as_a_list(served: Served) -> None:
    images = np.empty(2, dtype=object)
    images[:] = [served.lr, served.lr[:10]]
    whole, part = served.model.predict(images)
    np.testing.assert_array_equal(whole, served.sr)
    assert part.shape == (20, 48, 3)


def test_lists_of_numbers_are_pixels_as_json_has_them(served: Served) -> None:
    one, several = (np.array(pixels, dtype=object) for pixels in (served.lr.tolist(), [served.lr.tolist()]))
    np.testing.assert_array_equal(served.model.predict(one), served.sr)
    np.testing.assert_array_equal(served.model.predict(several), served.sr[None])
    ragged = np.array([served.lr.tolist(), served.lr[:, :10].tolist()], dtype=object)
    assert [image.shape for image in served.model.predict(ragged)] == [(48, 48, 3), (48, 20, 3)]


@pytest.mark.parametrize(
    ("pixels", "told"),
    [
        (np.zeros((4, 4), np.uint8), r"an image of uint8 \(4, 4\); expected uint8 RGB of \(h, w, 3\), 0 to 255"),
        (np.zeros((4, 4, 4), np.uint8), r"\(4, 4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\)"),
        (np.zeros((4, 4, 3), np.float32), "an image of float32"),
        (np.full((4, 4, 3), 256), "values of 256 to 256; expected 0 to 255"),
        (np.full((4, 4, 3), -1), "values of -1 to -1"),
    ],
)
def test_what_is_no_image_is_refused(served: Served, pixels: np.ndarray, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        served.model.predict(pixels)


def test_a_file_that_is_no_image_is_refused(served: Served) -> None:
    with pytest.raises(OSError, match="cannot identify image file"):
        served.model.predict(np.array([b"no image"], dtype=object))
