"""What `torch.export` needs to follow a network with the sizes of its images left open.

EDSR, RLFN and RCAN are ready as they are (`padding.py` does its part). SwinIR as spandrel has it asks in Python how
large the image is, counts its batch in floating point, and hands on tensors whose layout in memory depends on their
size: all of that would become a condition on the size. Here are the same steps without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mtkd_dist.models.padding import pad_bottom_right, shortfall
from mtkd_dist.models.shifted_windows import symbolic_region_mask
from mtkd_dist.models.spandrel_adapter import allow_torchvision_import


@contextmanager
def traceable(network: nn.Module) -> Iterator[None]:
    """Inside the block, `torch.export` can follow `network`, in eval mode, for any batch, height and width.

    Its answers stay the same to the last bit. A network that is not known here is left as it is; whether its sizes can
    be left open shows when it is followed.
    """
    steps = _swinir_steps()
    changed: list[tuple[nn.Module, str]] = []
    try:
        for part in network.modules():
            # Our own SwinIR is a class of its own, which has padded before.
            if type(part) in steps:
                method, step = steps[type(part)]
                setattr(part, method, partial(step, part))
                changed.append((part, method))
        yield
    finally:
        for part, method in changed:
            delattr(part, method)


def _swinir_steps() -> dict[type[nn.Module], tuple[str, Callable[..., Tensor]]]:
    """Part of SwinIR -> its method that is replaced, and by what."""
    allow_torchvision_import()
    from spandrel.architectures.SwinIR.__arch import SwinIR as swinir

    return {
        swinir.SwinIR: ("check_image_size", _pad),
        swinir.SwinTransformerBlock: ("forward", _window_attention),
        swinir.PatchUnEmbed: ("forward", _tokens_to_map),
    }


def _pad(network: Any, lr: Tensor) -> Tensor:
    height, width = lr.shape[-2:]
    window = network.window_size
    return pad_bottom_right(lr, shortfall(height, multiple=window), shortfall(width, multiple=window))


def _window_attention(block: Any, tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """(B,H*W,C) -> (B,H*W,C) for `size` = (H, W), multiples of the window."""
    (height, width), window, shift = size, block.window_size, block.shift_size
    batch, _, channels = tokens.shape
    rows, columns = height // window, width // window
    features = block.norm1(tokens).reshape(batch, height, width, channels)
    mask = None
    if shift:
        features = torch.roll(features, (-shift, -shift), (1, 2))
        mask = symbolic_region_mask(size, window, shift, tokens.device)
    windows = features.reshape(batch, rows, window, columns, window, channels).transpose(2, 3)
    windows = _laid_out(windows).reshape(batch * rows * columns, window**2, channels)
    windows = block.attn(windows, mask).reshape(batch, rows, columns, window, window, channels)
    features = _laid_out(windows.transpose(2, 3)).reshape(batch, height, width, channels)
    if shift:
        features = torch.roll(features, (shift, shift), (1, 2))
    tokens = tokens + features.reshape(batch, height * width, channels)
    return tokens + block.mlp(block.norm2(tokens))


def _tokens_to_map(unembed: Any, tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """(B,H*W,C) -> (B,C,H,W) for `size` = (H, W)."""
    return _laid_out(tokens.transpose(1, 2)).reshape(tokens.shape[0], unembed.embed_dim, *size)


def _laid_out(tensor: Tensor) -> Tensor:
    """A copy in the usual layout. `contiguous()` would first ask for the layout that there is."""
    return tensor.clone(memory_format=torch.contiguous_format)
