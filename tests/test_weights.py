"""Network files: what is read, what is refused, and that a real teacher answers as published."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from mtkd_dist.metrics import psnr_y, to_uint8
from mtkd_dist.models import (
    WeightsMismatch,
    build_network,
    check_input_range,
    digest_file,
    load_network,
    load_strict,
    read_metadata,
    read_state_dict,
    save_network,
)
from mtkd_dist.models.edsr import RGB_MEAN

SMALL = (
    "edsr-baseline:width=8,blocks=2,res_scale=0.5",
    "rcan:groups=1,blocks=1,width=8,reduction=4",
    "swinir-light:width=12,groups=1,layers=2,heads=3",
    "rlfn:width=8,blocks=2",
)
TENSORS = {"a.weight": torch.ones(2, 2), "a.bias": torch.zeros(2)}

DCTLSA, CRAFT, RLFN = "DCTLSA_x4.pt", "CRAFT_x4_ntire2024_team34.pth", "rlfn_x4.pth"


class RunsCode:
    """Unpickling this would run code of its own."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.getcwd, ())


def official_edsr(scale: int, width: int, blocks: int, value_range: float) -> dict[str, Tensor]:
    """A state dict as the authors' code writes it, with random weights."""
    network = build_network(f"edsr-baseline:width={width},blocks={blocks}", scale)
    shift = value_range * torch.tensor(RGB_MEAN)
    eye = torch.eye(3).view(3, 3, 1, 1)
    mean_shift = {"sub_mean.weight": eye, "sub_mean.bias": -shift, "add_mean.weight": eye, "add_mean.bias": shift}
    return {**network.state_dict(), **mean_shift}


# Reading


@pytest.mark.parametrize("wrapper", ["params_ema", "params", "state_dict", "model"])
def test_weights_are_found_under_the_usual_names(tmp_path: Path, wrapper: str) -> None:
    torch.save({"step": 3, wrapper: TENSORS}, tmp_path / "net.pth")
    assert read_state_dict(tmp_path / "net.pth").keys() == TENSORS.keys()


def test_equal_networks_are_equal_files(tmp_path: Path) -> None:
    metadata = {name: name for name in ("network", "scale", "method", "teachers", "step", "psnr")}
    network = build_network(SMALL[0], 2)
    for i in range(5):
        save_network(tmp_path / f"{i}.safetensors", network, dict(reversed(metadata.items())) if i else metadata)
    assert len({digest_file(tmp_path / f"{i}.safetensors") for i in range(5)}) == 1
    assert read_metadata(tmp_path / "0.safetensors") == metadata
    found = read_state_dict(tmp_path / "0.safetensors")
    assert all(torch.equal(tensor, found[name]) for name, tensor in network.state_dict().items())


def test_a_file_without_metadata_can_be_written(tmp_path: Path) -> None:
    save_network(tmp_path / "bare.safetensors", build_network(SMALL[0], 2), {})
    assert read_metadata(tmp_path / "bare.safetensors") == {}


def test_averaged_weights_are_preferred_to_the_last_ones(tmp_path: Path) -> None:
    torch.save({"params": {"a": torch.zeros(1)}, "params_ema": {"a": torch.ones(1)}}, tmp_path / "net.pth")
    assert read_state_dict(tmp_path / "net.pth")["a"].item() == 1


def test_the_prefix_of_a_parallel_wrapper_is_dropped(tmp_path: Path) -> None:
    torch.save({f"module.{key}": value for key, value in TENSORS.items()}, tmp_path / "net.pth")
    assert read_state_dict(tmp_path / "net.pth").keys() == TENSORS.keys()


def test_a_prefix_that_only_some_keys_have_stays(tmp_path: Path) -> None:
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "net.pth")
    assert set(read_state_dict(tmp_path / "net.pth")) == {"module.a", "b"}


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "net.safetensors")
    assert torch.equal(read_state_dict(tmp_path / "net.safetensors")["a.weight"], TENSORS["a.weight"])


def test_a_file_that_holds_code_is_refused(tmp_path: Path) -> None:
    torch.save({"params": TENSORS, "extra": RunsCode()}, tmp_path / "net.pth")
    with pytest.raises(ValueError, match=r"net\.pth: refused, because reading it would run code"):
        read_state_dict(tmp_path / "net.pth")


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
def test_a_file_of_another_kind_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"a text, not weights, of some length")
    with pytest.raises(ValueError, match=name):
        read_state_dict(tmp_path / name)


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n" + bytes(60), b"a text, not weights"])
def test_a_picture_or_a_text_is_no_weight_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "photo.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"photo\.png: this is no weight file; expected safetensors, or what torch"):
        read_state_dict(tmp_path / "photo.png")


@pytest.mark.parametrize("name", ["net.onnx", "net.pt2"])
def test_of_what_an_export_writes_the_weights_beside_it_are_proposed(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"is no weight file; give the net\.safetensors that `mtkd export"):
        read_state_dict(tmp_path / name)
    save_file(TENSORS, tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match=r"is no weight file; give \S*/net\.safetensors, which lies beside it"):
        read_state_dict(tmp_path / name)


def test_a_file_that_was_cut_short_is_named(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_file(TENSORS, path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"net\.safetensors: not a readable weights file"):
        read_state_dict(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.pth: there is no such file"):
        load_network(tmp_path / "absent.pth")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (torch.ones(3), r"expected tensors by name .*, found a Tensor"),
        ({}, r"expected tensors by name .*, found nothing"),
        ({"epoch": 3, "a": torch.ones(1)}, r"'epoch' holds a int, expected a tensor"),
        ({"params": {}}, r"expected tensors by name .*, found nothing"),
    ],
)
def test_something_else_than_a_state_dict_is_refused(tmp_path: Path, content: Any, said: str) -> None:
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(ValueError, match=said):
        read_state_dict(tmp_path / "net.pth")


# Strict loading


def test_a_fitting_state_dict_is_loaded() -> None:
    layer = nn.Linear(2, 2)
    load_strict(layer, {"weight": torch.ones(2, 2), "bias": torch.ones(2)}, "x.pth")
    assert layer.weight.sum().item() == 4


def test_every_difference_of_keys_and_shapes_is_listed() -> None:
    layer = nn.Linear(2, 2)
    before = layer.weight.clone()
    with pytest.raises(WeightsMismatch) as caught:
        load_strict(layer, {"weight": torch.ones(3, 2), "gain": torch.ones(1)}, "x.pth")
    said = str(caught.value)
    assert "x.pth does not fit Linear (2 keys)" in said
    assert "1 missing: bias" in said
    assert "1 unexpected: gain" in said
    assert "1 misshapen: weight (3, 2) instead of (2, 2)" in said
    assert torch.equal(layer.weight, before)


def test_a_long_list_of_keys_is_cut_and_counted() -> None:
    layer = nn.Linear(2, 2, bias=False)
    state_dict = {"weight": torch.ones(2, 2), **{f"k{i}": torch.ones(1) for i in range(20)}}
    with pytest.raises(WeightsMismatch, match="20 unexpected: k0, k1, k2, k3, k4 and 15 more"):
        load_strict(layer, state_dict, "x.pth")


# Our own files


@pytest.mark.parametrize("text", SMALL)
def test_a_saved_network_comes_back_as_it_was(tmp_path: Path, text: str) -> None:
    network = build_network(text, 2).eval()
    path = tmp_path / "student.safetensors"
    save_network(path, network, {"network": text, "scale": "2", "note": "kept"})
    loaded = load_network(path, scale=2)
    lr = torch.rand(1, 3, 11, 17)
    with torch.no_grad():
        assert torch.equal(loaded.module(lr), network(lr))
    assert (loaded.architecture, loaded.scale, loaded.input_range) == (text, 2, 1.0)
    assert read_metadata(path)["note"] == "kept"


def test_a_loaded_network_is_frozen(tmp_path: Path) -> None:
    save_network(tmp_path / "n.safetensors", build_network(SMALL[0], 2), {"network": SMALL[0], "scale": "2"})
    module = load_network(tmp_path / "n.safetensors").module
    assert not module.training
    assert not [name for name, parameter in module.named_parameters() if parameter.requires_grad]


def test_half_precision_weights_are_saved_as_float32(tmp_path: Path) -> None:
    save_network(tmp_path / "n.safetensors", nn.Linear(2, 2).half(), {})
    assert {tensor.dtype for tensor in read_state_dict(tmp_path / "n.safetensors").values()} == {torch.float32}


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "n.safetensors"
    save_network(path, nn.Linear(2, 2), {})
    digest = digest_file(path)
    with pytest.raises(TypeError):
        save_network(path, nn.Linear(3, 3), {"scale": 2})  # type: ignore[dict-item]
    assert digest_file(path) == digest
    assert list(tmp_path.iterdir()) == [path]


def test_metadata_that_names_no_network_is_refused(tmp_path: Path) -> None:
    save_network(tmp_path / "n.safetensors", build_network(SMALL[0], 2), {"network": "edrs", "scale": "2"})
    with pytest.raises(ValueError, match=r"n\.safetensors: its metadata .* unknown network 'edrs'"):
        load_network(tmp_path / "n.safetensors")


def test_metadata_of_another_size_than_the_weights_is_refused(tmp_path: Path) -> None:
    text = "edsr-baseline:width=16,blocks=2"
    save_network(tmp_path / "n.safetensors", build_network(SMALL[0], 2), {"network": text, "scale": "2"})
    with pytest.raises(WeightsMismatch, match=r"misshapen: head\.0\.weight"):
        load_network(tmp_path / "n.safetensors")


def test_a_file_of_another_scale_is_refused(tmp_path: Path) -> None:
    save_network(tmp_path / "n.safetensors", build_network(SMALL[0], 2), {"network": SMALL[0], "scale": "2"})
    with pytest.raises(ValueError, match=r"n\.safetensors: enlarges 2 times, expected 4"):
        load_network(tmp_path / "n.safetensors", scale=4)


def test_metadata_of_a_torch_file_is_empty(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "net.pth")
    assert read_metadata(tmp_path / "net.pth") == {}


def test_a_digest_is_the_sha256_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert digest_file(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# Files of others


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_an_official_edsr_file_is_recognised_and_runs_on_0_to_255(tmp_path: Path, scale: int) -> None:
    state_dict = official_edsr(scale, width=8, blocks=3, value_range=255)
    torch.save(state_dict, tmp_path / "edsr.pt")
    loaded = load_network(tmp_path / "edsr.pt")
    assert (loaded.architecture, loaded.scale) == ("edsr-baseline:width=8,blocks=3", scale)
    assert loaded.input_range == 255
    assert loaded.params == sum(v.numel() for k, v in state_dict.items() if "mean" not in k)
    own = build_network("edsr-baseline:width=8,blocks=3", scale).eval()
    load_strict(own, {key: value for key, value in state_dict.items() if "mean" not in key}, "x")
    lr = torch.rand(1, 3, 9, 8)
    mean = torch.tensor(RGB_MEAN).view(1, 3, 1, 1)
    # The official forward: on 0..255, mean colour off, network, mean colour on.
    with torch.no_grad():
        expected = (own(255 * (lr - mean) + mean) - mean) / 255 + mean
        torch.testing.assert_close(loaded.module(lr), expected)


def test_wide_edsr_files_get_the_published_residual_scale(tmp_path: Path) -> None:
    torch.save(official_edsr(2, width=256, blocks=1, value_range=255), tmp_path / "edsr.pt")
    assert load_network(tmp_path / "edsr.pt").architecture == "edsr:blocks=1"


def test_an_edsr_file_with_another_mean_colour_is_refused(tmp_path: Path) -> None:
    state_dict = official_edsr(2, width=8, blocks=1, value_range=255)
    state_dict["sub_mean.bias"] = torch.tensor([-100.0, -120.0, -103.0])
    torch.save(state_dict, tmp_path / "edsr.pt")
    with pytest.raises(ValueError, match=r"sub_mean\.bias is .*another mean colour"):
        load_network(tmp_path / "edsr.pt")


def test_an_official_rcan_file_is_recognised_through_spandrel(tmp_path: Path) -> None:
    network = build_network("rcan:groups=2,blocks=1,width=8,reduction=4", 2).eval()
    torch.save(network.state_dict(), tmp_path / "rcan.pt")
    loaded = load_network(tmp_path / "rcan.pt")
    lr = torch.rand(2, 3, 9, 8)
    before = lr.clone()
    with torch.no_grad():
        torch.testing.assert_close(loaded.module(lr), network(lr))
    assert (loaded.architecture, loaded.scale, loaded.input_range) == ("RCAN", 2, 1)
    assert torch.equal(lr, before)


def test_a_swinir_file_is_recognised_and_takes_images_smaller_than_a_window(tmp_path: Path) -> None:
    network = build_network("swinir-light:width=12,groups=1,layers=2,heads=3", 3)
    torch.save({"params": network.state_dict()}, tmp_path / "swinir.pth")
    loaded = load_network(tmp_path / "swinir.pth")
    assert (loaded.architecture, loaded.scale) == ("SwinIR", 3)
    with torch.no_grad():
        assert loaded.module(torch.rand(1, 3, 5, 7)).shape == (1, 3, 15, 21)


def test_unknown_keys_are_shown_beside_what_is_known(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "net.pth")
    with pytest.raises(
        ValueError, match=r"unknown architecture; its 2 keys begin with a\.weight, a\.bias.*EDSR.*SwinIR"
    ):
        load_network(tmp_path / "net.pth")


def test_a_single_unknown_key_is_told_in_the_singular(tmp_path: Path) -> None:
    torch.save({"alone": torch.ones(1)}, tmp_path / "net.pth")
    with pytest.raises(ValueError, match=r"unknown architecture; its only key is alone\."):
        load_network(tmp_path / "net.pth")


def test_a_known_architecture_that_lacks_a_key_is_refused(tmp_path: Path) -> None:
    state_dict = build_network("rcan:groups=1,blocks=1,width=8,reduction=4", 2).state_dict()
    del state_dict["body.1.bias"]
    torch.save(state_dict, tmp_path / "rcan.pt")
    with pytest.raises(ValueError, match=r"rcan\.pt: spandrel took it for a known architecture .*body\.1\.bias"):
        load_network(tmp_path / "rcan.pt")


def test_an_impossible_input_range_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="input_range=0 must be a number above 0"):
        load_network(tmp_path / "net.pth", input_range=0)


# Real teachers


def photograph(path: Path) -> Tensor:
    """(1,3,h,w) float32 in [0,1]."""
    with Image.open(path) as image:
        pixels = np.array(image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


@pytest.fixture(scope="session")
def bird(shared_dir: Path) -> tuple[Tensor, np.ndarray]:
    """LR (1,3,h,w) float and HR (4h,4w,3) uint8 of Set5's bird at x4."""
    set5 = shared_dir / "data" / "test" / "Set5"
    hr = to_uint8(photograph(set5 / "HR" / "bird.png"))[0]
    return photograph(set5 / "LR_bicubic" / "X4" / "birdx4.png"), hr


@pytest.mark.parametrize(
    ("file", "architecture", "params", "input_range"),
    [(DCTLSA, "DCTLSA", 885_328, 1), (CRAFT, "CRAFT", 753_344, 1), (RLFN, "rlfn", 543_740, 255)],
)
def test_a_published_teacher_reaches_its_quality(
    shared_dir: Path,
    bird: tuple[Tensor, np.ndarray],
    file: str,
    architecture: str,
    params: int,
    input_range: float,
) -> None:
    lr, hr = bird
    teacher = load_network(shared_dir / "weights" / file, scale=4)
    before = lr.clone()
    sr = teacher.module(lr)
    assert (teacher.architecture, teacher.params, teacher.input_range) == (architecture, params, input_range)
    assert torch.equal(lr, before)
    # Bicubic enlargement gives 30.2 dB; these three give 35.0-35.1 dB.
    assert 34.5 < psnr_y(to_uint8(sr[0]), hr, 4) < 36


@pytest.mark.parametrize("file", [DCTLSA, CRAFT, RLFN])
def test_the_right_range_passes_and_the_wrong_one_is_named(
    shared_dir: Path, bird: tuple[Tensor, np.ndarray], file: str
) -> None:
    lr = bird[0][..., :48, :48]
    right = load_network(shared_dir / "weights" / file)
    assert check_input_range(right.module, lr, 4, "mine", right.input_range) > 40
    wrong_range = 256.0 - right.input_range
    wrong = load_network(shared_dir / "weights" / file, input_range=wrong_range)
    said = f"teacher 'mine': .* at input_range={wrong_range:g}.*Give it as FILE:input_range={right.input_range:g}"
    with pytest.raises(ValueError, match=said):
        check_input_range(wrong.module, lr, 4, "mine", wrong_range)


def test_an_untrained_network_is_no_teacher(bird: tuple[Tensor, np.ndarray]) -> None:
    network = build_network(SMALL[0], 4)
    with pytest.raises(ValueError, match=r"expected 25 dB or more.*no trained x4 network"):
        check_input_range(network, bird[0][..., :32, :32], 4, "raw", 1.0)


def test_rlfn_x2_loads_strictly(shared_dir: Path) -> None:
    assert load_network(shared_dir / "weights" / "rlfn_x2.pth", scale=2).params == 526_856


@pytest.mark.parametrize("file", [DCTLSA, CRAFT, RLFN])
def test_a_published_teacher_takes_odd_sizes(shared_dir: Path, file: str) -> None:
    teacher = load_network(shared_dir / "weights" / file)
    with torch.no_grad():
        assert teacher.module(torch.rand(2, 3, 9, 17)).shape == (2, 3, 36, 68)
