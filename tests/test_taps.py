from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtkd_dist.methods.feature_maps import TapError, as_map
from mtkd_dist.methods.taps import (
    LEVELS,
    body_blocks,
    check_taps,
    features_of,
    is_listening,
    listening,
    resolve,
)
from mtkd_dist.models import build_network, load_network
from mtkd_dist.models.precision import Autocast
from mtkd_dist.pools.inference import Frozen

FAMILIES = {
    "edsr-baseline:width=8,blocks=7": (8, ["body.2", "body.4", "body.6"]),
    "rcan-light:groups=2,blocks=2,width=16,reduction=4": (16, ["body.0", "body.1", "body.1"]),
    "swinir:width=12,groups=3,layers=1,heads=2": (12, ["layers.0", "layers.1", "layers.2"]),
    "swinir-light:width=12,groups=3,layers=1,heads=2": (12, ["layers.0", "layers.1", "layers.2"]),
    "rlfn:width=8,blocks=4": (8, ["block_2", "block_3", "block_4"]),
}


def hooks_of(network: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in network.modules())


@pytest.mark.parametrize("text", FAMILIES)
def test_early_middle_and_late_are_the_last_blocks_of_the_thirds_of_every_family(text: str) -> None:
    assert [resolve(build_network(text, 2), level) for level in LEVELS] == FAMILIES[text][1]


@pytest.mark.parametrize("text", FAMILIES)
@pytest.mark.parametrize("size", [(8, 8), (16, 16), (9, 13)])
def test_features_of_every_family_are_maps_at_lr_size_whatever_it_pads_to(text: str, size: tuple[int, int]) -> None:
    assert set(check_taps(build_network(text, 2), LEVELS, size).values()) == {(FAMILIES[text][0], *size)}


@pytest.mark.parametrize("text", FAMILIES)
def test_features_say_where_in_the_image_they_are(text: str) -> None:
    """A change of one corner of the LR image changes the features there most, so rows and columns are not mixed up."""
    torch.manual_seed(0)
    network = build_network(text, 2).eval()
    plain = torch.full((1, 3, 16, 16), 0.5)
    dotted = plain.clone()
    dotted[..., 1, 12] = 1
    with torch.no_grad():
        change = (
            features_of(network, dotted, ["early"])[1]["early"] - features_of(network, plain, ["early"])[1]["early"]
        )
    place = change.abs().sum((0, 1)).argmax().item()
    assert max(abs(place // 16 - 1), abs(place % 16 - 12)) <= 2


def test_spandrels_other_transformers_are_tapped_as_well() -> None:
    from mtkd_dist.models.spandrel_adapter import allow_torchvision_import

    allow_torchvision_import()
    from spandrel.architectures.CRAFT import CRAFT
    from spandrel.architectures.DCTLSA import DCTLSA

    craft = CRAFT(embed_dim=12, depths=[1, 1, 1], num_heads=[6, 6, 6], upscale=2)
    assert check_taps(craft, ["layers.1"], (24, 24)) == {"layers.1": (12, 24, 24)}
    with pytest.raises(TapError, match="No tap works: take a larger patch"):  # it pads 16 to 32
        check_taps(craft, ["layers.1"], (16, 16))
    dctlsa = DCTLSA(nf=10, upscale=2)
    assert check_taps(dctlsa, ["early"], (16, 16)) == {"early": (10, 16, 16)}
    assert resolve(dctlsa, "early") == "B2"


def test_a_file_of_one_of_spandrels_networks_is_tapped_by_the_names_that_the_network_has(tmp_path: Path) -> None:
    from mtkd_dist.models.spandrel_adapter import allow_torchvision_import

    allow_torchvision_import()
    from spandrel.architectures.DCTLSA import DCTLSA

    torch.save({"params": DCTLSA(upscale=2).state_dict()}, tmp_path / "dctlsa.pth")
    network = load_network(tmp_path / "dctlsa.pth").module
    lr = torch.rand(1, 3, 12, 16)
    with torch.no_grad():
        sr, features = features_of(network, lr, ["early", "B4", "late"])
    assert sr.shape == (1, 3, 24, 32)
    assert {tap: tuple(one.shape) for tap, one in features.items()} == dict.fromkeys(
        ("early", "B4", "late"), (1, 55, 12, 16)
    )
    with pytest.raises(TapError, match=r"DCTLSA has no tap 'B7'.*nearest first: B6, "):
        resolve(network, "B7")


def test_a_network_knows_that_this_thread_listens_to_it_whatever_it_is_wrapped_in() -> None:
    network, other = (build_network("edsr-baseline:width=8,blocks=2", 2) for _ in range(2))
    wrapped = Frozen("teacher a", network, 2, torch.device("cpu"), torch.float32)
    with listening(wrapped, ["body.0"]), ThreadPoolExecutor(1) as another_thread:
        assert is_listening(wrapped)
        assert is_listening(network)
        assert not is_listening(other)
        assert not another_thread.submit(is_listening, network).result()
        wrapped(torch.rand(1, 3, 8, 8))
    assert not is_listening(network)


def test_the_image_is_the_one_that_the_network_makes_anyway() -> None:
    network, lr = build_network("edsr-baseline:width=8,blocks=2", 2), torch.rand(2, 3, 8, 8)
    sr, features = features_of(network, lr, ["body.0", "body.1"])
    assert torch.equal(sr, network(lr))
    assert torch.equal(features["body.1"], network.body[1](network.body[0](network.head(lr - network.mean))))
    assert hooks_of(network) == 0


def test_features_are_those_that_the_module_put_out_even_where_the_next_one_writes_into_them() -> None:
    network, lr = build_network("edsr-baseline:width=8,blocks=1", 2), torch.rand(1, 3, 8, 8)
    features = features_of(network, lr, ["body.0.body.0"])[1]["body.0.body.0"]
    assert features.min() < 0, "those after the activation"


@pytest.mark.parametrize("mode", [contextlib.nullcontext, torch.no_grad, torch.inference_mode])
def test_features_carry_gradients_exactly_where_they_are_wanted(mode: Any) -> None:
    network = build_network("edsr-baseline:width=8,blocks=1", 2)
    with mode():
        features = features_of(network, torch.rand(1, 3, 8, 8), ["body.0"])[1]["body.0"]
    assert features.requires_grad == (mode is contextlib.nullcontext)


def test_names_do_not_depend_on_what_a_network_is_wrapped_in() -> None:
    network = build_network("edsr-baseline:width=8,blocks=2", 2).eval()
    lr = torch.rand(1, 3, 8, 8)
    expected = features_of(network, lr, ["body.1"])[1]["body.1"]

    class Parallel(nn.Module):
        """As DDP holds what it wraps."""

        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, lr: Tensor) -> Tensor:
            return self.module(lr)

    for wrapped in (
        Autocast(Parallel(network), torch.float32),
        Frozen("a", network, 2, torch.device("cpu"), torch.float32),
    ):
        assert torch.allclose(features_of(wrapped, lr, ["body.1"])[1]["body.1"], expected, atol=1e-6)


def test_features_made_in_half_precision_come_as_float32() -> None:
    network = Autocast(build_network("edsr-baseline:width=8,blocks=2", 2), torch.bfloat16)
    assert features_of(network, torch.rand(1, 3, 8, 8), ["late"])[1]["late"].dtype == torch.float32


def test_a_compiled_network_is_tapped_in_every_step() -> None:
    """Compiled code would not call the hooks that come after it was compiled."""
    network = build_network("edsr-baseline:width=4,blocks=1", 2)
    network.compile(backend="eager")
    for _ in range(2):
        lr = torch.rand(1, 3, 8, 8)
        network(lr)
        assert features_of(network, lr, ["late"])[1]["late"].shape == (1, 4, 8, 8)


def test_two_threads_that_ask_one_network_at_a_time_get_their_own_features() -> None:
    """As those of a teacher worker on a GPU do."""
    together = threading.Barrier(2, timeout=60)

    class Meets(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tapped = nn.Identity()

        def forward(self, lr: Tensor) -> Tensor:
            together.wait()
            features = self.tapped(lr)
            together.wait()
            return features

    network, images = Meets(), [torch.rand(1, 3, 4, 4) for _ in range(2)]
    with ThreadPoolExecutor(2) as threads:
        answers = list(threads.map(lambda lr: features_of(network, lr, ["tapped"])[1]["tapped"], images))
    assert all(torch.equal(features, lr) for features, lr in zip(answers, images, strict=True))
    assert hooks_of(network) == 0


def test_hooks_are_gone_after_an_error_in_the_forward_pass() -> None:
    network = build_network("edsr-baseline:width=8,blocks=1", 2)
    with pytest.raises(RuntimeError, match="size of tensor"):
        features_of(network, torch.rand(1, 4, 8, 8), ["late"])
    assert hooks_of(network) == 0


def test_a_check_leaves_the_network_as_it_was() -> None:
    network = build_network("swinir-light:width=12,groups=1,layers=1,heads=2", 2).train()
    network.norm.eval()
    state = torch.get_rng_state()
    check_taps(network, ["late"], (8, 8))
    assert network.training
    assert not network.norm.training
    assert hooks_of(network) == 0
    assert torch.equal(torch.get_rng_state(), state)


def test_an_unknown_tap_lists_those_that_exist_the_nearest_first() -> None:
    with pytest.raises(
        TapError, match=r"EDSR has no tap 'bdy.4'.*nearest first: body.4, .* and \d+ more; early, middle"
    ):
        resolve(build_network("edsr-baseline:width=8,blocks=8", 2), "bdy.4")


@pytest.mark.parametrize("tap", ["tail.0", "tail.1"])
def test_a_tap_of_another_size_lists_taps_that_work(tap: str) -> None:
    network = build_network("edsr-baseline:width=8,blocks=2", 2)
    with pytest.raises(TapError, match=r"no map of 12x12 LR pixels.*Taps that work, the nearest first: .*body.0"):
        check_taps(network, [tap], (12, 12))


def test_a_tap_inside_a_window_is_no_map() -> None:
    network = build_network("swinir-light:width=12,groups=1,layers=1,heads=2", 2)
    with pytest.raises(TapError, match="Taps that work"):
        check_taps(network, ["layers.0.residual_group.blocks.0.attn.qkv"], (16, 16))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act, self.conv, self.idle = nn.ReLU(), nn.Conv2d(3, 3, 1), nn.ReLU()

    def forward(self, lr: Tensor) -> Tensor:
        return self.act(self.conv(self.act(lr)))


@pytest.mark.parametrize(("tap", "times"), [("act", "2 times"), ("idle", "0 times")])
def test_a_tap_must_run_once(tap: str, times: str) -> None:
    with pytest.raises(TapError, match=f"{times}.*Taps that work, the nearest first: conv$"):
        check_taps(Twice(), [tap], (8, 8))
    with pytest.raises(TapError, match=r"more than once|took no part"):
        features_of(Twice(), torch.rand(2, 3, 8, 8), [tap])


class ChannelsLast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(3, 8)

    def forward(self, lr: Tensor) -> Tensor:
        return self.mix(lr.permute(0, 2, 3, 1))[..., :3].permute(0, 3, 1, 2)


def test_channels_that_come_last_are_put_in_their_place() -> None:
    network, lr = ChannelsLast(), torch.rand(2, 3, 6, 5)
    assert torch.equal(features_of(network, lr, ["mix"])[1]["mix"][:, :3], network(lr))


def test_channels_that_cannot_be_told_from_pixels_are_refused_with_what_helps() -> None:
    with pytest.raises(TapError, match="take another patch size"):
        check_taps(ChannelsLast(), ["mix"], (8, 8))
    assert check_taps(ChannelsLast(), ["mix"], (9, 9)) == {"mix": (8, 9, 9)}


def test_tokens_are_rows_of_the_padded_image() -> None:
    image = torch.rand(2, 5, 16, 24)
    assert torch.equal(as_map(image.flatten(2).mT, 2, (10, 19), "x"), image[..., :10, :19])


def test_what_is_no_tensor_is_refused() -> None:
    with pytest.raises(TapError, match="puts out a tuple"):
        as_map((torch.rand(1, 1, 2, 2),), 1, (2, 2), "x")


def test_a_network_without_blocks_has_no_levels_and_still_has_taps() -> None:
    assert body_blocks(ChannelsLast()) == []
    with pytest.raises(TapError, match=r"no tap 'early'. It has, the nearest first: mix$"):
        resolve(ChannelsLast(), "early")
