"""Files that name the layers of a network in another way, and files of networks that are unknown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mtkd_dist.models import build_network, load_network
from mtkd_dist.models.basicsr_names import official_names
from mtkd_dist.models.closest import closest, key_sets
from mtkd_dist.models.edsr import mean_shift

EDSR, RCAN = "edsr-baseline:width=8,blocks=3", "rcan:groups=2,blocks=3,width=16,reduction=4"

# The modules of the official code -> those of BasicSR, for networks of 3 blocks and 2 groups.
TO_BASICSR = {
    EDSR: {
        r"head\.0": "conv_first",
        r"body\.3": "conv_after_body",
        r"body\.(\d)\.body\.0": r"body.\1.conv1",
        r"body\.(\d)\.body\.2": r"body.\1.conv2",
        r"tail\.0\.(\d)": r"upsample.\1",
        r"tail\.1": "conv_last",
    },
    RCAN: {
        r"head\.0": "conv_first",
        r"body\.2": "conv_after_body",
        r"body\.(\d)\.body\.3": r"body.\1.conv",
        r"body\.(\d)\.body\.(\d)\.body\.([02])": r"body.\1.residual_group.\2.rcab.\3",
        r"body\.(\d)\.body\.(\d)\.body\.3\.conv_du\.0": r"body.\1.residual_group.\2.rcab.3.attention.1",
        r"body\.(\d)\.body\.(\d)\.body\.3\.conv_du\.2": r"body.\1.residual_group.\2.rcab.3.attention.3",
        r"tail\.0\.(\d)": r"upsample.\1",
        r"tail\.1": "conv_last",
    },
}


def official(text: str, scale: int) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return build_network(text, scale).state_dict() | mean_shift(255)


def as_basicsr(state_dict: dict[str, Tensor], text: str) -> dict[str, Tensor]:
    renamed = {}
    for key, value in state_dict.items():
        module, _, parameter = key.rpartition(".")
        for pattern, name in TO_BASICSR[text].items():
            if found := re.fullmatch(pattern, module):
                renamed[f"{found.expand(name)}.{parameter}"] = value
    assert len(renamed) == len(state_dict) - 4  # all but the mean shift
    return renamed


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("text", [EDSR, RCAN])
def test_basicsr_names_mean_the_same_network_as_the_official_ones(tmp_path: Path, text: str, scale: int) -> None:
    ours = official(text, scale)
    torch.save(ours, tmp_path / "official.pt")
    torch.save({"params": as_basicsr(ours, text)}, tmp_path / "basicsr.pth")
    expected, loaded = load_network(tmp_path / "official.pt"), load_network(tmp_path / "basicsr.pth")
    lr = torch.rand(2, 3, 9, 8)
    with torch.no_grad():
        assert torch.equal(loaded.module(lr), expected.module(lr))
    assert (loaded.architecture, loaded.scale, loaded.params, loaded.input_range) == (
        expected.architecture,
        scale,
        expected.params,
        expected.input_range,
    )


def test_an_edsr_that_basicsr_trained_on_0_to_1_is_taken_at_its_word(tmp_path: Path) -> None:
    weights = official(EDSR, 2)
    torch.save(as_basicsr(weights, EDSR), tmp_path / "basicsr.pth")
    own = build_network(EDSR, 2).eval()
    own.load_state_dict({key: value for key, value in weights.items() if "mean" not in key})
    lr = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(load_network(tmp_path / "basicsr.pth", input_range=1).module(lr), own(lr))


MSR_RES_NET = ["conv_first", "body.0.conv1", "body.0.conv2", "upconv1", "upconv2", "conv_hr", "conv_last"]
RRDB = ["conv_first", "body.0.rdb1.conv1", "conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last"]
SWINIR = ["conv_first", "layers.0.residual_group.blocks.0.norm1", "conv_after_body", "upsample.0", "conv_last"]
# An EDSR with something of its own in each block.
EXTENDED = ["conv_first", "body.0.conv1", "body.0.conv2", "body.0.gate", "conv_after_body", "upsample.0", "conv_last"]


@pytest.mark.parametrize("modules", [MSR_RES_NET, RRDB, SWINIR, EXTENDED])
def test_other_networks_that_share_names_are_left_to_spandrel(modules: list[str]) -> None:
    state_dict = {f"{module}.weight": torch.ones(1) for module in modules}
    assert official_names(state_dict).keys() == state_dict.keys()


def test_a_basicsr_file_that_lacks_a_key_is_refused(tmp_path: Path) -> None:
    state_dict = as_basicsr(official(EDSR, 2), EDSR)
    del state_dict["body.1.conv2.bias"]
    torch.save(state_dict, tmp_path / "edsr.pth")
    with pytest.raises(ValueError, match=r"1 missing: body\.1\.body\.2\.bias"):
        load_network(tmp_path / "edsr.pth")


# Unknown files

KNOWN = {"A": [frozenset("abcd")], "B": [frozenset("xy"), frozenset("abxyz")]}


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("ab", ("A", ["c", "d"])),
        ("abx", ("B", ["y", "z"])),
        ("xq", ("B", ["y"])),
        ("abxyz", ("B", [])),
        ("q", None),
    ],
)
def test_the_closest_architecture_has_the_largest_share_of_its_keys(
    keys: str, expected: tuple[str, list[str]] | None
) -> None:
    assert closest(keys, KNOWN) == expected


def test_every_architecture_of_spandrel_says_what_it_is_known_by() -> None:
    build_network(RCAN, 2)
    from spandrel import MAIN_REGISTRY

    for entry in MAIN_REGISTRY:
        sets = key_sets(entry.architecture)
        assert sets, entry.architecture.id
        for keys in sets:
            assert entry.detect(dict.fromkeys(keys)), entry.architecture.id


@pytest.mark.parametrize(
    ("text", "gone", "name"),
    [
        (EDSR, "head.0.weight", "EDSR"),
        (RCAN, "tail.1.weight", "RCAN"),
        ("rlfn:width=8,blocks=2", "conv_1.weight", "RLFN"),
        ("swinir-light:width=12,groups=1,layers=2,heads=3", "layers.0.residual_group.blocks.0.mlp.fc1.bias", "Swin"),
    ],
)
def test_an_unknown_file_is_told_what_it_resembles_and_lacks(tmp_path: Path, text: str, gone: str, name: str) -> None:
    state_dict = build_network(text, 2).state_dict()
    del state_dict[gone]
    torch.save(state_dict, tmp_path / "net.pth")
    with pytest.raises(ValueError, match=rf"Closest is {name}\w*, of which are missing: {re.escape(gone)}\."):
        load_network(tmp_path / "net.pth")


def test_a_file_that_resembles_nothing_is_told_so(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.ones(1)}, tmp_path / "net.pth")
    with pytest.raises(ValueError, match="No known architecture has any of these keys"):
        load_network(tmp_path / "net.pth")
