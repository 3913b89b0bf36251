from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mtkd_dist.models import build_aggregator
from mtkd_dist.models.padding import pad_bottom_right, shortfall


@given(size=st.integers(1, 200), minimum=st.integers(1, 50), multiple=st.integers(1, 50))
def test_the_shortfall_is_the_least_that_meets_both_wants(size: int, minimum: int, multiple: int) -> None:
    allowed = [n for n in range(400) if n >= max(size, minimum) and n % multiple == 0]
    assert size + shortfall(size, minimum, multiple) == allowed[0]


@given(height=st.integers(1, 12), width=st.integers(1, 12), data=st.data())
def test_an_image_is_mirrored_without_repeating_its_edge(height: int, width: int, data: st.DataObject) -> None:
    bottom, right = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    images = torch.arange(2 * 3 * height * width, dtype=torch.float32).reshape(2, 3, height, width)
    expected = np.pad(images.numpy(), ((0, 0), (0, 0), (0, bottom), (0, right)), mode="reflect")
    np.testing.assert_array_equal(pad_bottom_right(images, bottom, right), expected)


def test_an_image_smaller_than_its_padding_goes_on_with_its_last_mirrored_row() -> None:
    images = torch.tensor([[1.0, 2.0], [3.0, 4.0]])[None, None]
    assert pad_bottom_right(images, 4, 0)[0, 0, :, 0].tolist() == [1, 3, 1, 1, 1, 1]


@pytest.mark.parametrize(("scale", "size"), [(2, (2, 6)), (3, (3, 3)), (4, (36, 68)), (4, (64, 32))])
def test_the_aggregator_sees_its_images_mirrored_to_windows_of_8_at_low_resolution(
    scale: int, size: tuple[int, int]
) -> None:
    network = build_aggregator("dctswin:width=12,groups=1,layers=2,heads=3,mean_skip=false", 2, scale).eval()
    seen: list[torch.Size] = []
    network.conv_first.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    stack = torch.rand(1, 2, 3, *size)
    bottom, right = (shortfall(side, multiple=8 * scale) for side in size)
    mirrored = pad_bottom_right(stack.flatten(1, 2), bottom, right).unflatten(1, (2, 3))
    with torch.no_grad():
        image = network(stack)
        torch.testing.assert_close(image, network(mirrored)[..., : size[0], : size[1]])
    assert image.shape == (1, 3, *size)
    assert [side % 8 for side in seen[0][-2:]] == [0, 0]
    assert seen[0][-2:] == (mirrored.shape[-2] // scale, mirrored.shape[-1] // scale)
