from __future__ import annotations

import numpy as np
import pytest
import torch

from mtkd_dist.config.tree import WireDtype
from mtkd_dist.pools.wire import Answer, NonFiniteSignal, checks_of, pack, size_bytes, unpack

CPU = torch.device("cpu")


@pytest.mark.parametrize(("dtype", "error"), [("float32", 0.0), ("float16", 2**-11), ("uint8", 1 / 510 + 1e-6)])
def test_a_signal_comes_back_within_the_error_of_its_type(dtype: str, error: float) -> None:
    signal = torch.rand(2, 3, 5, 7)
    back = unpack([pack({"x": signal}, dtype)["x"]], CPU)  # type: ignore[arg-type]
    assert back.dtype == torch.float32
    assert (back - signal).abs().max().item() <= error


def test_values_outside_of_the_range_survive_as_floats_and_are_clipped_as_uint8() -> None:
    signal = torch.tensor([[-0.5, 1.5]])
    assert unpack([pack({"x": signal}, "float16")["x"]], CPU).tolist() == [[-0.5, 1.5]]
    assert unpack([pack({"x": signal}, "uint8")["x"]], CPU).tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize(("dtype", "value"), [("uint8", np.nan), ("float16", 1e5), ("float32", np.inf)])
def test_a_signal_that_is_not_finite_on_the_wire_is_refused_with_its_samples(dtype: WireDtype, value: float) -> None:
    signal = torch.zeros(4, 3, 2, 2)
    signal[1, 0, 0, 0] = signal[3, 2, 1, 1] = value
    with pytest.raises(NonFiniteSignal, match=f"'x' is not finite as {dtype}") as error:
        pack({"x": signal}, dtype)
    assert error.value.rows == [1, 3]


def test_images_are_laid_out_as_asked() -> None:
    images = [np.zeros((2, 3, 4, 4), np.uint8)]
    assert unpack(images, CPU, channels_last=True).is_contiguous(memory_format=torch.channels_last)
    assert unpack(images, CPU).is_contiguous()
    assert unpack([np.zeros((2, 5, 3, 4, 4), np.uint8)], CPU, channels_last=True).is_contiguous()


def test_slots_are_joined_in_their_order() -> None:
    arrays = [np.full((1, 3, 2, 2), value, np.uint8) for value in (0, 255)]
    assert unpack(arrays, CPU)[:, 0, 0, 0].tolist() == [0.0, 1.0]


def test_read_only_views_of_the_object_store_are_copied() -> None:
    array = np.zeros((1, 3, 2, 2), np.float32)
    array.flags.writeable = False
    unpack([array], CPU).add_(1)
    assert array.sum() == 0


def test_the_size_of_an_answer_counts_every_array() -> None:
    answer = Answer(
        lr=np.zeros((1, 3, 2, 2), np.uint8),
        hr=np.zeros((1, 3, 4, 4), np.uint8),
        signals={"x": np.zeros((1, 3, 4, 4), np.float16)},
    )
    assert size_bytes(answer) == 12 + 48 + 96


def test_samples_are_recognised_by_their_low_resolution_pixels_in_any_layout_of_memory() -> None:
    lr = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 4), np.uint8)
    turned = np.ascontiguousarray(lr.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert checks_of(lr) == checks_of(turned)
    assert len(set(checks_of(lr))) == 2
