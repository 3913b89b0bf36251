"""The aggregator: the paper's sizes and transform, and what comes out for any number of teachers and any image size."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import scipy.fft
import torch
from hypothesis import given
from hypothesis import strategies as st

from mtkd_dist.config.presets import PRESETS
from mtkd_dist.models import DCTSwin, build_aggregator, count_params, parse_aggregator
from mtkd_dist.models.aggregator import DCTSwinLayer, WindowMask
from mtkd_dist.models.dct import DCTNorm, WindowDCT
from mtkd_dist.models.shifted_windows import mixed_windows, region_mask

SMALL = "dctswin:width=12,groups=1,layers=2,heads=3"
SCIPY_NORM = {"none": "backward", "ortho": "ortho"}
CPU = torch.device("cpu")


def make_layer(
    shift: int, mask: WindowMask = "separate", norm: DCTNorm = "none", drop_path: float = 0.0
) -> DCTSwinLayer:
    """8 channels, 2 heads, windows of 8; the same weights whatever the mask, large enough for attention to matter."""
    torch.manual_seed(0)
    return DCTSwinLayer(8, 2, 8, 2, norm, mask, shift=shift, drop_path=drop_path)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_paper_presets_have_the_network_of_the_paper_and_nothing_else_has(scale: int) -> None:
    sizes = parse_aggregator(PRESETS[f"paper-x{scale}"]().aggregator).sizes
    assert (sizes["mask"], sizes["mean_skip"]) == ("swin", False)
    assert (parse_aggregator("dctswin").sizes["mask"], parse_aggregator("dctswin").sizes["mean_skip"]) == (
        "separate",
        True,
    )


@pytest.mark.parametrize("options", ["", ":mask=swin,mean_skip=false", ":mask=none"])
@pytest.mark.parametrize(("scale", "params"), [(2, 1_094_579), (3, 1_318_099), (4, 1_335_603)])
def test_parameter_counts_are_those_of_the_released_network(scale: int, params: int, options: str) -> None:
    with torch.device("meta"):
        assert count_params(build_aggregator("dctswin" + options, 3, scale)) == params


def test_one_more_teacher_costs_only_channels_of_the_first_convolution() -> None:
    with torch.device("meta"):
        assert count_params(DCTSwin(4, 4)) - count_params(DCTSwin(3, 4)) == 3 * 4**2 * 9 * 96


@pytest.mark.parametrize("norm", ["none", "ortho"])
@pytest.mark.parametrize("size", [2, 8])
def test_window_dct_equals_scipy(size: int, norm: DCTNorm) -> None:
    windows = torch.rand(5, size, size, 3)
    expected = scipy.fft.dctn(windows.double().numpy(), axes=(1, 2), norm=SCIPY_NORM[norm])
    coefficients = WindowDCT(size, norm)(windows.flatten(1, 2)).unflatten(1, (size, size))
    torch.testing.assert_close(coefficients.double(), torch.from_numpy(expected), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("norm", ["none", "ortho"])
def test_inverse_dct_gives_the_windows_back(norm: DCTNorm) -> None:
    dct = WindowDCT(8, norm)
    windows = torch.randn(4, 64, 2)
    torch.testing.assert_close(dct.invert(dct(windows)), windows, rtol=0, atol=2e-6)


def test_first_coefficient_of_the_plain_dct_is_256_times_the_mean() -> None:
    windows = torch.rand(3, 64, 1)
    torch.testing.assert_close(WindowDCT(8, "none")(windows)[:, 0], 256 * windows.mean(dim=1))


@pytest.mark.parametrize("shift", [0, 4])
def test_layer_returns_every_pixel_to_its_place(shift: int) -> None:
    layer = make_layer(shift=shift)
    # Attention that passes its values on unmixed and an MLP that adds nothing leave norm1 as the whole branch.
    layer.attention.register_forward_hook(lambda module, tokens, mixed: tokens[0])
    layer.mlp.register_forward_hook(lambda module, tokens, added: torch.zeros_like(added))
    tokens = torch.randn(2, 16, 24, 8)
    torch.testing.assert_close(layer(tokens), tokens + layer.norm1(tokens), rtol=0, atol=1e-5)


@given(rows=st.integers(2, 4), columns=st.integers(2, 4), n=st.integers(2, 5), data=st.data())
def test_the_swin_mask_separates_what_were_no_neighbours_before_the_shift(
    rows: int, columns: int, n: int, data: st.DataObject
) -> None:
    shift = data.draw(st.integers(1, n - 1))
    size = (rows * n, columns * n)
    place = torch.cartesian_prod(*map(torch.arange, size)).reshape(*size, 2)
    windows = place.roll((-shift, -shift), dims=(0, 1)).reshape(rows, n, columns, n, 2).transpose(1, 2)
    windows = windows.reshape(rows * columns, n * n, 2)
    apart = (windows[:, :, None] - windows[:, None]).abs().amax(-1) >= n
    assert torch.equal(region_mask(size, n, shift, CPU), -100.0 * apart)
    assert torch.equal(mixed_windows(size, n, shift, CPU), apart.any(2).any(1))


@pytest.mark.parametrize("remembered", [region_mask, mixed_windows])
def test_masks_are_made_once_for_a_size(remembered: Callable[..., torch.Tensor]) -> None:
    assert remembered((16, 24), 8, 4, CPU) is remembered((16, 24), 8, 4, CPU)


CORNERS = [(slice(0, 4), slice(0, 4)), (slice(0, 4), slice(12, 16)), (slice(12, 16), slice(12, 16))]


@pytest.mark.parametrize("norm", ["none", "ortho"])
@pytest.mark.parametrize(("mask", "passes"), [("separate", False), ("swin", True), ("none", True)])
def test_only_separate_keeps_the_regions_of_a_mixed_window_apart(mask: WindowMask, passes: bool, norm: DCTNorm) -> None:
    layer = make_layer(shift=4, mask=mask, norm=norm)
    tokens = torch.randn(1, 16, 16, 8)
    changed = tokens.clone()
    changed[:, *CORNERS[0]] = torch.randn(1, 4, 4, 8)
    with torch.no_grad():
        before, after = layer._attend(tokens), layer._attend(changed)
    for corner in CORNERS[1:]:
        moved = (after - before)[:, *corner].abs().max()
        assert (moved > 1e-3) if passes else (moved < 1e-5)
    assert (after - before)[:, *CORNERS[0]].abs().max() > 1e-3


@pytest.mark.parametrize("mask", ["separate", "swin"])
def test_windows_without_mixing_do_not_know_of_a_mask(mask: WindowMask) -> None:
    layer, plain = make_layer(shift=4, mask=mask), make_layer(shift=4, mask="none")
    tokens = torch.randn(2, 24, 16, 8)
    with torch.no_grad():
        masked, unmasked = layer._attend(tokens), plain._attend(tokens)
    torch.testing.assert_close(masked[:, 4:20, 4:12], unmasked[:, 4:20, 4:12])
    assert not torch.allclose(masked[:, :4], unmasked[:, :4], atol=1e-3)


@pytest.mark.parametrize("mask", ["separate", "swin"])
def test_a_layer_can_be_trained_after_it_was_used_in_inference_mode(mask: WindowMask) -> None:
    layer = make_layer(shift=4, mask=mask)
    tokens = torch.randn(1, 32, 8, 8)
    with torch.inference_mode():
        layer(tokens)
    layer(tokens).mean().backward()


def test_shifted_layers_alternate_with_unshifted_ones() -> None:
    layers = [m for m in DCTSwin(1, 2, width=12, heads=3).modules() if isinstance(m, DCTSwinLayer)]
    assert [layer.shift for layer in layers] == [0, 4] * 4
    assert [round(layer.drop_path, 6) for layer in layers] == [round(0.1 * i / 7, 6) for i in range(8)]


@pytest.mark.parametrize("num_teachers", [1, 3])
@pytest.mark.parametrize(("scale", "size"), [(2, (32, 48)), (3, (39, 24)), (4, (4, 12)), (4, (64, 36))])
def test_untrained_aggregator_is_exactly_the_mean_of_the_teachers(
    num_teachers: int, scale: int, size: tuple[int, int]
) -> None:
    stack = torch.rand(2, num_teachers, 3, *size)
    assert torch.equal(build_aggregator(SMALL, num_teachers, scale)(stack), stack.mean(dim=1))


def test_a_trained_correction_changes_the_mean() -> None:
    network = build_aggregator(SMALL, 2, 2)
    stack = torch.rand(1, 2, 3, 16, 16)
    network(stack).square().mean().backward()
    assert network.conv_last.weight.grad is not None
    with torch.no_grad():
        network.conv_last.weight -= network.conv_last.weight.grad
    assert not torch.allclose(network(stack), stack.mean(dim=1))


def test_without_the_skip_the_output_is_scaled_and_shifted_as_released() -> None:
    network = build_aggregator(SMALL + ",mean_skip=false", 1, 2).eval()
    torch.nn.init.zeros_(network.conv_last.weight)
    torch.nn.init.constant_(network.conv_last.bias, 25.5)  # type: ignore[arg-type]
    image = network(torch.rand(1, 1, 3, 18, 16))
    expected = torch.tensor([0.5488, 0.5371, 0.5040]).view(1, 3, 1, 1).expand(1, 3, 18, 16)
    torch.testing.assert_close(image, expected)


def test_without_the_skip_every_weight_gets_a_gradient() -> None:
    network = build_aggregator(SMALL + ",mean_skip=false,drop_path=0", 2, 2)
    network(torch.rand(1, 2, 3, 32, 32)).square().mean().backward()
    assert not [name for name, parameter in network.named_parameters() if parameter.grad is None]


def test_samples_of_a_batch_do_not_mix() -> None:
    network = build_aggregator(SMALL + ",mean_skip=false", 1, 2).eval()
    stack = torch.rand(2, 1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(network(stack)[:1], network(stack[:1]))


def test_dropped_branches_leave_the_expectation_as_it_was() -> None:
    layer = make_layer(shift=0, drop_path=0.5).train()
    torch.manual_seed(0)
    branch = layer._drop(torch.ones(4000, 1, 1, 1))
    assert set(branch.unique().tolist()) == {0.0, 2.0}
    assert abs(branch.mean().item() - 1) < 0.1


def test_teacher_images_are_left_as_they_were() -> None:
    stack = torch.rand(1, 2, 3, 24, 24)
    before = stack.clone()
    build_aggregator(SMALL, 2, 4)(stack)
    assert torch.equal(stack, before)


def test_another_number_of_teachers_is_refused() -> None:
    with pytest.raises(ValueError, match="built for 3 teachers, got a stack of 2"):
        build_aggregator(SMALL, 3, 2)(torch.rand(1, 2, 3, 16, 16))


def test_an_image_that_is_no_multiple_of_the_scale_is_refused() -> None:
    with pytest.raises(ValueError, match="images of 16x18 pixels are not a multiple of the scale 4"):
        build_aggregator(SMALL, 1, 4)(torch.rand(1, 1, 3, 16, 18))


def test_an_aggregator_of_no_teachers_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 teacher, got 0"):
        build_aggregator(SMALL, 0, 4)


@given(
    heads=st.integers(1, 8),
    per_head=st.integers(1, 16),
    norm=st.sampled_from(["none", "ortho"]),
    mask=st.sampled_from(["separate", "swin", "none"]),
    skip=st.booleans(),
    drop=st.floats(0, 0.9),
)
def test_canonical_text_means_the_same_aggregator(
    heads: int, per_head: int, norm: str, mask: str, skip: bool, drop: float
) -> None:
    text = (
        f"dctswin:width={heads * per_head},heads={heads},dct_norm={norm},mask={mask},"
        f"mean_skip={str(skip).lower()},drop_path={drop}"
    )
    spec = parse_aggregator(text)
    assert parse_aggregator(spec.text) == spec
    assert spec.sizes["mean_skip"] is skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dctswim", r"unknown aggregator 'dctswim'; known: dctswin.*Did you mean 'dctswin'\?"),
        ("dctswin:head=2", r"unknown size 'head'.*Did you mean 'heads'\?"),
        ("dctswin:mean_skip=no", "mean_skip=no must be true or false"),
        ("dctswin:mask=swinn", "mask=swinn must be separate or swin or none"),
        ("dctswin:dct_norm=forward", "dct_norm=forward must be none or ortho"),
        ("dctswin:width=100", "width=100 must be a multiple of heads=6"),
        ("dctswin:drop_path=1", "drop_path=1.0 must be at least 0 and below 1"),
        ("dctswin:groups=0", "groups=0 must be a number above 0"),
    ],
)
def test_a_mistake_in_an_aggregator_text_is_named(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_aggregator(text)
