"""How images are padded for the networks of others: as little as the network itself asks for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import pixel_unshuffle

from mtkd_dist.metrics import score, to_uint8
from mtkd_dist.models import build_network, load_network
from mtkd_dist.models.spandrel_adapter import SpandrelNetwork, recognise


class Enlarges(nn.Module):
    """x2 by nearest neighbour; keeps the sizes that it was asked to enlarge."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, lr: Tensor) -> Tensor:
        self.sizes.append(tuple(lr.shape[-2:]))
        return lr.repeat_interleave(2, -1).repeat_interleave(2, -2)


class FailsUnlessAMultipleOf4(Enlarges):
    def forward(self, lr: Tensor) -> Tensor:
        pixel_unshuffle(lr, 4)
        return super().forward(lr)


class DropsWhatIsNoMultipleOf4(Enlarges):
    def forward(self, lr: Tensor) -> Tensor:
        height, width = lr.shape[-2:]
        return super().forward(lr[..., : height - height % 4, : width - width % 4])


def recognised(network: nn.Module, minimum: int = 0, multiple_of: int = 4, square: bool = False) -> SpandrelNetwork:
    from spandrel import SizeRequirements

    return SpandrelNetwork(
        SimpleNamespace(
            model=network,
            architecture=SimpleNamespace(id="Fake"),
            scale=2,
            size_requirements=SizeRequirements(minimum, multiple_of, square),
            _call_fn=lambda model, lr: model(lr),
        )
    )


@pytest.fixture(scope="module", autouse=True)
def spandrel_is_importable() -> None:
    build_network("rcan:groups=1,blocks=1,width=8,reduction=4", 2)


def test_a_network_that_takes_every_size_gets_the_image_as_it_is() -> None:
    network = Enlarges()
    assert recognised(network)(torch.rand(1, 3, 9, 14)).shape == (1, 3, 18, 28)
    assert network.sizes[-1] == (9, 14)


@pytest.mark.parametrize("kind", [FailsUnlessAMultipleOf4, DropsWhatIsNoMultipleOf4])
def test_a_network_that_needs_a_multiple_gets_a_padded_image(kind: type[Enlarges]) -> None:
    network = kind()
    lr = torch.rand(1, 3, 9, 14)
    assert torch.equal(recognised(network)(lr), Enlarges()(lr))
    assert network.sizes[-1] == (12, 16)


def test_a_network_for_squares_gets_squares() -> None:
    network = Enlarges()
    recognised(network, square=True)(torch.rand(1, 3, 9, 14))
    assert network.sizes[-1] == (16, 16)


def test_the_smallest_size_is_kept_to_also_where_the_multiple_is_not() -> None:
    network = Enlarges()
    recognised(network, minimum=16)(torch.rand(1, 3, 9, 18))
    assert network.sizes[-1] == (16, 18)


@pytest.mark.parametrize("size", [(17, 20), (32, 16)])
def test_craft_answers_as_without_any_padding_of_ours(size: tuple[int, int]) -> None:
    from spandrel.architectures.CRAFT import CRAFT

    torch.manual_seed(0)
    bare = CRAFT(embed_dim=12, depths=[1], num_heads=[2], upscale=2).eval()
    lr = torch.rand(1, 3, *size)
    with torch.no_grad():
        assert torch.equal(recognise(bare.state_dict(), "craft.pth")(lr), bare(lr))


def test_craft_reaches_its_published_score_on_set5(shared_dir: Path) -> None:
    teacher = load_network(shared_dir / "weights" / "CRAFT_x4_ntire2024_team34.pth", scale=4).module
    scores = []
    for path in sorted((shared_dir / "data" / "test" / "Set5" / "HR").glob("*.png")):
        hr = np.array(Image.open(path).convert("RGB"))
        lr = np.array(Image.open(path.parents[1] / "LR_bicubic" / "X4" / f"{path.stem}x4.png").convert("RGB"))
        sr = to_uint8(teacher(torch.from_numpy(lr).permute(2, 0, 1)[None].float() / 255)[0])
        scores.append(score(sr, hr[: sr.shape[0], : sr.shape[1]], 4))
    psnr, ssim = np.mean(scores, axis=0)
    assert len(scores) == 5
    assert psnr == pytest.approx(32.42, abs=0.01)
    assert ssim == pytest.approx(0.8973, abs=0.0005)
