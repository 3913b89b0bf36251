"""DCTSwin, the network that turns the images of N teachers into one (Jiang et al., MTKD, ECCV 2024, arXiv 2404.09571).

Layer by layer as the released code of the authors has it, with two improvements that are on by default:

- `mean_skip`: the network corrects the mean of the teachers, and begins as exactly that mean. Without it, the image
  has to be learned first: benchmarks/results/recipe.md has both after the same steps.
- `mask`: what is done in windows that the cyclic shift puts together from opposite edges of the image.
  "separate": every frequency of such a window attends to itself alone. What is left is linear in each pixel, so
  nothing passes from one edge to the other. "swin": the mask of Swin, as the paper has it, between tokens that are
  frequencies of the whole window and belong to no region: it separates nothing. "none": such windows are as others.
  (In the released code the regions of the mask go through the DCT themselves, by accident; nothing here does that.)

`mask=swin,mean_skip=false` is the network of the paper. Neither changes what the state dict holds.

Tensor names: B batch, N teachers, s scale, H W size in HR pixels, C width, n window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, pixel_unshuffle, scaled_dot_product_attention

from mtkd_dist.models.dct import DCTNorm, WindowDCT
from mtkd_dist.models.edsr import RGB_MEAN
from mtkd_dist.models.padding import pad_bottom_right, shortfall
from mtkd_dist.models.shifted_windows import mixed_windows, region_mask
from mtkd_dist.models.sizes import NetworkSpec, check_scale, parse_spec, require_divisible, require_positive

WindowMask = Literal["separate", "swin", "none"]

_HEAD_WIDTH = 64


@dataclass(frozen=True)
class DCTSwinSizes:
    width: int = 96
    groups: int = 2
    layers: int = 4
    heads: int = 6
    window: int = 8
    mlp_ratio: int = 2
    dct_norm: DCTNorm = "none"
    mask: WindowMask = "separate"
    mean_skip: bool = True
    drop_path: float = 0.1

    def __post_init__(self) -> None:
        require_positive(self, "width", "groups", "layers", "heads", "mlp_ratio")
        require_divisible(self.width, self.heads)
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path={self.drop_path} must be at least 0 and below 1")
        if self.window < 2:
            raise ValueError(f"window={self.window} must be at least 2")


class DCTSwin(nn.Module):
    """(B,N,3,H,W) float, teacher images in [0,1] (unclamped) -> (B,3,H,W), unclamped; H and W any multiples of s.

    With `mean_skip` the network adds a correction to the mean of the teachers; its last layer starts at zero, so an
    untrained aggregator is exactly that mean. Without it the network synthesises the whole image, in the paper's
    domain: output / 255 + mean colour of DIV2K.
    """

    rgb_mean: Tensor

    def __init__(
        self,
        num_teachers: int,
        scale: int,
        width: int = 96,
        groups: int = 2,
        layers: int = 4,
        heads: int = 6,
        window: int = 8,
        mlp_ratio: int = 2,
        dct_norm: DCTNorm = "none",
        mask: WindowMask = "separate",
        mean_skip: bool = True,
        drop_path: float = 0.1,
    ) -> None:
        super().__init__()
        check_scale(scale)
        if num_teachers < 1:
            raise ValueError(f"an aggregator needs at least 1 teacher, got {num_teachers}")
        self.num_teachers, self.scale, self.window, self.mean_skip = num_teachers, scale, window, mean_skip
        self.register_buffer("rgb_mean", torch.tensor(RGB_MEAN).view(1, 3, 1, 1), persistent=False)

        self.conv_first = nn.Conv2d(3 * num_teachers * scale**2, width, 3, padding=1)
        self.token_norm = nn.LayerNorm(width)
        deepest = max(groups * layers - 1, 1)
        self.groups = nn.ModuleList(
            _ResidualGroup(
                [
                    DCTSwinLayer(
                        width,
                        heads,
                        window,
                        mlp_ratio,
                        dct_norm,
                        mask,
                        shift=window // 2 if layer % 2 else 0,
                        drop_path=drop_path * (group * layers + layer) / deepest,
                    )
                    for layer in range(layers)
                ],
                width,
            )
            for group in range(groups)
        )
        self.body_norm = nn.LayerNorm(width)
        self.conv_after_body = nn.Conv2d(width, width, 3, padding=1)
        self.conv_before_upsample = nn.Conv2d(width, _HEAD_WIDTH, 3, padding=1)
        self.upsample = nn.Sequential(
            *(
                part
                for factor in ((2, 2) if scale == 4 else (scale,))
                for part in (nn.Conv2d(_HEAD_WIDTH, factor**2 * _HEAD_WIDTH, 3, padding=1), nn.PixelShuffle(factor))
            )
        )
        self.conv_last = nn.Conv2d(_HEAD_WIDTH, 3, 3, padding=1)

        self.apply(_init_linear)
        if mean_skip:
            nn.init.zeros_(self.conv_last.weight)
            nn.init.zeros_(self.conv_last.bias)  # type: ignore[arg-type]

    def forward(self, stack: Tensor) -> Tensor:
        _, teachers, _, height, width = stack.shape
        if teachers != self.num_teachers:
            raise ValueError(f"this aggregator was built for {self.num_teachers} teachers, got a stack of {teachers}")
        if height % self.scale or width % self.scale:
            raise ValueError(f"images of {height}x{width} pixels are not a multiple of the scale {self.scale}")
        multiple = self.window * self.scale
        images = pad_bottom_right(
            stack.flatten(1, 2), shortfall(height, multiple=multiple), shortfall(width, multiple=multiple)
        )
        shallow = self.conv_first(pixel_unshuffle(images, self.scale))
        deep = self.conv_after_body(self._body(shallow)) + shallow
        output = self.conv_last(self.upsample(leaky_relu(self.conv_before_upsample(deep))))
        output = output[..., :height, :width]
        if self.mean_skip:
            return stack.mean(dim=1) + output
        return output / 255 + self.rgb_mean

    def _body(self, features: Tensor) -> Tensor:
        tokens = self.token_norm(features.permute(0, 2, 3, 1))
        for group in self.groups:
            tokens = group(tokens)
        return self.body_norm(tokens).permute(0, 3, 1, 2)


class DCTSwinLayer(nn.Module):
    """Attention among the 64 frequencies of each window, then an MLP per pixel; (B,h,w,C) -> (B,h,w,C) at LR size."""

    def __init__(
        self,
        width: int,
        heads: int,
        window: int,
        mlp_ratio: int,
        dct_norm: DCTNorm,
        mask: WindowMask,
        shift: int,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.window, self.mask, self.shift, self.drop_path = window, mask, shift, drop_path
        self.norm1 = nn.LayerNorm(width)
        self.dct = WindowDCT(window, dct_norm)
        self.attention = _FrequencyAttention(width, heads, window)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, mlp_ratio * width), nn.GELU(), nn.Linear(mlp_ratio * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self._drop(self._attend(self.norm1(tokens)))
        return tokens + self._drop(self.mlp(self.norm2(tokens)))

    def _attend(self, tokens: Tensor) -> Tensor:
        batch, height, width, channels = tokens.shape
        n = self.window
        tokens = tokens.roll((-self.shift, -self.shift), dims=(1, 2))
        windows = tokens.reshape(batch, height // n, n, width // n, n, channels).transpose(2, 3)
        coefficients = self.dct(windows.reshape(-1, n * n, channels))
        geometry = ((height, width), n, self.shift, tokens.device)
        coefficients = self.attention(
            coefficients,
            mask=region_mask(*geometry) if self.shift and self.mask == "swin" else None,
            alone=mixed_windows(*geometry) if self.shift and self.mask == "separate" else None,
        )
        windows = self.dct.invert(coefficients).reshape(batch, height // n, width // n, n, n, channels)
        tokens = windows.transpose(2, 3).reshape(batch, height, width, channels)
        return tokens.roll((self.shift, self.shift), dims=(1, 2))

    def _drop(self, branch: Tensor) -> Tensor:
        """Stochastic depth: in training, leaves the branch out for a share of the samples and scales up the rest."""
        if not self.training or not self.drop_path:
            return branch
        keep = torch.rand(branch.shape[0], 1, 1, 1, device=branch.device) >= self.drop_path
        return branch * keep / (1 - self.drop_path)


class _FrequencyAttention(nn.Module):
    """Multi-head self-attention of (M,n^2,C) with a learned bias for every offset between two of the n x n places.

    The M windows are those of several images, one image after the other. For the windows of one image, `mask`
    (windows,n^2,n^2) is added to the logits, and where `alone` (windows,) is True each token attends to itself only.
    """

    offset: Tensor

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.bias_table, std=0.02)
        place = torch.arange(window**2)
        row, column = place // window, place % window
        offset = (row[:, None] - row + window - 1) * (2 * window - 1) + (column[:, None] - column + window - 1)
        self.register_buffer("offset", offset, persistent=False)

    def forward(self, tokens: Tensor, mask: Tensor | None = None, alone: Tensor | None = None) -> Tensor:
        count, places, channels = tokens.shape
        qkv = self.qkv(tokens).reshape(count, places, 3, self.heads, channels // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        bias = self.bias_table[self.offset].permute(2, 0, 1)
        if mask is not None:
            bias = (bias + mask[:, None]).repeat(count // len(mask), 1, 1, 1)
        mixed = scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
        if alone is not None:
            # Exact, where a mask would leave what e^-100 leaves, beside logits of that size.
            mixed = torch.where(alone.repeat(count // len(alone))[:, None, None, None], value, mixed)
        return self.proj(mixed.transpose(1, 2).reshape(count, places, channels))


class _ResidualGroup(nn.Module):
    def __init__(self, layers: list[DCTSwinLayer], width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + self.conv(self.layers(tokens).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def parse_aggregator(text: str) -> NetworkSpec:
    """`dctswin[:key=value,key=value]` -> checked spec; ValueError names the mistake and the nearest match."""
    return parse_spec(text, "aggregator", {"dctswin": DCTSwinSizes()})


def build_aggregator(aggregator: str | NetworkSpec, num_teachers: int, scale: int) -> DCTSwin:
    """A freshly initialised aggregator for N = `num_teachers` images; raises ValueError as `parse_aggregator` does."""
    spec = parse_aggregator(aggregator) if isinstance(aggregator, str) else aggregator
    return DCTSwin(num_teachers, scale, **spec.sizes)  # type: ignore[arg-type]


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
