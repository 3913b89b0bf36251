"""Rendered images in files: what is read is what was written, or it is refused."""

from __future__ import annotations

import json
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mtkd_dist.data import ImageStore
from mtkd_dist.data.teacher_outputs import TeacherOutputs, TornOutput, folder_bytes, outputs_key, total_bytes
from tests.nets import make_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    return make_store(tmp_path_factory.mktemp("photos"), count=2, side=16)


def make_outputs(store: ImageStore, root: Path, dtype: Any = "float16", weights: str = "w") -> TeacherOutputs:
    key = outputs_key({"weights": weights}, store, dtype, "float32", tile=512, overlap=32)
    outputs = TeacherOutputs(root, key, store)
    outputs.create()
    return outputs


def some_image(outputs: TeacherOutputs, index: int = 0, seed: int = 0) -> NDArray[np.float32]:
    shape = outputs.images.hr(index).shape
    return np.random.default_rng(seed).uniform(-0.1, 1.1, shape).astype(np.float32)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), dtype=st.sampled_from(["float16", "uint8"]))
def test_an_image_comes_back_as_it_was_rounded(store: ImageStore, tmp_path: Path, seed: int, dtype: str) -> None:
    outputs = make_outputs(store, tmp_path, dtype)
    image = some_image(outputs, seed=seed)
    outputs.write(0, image)
    expected = image.astype(np.float16) if dtype == "float16" else np.rint(image.clip(0, 1) * 255).astype(np.uint8)
    # Opened anew, as another process would: each example checks its own bytes.
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(outputs)).image(0), expected)


def test_a_file_is_an_npy_file_that_any_reader_understands(store: ImageStore, tmp_path: Path) -> None:
    outputs = make_outputs(store, tmp_path)
    outputs.write(1, some_image(outputs))
    np.testing.assert_array_equal(np.load(outputs.path(1), allow_pickle=False), outputs.image(1))


def test_what_is_read_cannot_be_written_to(store: ImageStore, tmp_path: Path) -> None:
    outputs = make_outputs(store, tmp_path)
    outputs.write(0, some_image(outputs))
    with pytest.raises(ValueError, match="read-only"):
        outputs.image(0)[0] = 0


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(data=st.data())
def test_one_changed_byte_anywhere_is_found_before_an_image_is_used(
    store: ImageStore, tmp_path: Path, data: st.DataObject
) -> None:
    outputs = make_outputs(store, tmp_path)
    outputs.write(0, some_image(outputs))
    content = bytearray(outputs.path(0).read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    outputs.path(0).write_bytes(content)
    with pytest.raises(TornOutput, match=r"00000\.npy has CRC-32"):
        outputs.image(0)


@pytest.mark.parametrize("kept", [0, 1, 300])
def test_a_file_that_was_cut_short_is_missing_and_refused(store: ImageStore, tmp_path: Path, kept: int) -> None:
    outputs = make_outputs(store, tmp_path)
    for index in range(2):
        outputs.write(index, some_image(outputs))
    outputs.path(1).write_bytes(outputs.path(1).read_bytes()[:kept])
    assert outputs.missing() == [1]
    with pytest.raises(TornOutput, match=r"00001\.npy"):
        outputs.image(1)


def test_an_image_that_is_gone_is_named(store: ImageStore, tmp_path: Path) -> None:
    with pytest.raises(TornOutput, match=r"00001\.npy is gone"):
        make_outputs(store, tmp_path).image(1)


def test_only_what_is_not_there_is_missing(store: ImageStore, tmp_path: Path) -> None:
    outputs = make_outputs(store, tmp_path)
    assert outputs.missing() == [0, 1]
    outputs.write(1, some_image(outputs))
    assert (outputs.missing(), outputs.has(0), outputs.has(1)) == ([0], False, True)


def test_another_key_is_another_folder(store: ImageStore, tmp_path: Path) -> None:
    folders = {
        make_outputs(store, tmp_path, dtype, weights).folder for dtype in ("float16", "uint8") for weights in "ab"
    }
    assert len(folders) == 4


def test_a_folder_whose_index_says_another_key_is_refused_with_the_difference(
    store: ImageStore, tmp_path: Path
) -> None:
    outputs = make_outputs(store, tmp_path)
    stale = outputs.key | {"images": "of another store"}
    (outputs.folder / "index.json").write_text(json.dumps(stale))
    for look in (outputs.create, outputs.missing):
        with pytest.raises(ValueError, match=r"index\.json.*images is 'of another store', expected.*Delete the folder"):
            look()


def test_an_index_that_cannot_be_read_is_refused(store: ImageStore, tmp_path: Path) -> None:
    outputs = make_outputs(store, tmp_path)
    (outputs.folder / "index.json").write_text("{torn")
    with pytest.raises(ValueError, match=r"index\.json cannot be read"):
        outputs.create()


def test_two_writers_of_one_image_leave_a_whole_one(store: ImageStore, tmp_path: Path) -> None:
    images = [some_image(make_outputs(store, tmp_path), seed=seed) for seed in (1, 2)]
    writers = [make_outputs(store, tmp_path) for _ in images]

    def write(which: int) -> None:
        for _ in range(30):
            writers[which].write(0, images[which])

    threads = [threading.Thread(target=write, args=(which,)) for which in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(30):
        reader = make_outputs(store, tmp_path)
        if reader.has(0):
            found = reader.image(0)
            assert any(np.array_equal(found, image.astype(np.float16)) for image in images)
    for thread in threads:
        thread.join()
    assert make_outputs(store, tmp_path).missing() == [1]


def test_what_a_dead_writer_left_is_cleared_and_what_a_living_one_writes_is_not(
    store: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = make_outputs(store, tmp_path)
    temporary = outputs.folder / ".00000.npy.x.tmp"
    temporary.touch()
    outputs.create()
    assert temporary.exists()
    monkeypatch.setattr("mtkd_dist.data.teacher_outputs._ABANDONED_SECONDS", -1.0)
    outputs.create()
    assert not temporary.exists()


@pytest.mark.parametrize("dtype", ["float16", "uint8"])
def test_bytes_are_known_before_anything_is_rendered(store: ImageStore, tmp_path: Path, dtype: str) -> None:
    outputs = make_outputs(store, tmp_path, dtype)
    predicted, index = total_bytes([outputs]), (outputs.folder / "index.json").stat().st_size
    outputs.write(0, some_image(outputs))
    assert total_bytes([outputs], missing_only=True) == outputs.file_bytes(1)
    outputs.write(1, some_image(outputs, 1))
    assert folder_bytes(tmp_path) == predicted + index


def test_the_loss_of_uint8_is_measured_over_all_images(store: ImageStore, tmp_path: Path) -> None:
    outputs = make_outputs(store, tmp_path, "uint8")
    images = [(store.hr(i) / 255 + np.float32(1 / 1024)).clip(0, 1).astype(np.float32) for i in range(2)]
    for index, image in enumerate(images):
        outputs.write(index, image)
    # Every value is a quarter of a grey level above a whole one, and is rounded to it.
    rounding = pickle.loads(pickle.dumps(outputs)).rounding()
    squares = [np.mean((image - store.hr(i) / 255) ** 2) for i, image in enumerate(images)]
    assert rounding.psnr_db == pytest.approx(-10 * np.log10(np.mean(squares)), abs=1e-3)
    assert rounding.lost_db < 0  # what is stored is the truth itself


def test_float16_costs_next_to_nothing(store: ImageStore, tmp_path: Path) -> None:
    outputs = make_outputs(store, tmp_path)
    for index in range(2):
        outputs.write(index, some_image(outputs, index))
    assert abs(outputs.rounding().lost_db) < 1e-3
    assert outputs.rounding().psnr_db > 70
