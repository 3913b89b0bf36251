"""EDSR (Lim et al., "Enhanced Deep Residual Networks for Single Image Super-Resolution", CVPRW 2017).

Keys are those of the official code: `head.0`, `body.N.body.0|2`, `body.BLOCKS`, `tail.0.*`, `tail.1`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mtkd_dist.models.sizes import check_scale, require_positive

RGB_MEAN = (0.4488, 0.4371, 0.4040)
"""Mean colour of DIV2K, R, G, B in [0,1]."""

MEAN_SHIFT_KEYS = frozenset({"sub_mean.weight", "sub_mean.bias", "add_mean.weight", "add_mean.bias"})
"""What official files hold beside the weights: the mean shift as two frozen 1x1 convolutions."""

EDSR_KEYS = frozenset({"head.0.weight", "body.0.body.0.weight", "body.0.body.2.weight", "tail.1.weight"})
"""Keys by which an EDSR is known."""


@dataclass(frozen=True)
class EDSRSizes:
    width: int = 64
    blocks: int = 16
    res_scale: float = 1.0

    def __post_init__(self) -> None:
        require_positive(self, "width", "blocks", "res_scale")


class EDSR(nn.Module):
    """Residual blocks without normalisation at LR size, then pixel shuffle.

    (B,3,h,w) float RGB in [0,`value_range`] -> (B,3,s*h,s*w), unclamped; any h and w. `value_range` only sets the
    mean colour that is taken off and put back: 1 for our own networks, 255 for official files.
    """

    mean: Tensor

    def __init__(
        self, scale: int, width: int = 64, blocks: int = 16, res_scale: float = 1.0, value_range: float = 1.0
    ) -> None:
        super().__init__()
        check_scale(scale)
        # Not in the state dict: a constant that official files name differently and our own need not carry.
        self.register_buffer("mean", value_range * torch.tensor(RGB_MEAN).view(1, 3, 1, 1), persistent=False)
        self.head = nn.Sequential(_conv(3, width))
        self.body = nn.Sequential(*(_ResidualBlock(width, res_scale) for _ in range(blocks)), _conv(width, width))
        self.tail = nn.Sequential(_upsampler(scale, width), _conv(width, 3))

    def forward(self, lr: Tensor) -> Tensor:
        features = self.head(lr - self.mean)
        return self.tail(features + self.body(features)) + self.mean


def describe_edsr(state_dict: Mapping[str, Tensor]) -> tuple[str, int] | None:
    """(network text, scale) of an EDSR state dict without our metadata, or None where it is not one.

    The residual scale leaves no trace in a file: 0.1 is taken for width 256 and 1 for all others, which is what the
    two published networks have.
    """
    if not state_dict.keys() >= EDSR_KEYS:
        return None
    width = state_dict["head.0.weight"].shape[0]
    blocks = len({key for key in state_dict if key.startswith("body.") and key.endswith(".body.0.weight")})
    scale = 4 if "tail.0.2.weight" in state_dict else 2
    if "tail.0.0.weight" in state_dict and state_dict["tail.0.0.weight"].shape[0] == 9 * width:
        scale = 3
    return f"{'edsr' if width == 256 else 'edsr-baseline'}:width={width},blocks={blocks}", scale


def mean_shift(value_range: float) -> dict[str, Tensor]:
    """What official files for values in [0,`value_range`] hold under `MEAN_SHIFT_KEYS`."""
    identity, mean = torch.eye(3).view(3, 3, 1, 1), value_range * torch.tensor(RGB_MEAN)
    return {"sub_mean.weight": identity, "sub_mean.bias": -mean, "add_mean.weight": identity, "add_mean.bias": mean}


def mean_shift_range(state_dict: Mapping[str, Tensor]) -> float:
    """The value range (255 in official files) for which the mean shift of an official state dict was made.

    Raises ValueError where the shift is not the mean colour of DIV2K times one number, put back as it was taken off.
    """
    value_range = round(float(state_dict["add_mean.bias"].sum() / sum(RGB_MEAN)), 2)
    for key, value in mean_shift(value_range).items():
        if not torch.allclose(state_dict[key].float(), value, rtol=1e-3, atol=1e-5):
            raise ValueError(
                f"{key} is {state_dict[key].flatten().tolist()}, expected about {value.flatten().tolist()}: "
                "an EDSR with another mean colour or a colour deviation other than 1 is not supported"
            )
    return value_range


class _ResidualBlock(nn.Module):
    def __init__(self, width: int, res_scale: float) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv(width, width), nn.ReLU(inplace=True), _conv(width, width))
        self.res_scale = res_scale

    def forward(self, features: Tensor) -> Tensor:
        return features + self.res_scale * self.body(features)


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size=3, padding=1)


def _upsampler(scale: int, width: int) -> nn.Sequential:
    factors = (2, 2) if scale == 4 else (scale,)
    return nn.Sequential(*(m for f in factors for m in (_conv(width, f * f * width), nn.PixelShuffle(f))))
