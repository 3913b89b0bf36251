"""RLFN (Kong et al., "Residual Local Feature Network for Efficient Super-Resolution", CVPRW 2022).

Keys are those of the official files: `conv_1`, `block_N.{c1_r,c2_r,c3_r,c5,esa.*}`, `conv_2`, `upsampler.0`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, leaky_relu, max_pool2d

from mtkd_dist.models.padding import pad_bottom_right, shortfall
from mtkd_dist.models.sizes import check_scale, require_positive

_MINIMUM = 15
"""Smallest side in pixels for which the attention's strided convolution and its 7x7 pooling leave one value."""

RLFN_KEYS = frozenset({"conv_1.weight", "block_1.c1_r.weight", "block_1.esa.conv_f.weight", "upsampler.0.weight"})
"""Keys by which an RLFN is known."""


@dataclass(frozen=True)
class RLFNSizes:
    width: int = 52
    blocks: int = 6

    def __post_init__(self) -> None:
        require_positive(self, "width", "blocks")


class RLFN(nn.Module):
    """Plain convolutions with spatial attention at LR size, then one pixel shuffle.

    (B,3,h,w) float RGB -> (B,3,s*h,s*w), unclamped; any h and w. Values are in the range of training: [0,1] for our
    own networks, [0,255] for official files (`load_network` scales those).
    """

    def __init__(self, scale: int, width: int = 52, blocks: int = 6) -> None:
        super().__init__()
        check_scale(scale)
        self.scale = scale
        self.blocks = blocks
        self.conv_1 = nn.Conv2d(3, width, 3, padding=1)
        for number in range(1, blocks + 1):
            self.add_module(f"block_{number}", _LocalFeatureBlock(width))
        self.conv_2 = nn.Conv2d(width, width, 3, padding=1)
        self.upsampler = nn.Sequential(nn.Conv2d(width, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale))

    def forward(self, lr: Tensor) -> Tensor:
        height, width = lr.shape[-2:]
        lr = pad_bottom_right(lr, shortfall(height, _MINIMUM), shortfall(width, _MINIMUM))
        shallow = self.conv_1(lr)
        deep = shallow
        for number in range(1, self.blocks + 1):
            deep = self.get_submodule(f"block_{number}")(deep)
        sr = self.upsampler(self.conv_2(deep) + shallow)
        return sr[..., : height * self.scale, : width * self.scale]


def describe_rlfn(state_dict: Mapping[str, Tensor]) -> tuple[str, int] | None:
    """(network text, scale) of an RLFN state dict, or None where it is not one."""
    if not state_dict.keys() >= RLFN_KEYS:
        return None
    width = state_dict["conv_1.weight"].shape[0]
    blocks = len({key for key in state_dict if key.endswith(".c1_r.weight")})
    return f"rlfn:width={width},blocks={blocks}", isqrt(state_dict["upsampler.0.weight"].shape[0] // 3)


class _LocalFeatureBlock(nn.Module):
    """Three activated 3x3 convolutions with a skip, a 1x1 convolution, spatial attention."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c1_r = nn.Conv2d(width, width, 3, padding=1)
        self.c2_r = nn.Conv2d(width, width, 3, padding=1)
        self.c3_r = nn.Conv2d(width, width, 3, padding=1)
        self.c5 = nn.Conv2d(width, width, 1)
        self.esa = _SpatialAttention(width)

    def forward(self, features: Tensor) -> Tensor:
        local = features
        for conv in (self.c1_r, self.c2_r, self.c3_r):
            local = leaky_relu(conv(local), 0.05)
        return self.esa(self.c5(local + features))


class _SpatialAttention(nn.Module):
    """ESA: weights in (0,1) per pixel and channel, from a coarse pooled map and the full map, both 16 channels wide."""

    def __init__(self, width: int, narrow: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, narrow, 1)
        self.conv_f = nn.Conv2d(narrow, narrow, 1)
        self.conv2 = nn.Conv2d(narrow, narrow, 3, stride=2)
        self.conv3 = nn.Conv2d(narrow, narrow, 3, padding=1)
        self.conv4 = nn.Conv2d(narrow, width, 1)

    def forward(self, features: Tensor) -> Tensor:
        fine = self.conv1(features)
        coarse = self.conv3(max_pool2d(self.conv2(fine), kernel_size=7, stride=3))
        coarse = interpolate(coarse, features.shape[-2:], mode="bilinear", align_corners=False)
        return features * torch.sigmoid(self.conv4(coarse + self.conv_f(fine)))
