from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from mtkd_dist.models import build_network, load_network, load_strict, save_network, starting_weights
from tests.nets import TINY, make_job, make_store, make_teacher
from tests.test_weights import official_edsr


def test_a_student_starts_from_the_weights_of_a_file(tmp_path: Path) -> None:
    teacher = make_teacher(tmp_path, "a", seed=5)
    job = dataclasses.replace(make_job(make_store(tmp_path)), start=teacher.path)
    given = load_network(teacher.path).module.state_dict()
    for name, tensor in job.build().state_dict().items():
        assert torch.equal(tensor, given[name]), name


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_an_official_edsr_file_is_converted_to_a_range_of_1_exactly(tmp_path: Path, scale: int) -> None:
    torch.save(official_edsr(scale, 8, 1, 255.0), tmp_path / "edsr.pt")
    network = build_network(TINY, scale)
    load_strict(network, starting_weights(tmp_path / "edsr.pt", TINY, scale), "converted")
    lr = torch.rand(1, 3, 7, 9)
    with torch.no_grad():
        torch.testing.assert_close(network(lr), load_network(tmp_path / "edsr.pt").module(lr), atol=1e-5, rtol=1e-5)


def test_a_file_of_another_network_or_scale_is_refused_naming_both(tmp_path: Path) -> None:
    teacher = make_teacher(tmp_path, "a")
    with pytest.raises(ValueError, match=rf"a\.safetensors: holds {TINY}, expected rlfn"):
        starting_weights(teacher.path, "rlfn", 2)
    with pytest.raises(ValueError, match=r"a\.safetensors: enlarges 2 times, expected 4"):
        starting_weights(teacher.path, TINY, 4)


@pytest.mark.parametrize(
    "text", ["swinir-light:width=12,groups=1,layers=2,heads=2", "rcan:groups=1,blocks=1,width=8,reduction=4"]
)
def test_a_published_file_of_swinir_or_rcan_starts_a_student_of_its_sizes_and_no_other(
    tmp_path: Path, text: str
) -> None:
    published = build_network(text, 2)
    torch.save({"params": published.state_dict()}, tmp_path / "published.pth")
    weights = starting_weights(tmp_path / "published.pth", text, 2)
    for name, tensor in published.state_dict().items():
        assert torch.equal(weights[name], tensor), name
    with pytest.raises(ValueError, match=r"published\.pth: holds a network of architecture .* that is not rlfn"):
        starting_weights(tmp_path / "published.pth", "rlfn", 2)


def test_weights_for_0_to_255_that_cannot_be_converted_are_refused(tmp_path: Path) -> None:
    text = "rlfn:width=8,blocks=2"
    save_network(tmp_path / "ours.safetensors", build_network(text, 2), {"network": text, "scale": "2"})
    starting_weights(tmp_path / "ours.safetensors", text, 2)
    torch.save(build_network(text, 2).state_dict(), tmp_path / "published.pt")
    with pytest.raises(ValueError, match=r"published\.pt: was trained on values in \[0,255\].*cannot be converted"):
        starting_weights(tmp_path / "published.pt", text, 2)
