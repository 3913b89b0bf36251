"""The part of a frozen network that lies behind a tap, as a network of its own."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from mtkd_dist.methods.feature_maps import TapError, as_map, from_bchw, layouts
from mtkd_dist.methods.taps import body_blocks, core, listening, resolve
from mtkd_dist.models.padding import pad_bottom_right


class Tail(nn.Module):
    """(LR images (B,3,h,w), features (B,C,h,w)) -> (B,3,s*h,s*w): a network that gets these features at `tap` in the
    place of its own.

    What the network takes past the tap (long skips, the mean colour) it takes from the LR image. Blocks of the body
    that nothing but the tap depends on are left out, weights and all, where the others then still answer the same.
    Weights get no gradient, features do.

    Args:
        network: left as it is; the tail is made of a copy.
        tap: of features at LR size, see `mtkd_dist.methods.taps`.
        patch: side of the LR images that are used to find out.

    Errors: TapError where the tap is none, or where the image does not depend on its features.
    """

    def __init__(self, network: nn.Module, tap: str, patch: int) -> None:
        super().__init__()
        whole = copy.deepcopy(network).eval().requires_grad_(False)
        weight = next(whole.parameters())
        seeded = torch.Generator().manual_seed(0)
        lr = torch.rand(2, 3, patch, patch, generator=seeded).to(weight.device, weight.dtype)
        self.tap = tap
        self.network = whole
        self._name = resolve(whole, tap)
        with torch.no_grad(), listening(whole, [self._name]) as heard:
            whole(lr)
        features = as_map(heard[self._name], 2, (patch, patch), tap)
        self.width = features.shape[1]
        """Channels of the features."""
        shorter = self._without_head(whole)
        if shorter is not None and self._is_answered_by(shorter, lr, features):
            self.network = shorter
        self._check(lr, features, body_blocks(whole))

    def forward(self, lr: Tensor, features: Tensor) -> Tensor:
        height, width = lr.shape[-2:]

        def replace(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            layout, (rows, columns) = layouts(output, len(lr), (height, width))[0]
            padded = pad_bottom_right(features, rows - height, columns - width)
            # A copy: what comes next may write into it.
            return from_bchw(padded, layout).to(output.dtype).clone()

        handle = core(self.network).get_submodule(self._name).register_forward_hook(replace)
        try:
            image: Tensor = self.network(lr)
        finally:
            handle.remove()
        return image

    def _without_head(self, whole: nn.Module) -> nn.Module | None:
        """A copy in which the blocks up to the tap pass on what they get; None where the tap is no block."""
        blocks = body_blocks(whole)
        if self._name not in blocks:
            return None
        shorter = copy.deepcopy(whole)
        for name in blocks[: blocks.index(self._name) + 1]:
            parent, _, own = name.rpartition(".")
            setattr(core(shorter).get_submodule(parent), own, _PassOn())
        return shorter

    @torch.no_grad()
    def _is_answered_by(self, network: nn.Module, lr: Tensor, features: Tensor) -> bool:
        """Whether `network` makes the same image of the same features."""
        kept, image = self.network, self(lr, features)
        self.network = network
        try:
            return torch.allclose(self(lr, features), image, rtol=1e-4, atol=1e-5)
        except (RuntimeError, IndexError):  # blocks that change the shape cannot be passed by
            return False
        finally:
            self.network = kept

    @torch.enable_grad()
    def _check(self, lr: Tensor, features: Tensor, blocks: list[str]) -> None:
        features = features.detach().requires_grad_()
        image = self(lr, features)
        (gradient,) = torch.autograd.grad(image.sum(), features, allow_unused=True) if image.requires_grad else (None,)
        if gradient is None or not gradient.any():
            raise TapError(
                f"tap {self.tap}: the image does not depend on its features, so nothing can be learned through it: tap "
                f"{', or '.join(blocks) or 'a module on the way to the image'}"
            )


class _PassOn(nn.Module):
    def forward(self, features: Tensor, *_: Any, **__: Any) -> Tensor:
        return features
