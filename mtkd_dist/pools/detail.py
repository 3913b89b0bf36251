"""The part of a photograph that is shown of what all models made of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mtkd_dist.metrics import Window, most_different

Uint8Image = NDArray[np.uint8]

BICUBIC = "bicubic"
WHOLE = 480
"""Longer side in pixels of the small picture of the whole photograph, at most."""


class Detail(NamedTuple):
    window: Window
    """In HR, where the models differ most."""
    height: int
    width: int
    """Of HR in pixels."""
    panels: dict[str, Uint8Image]
    """Label -> (H,W,3): LR, each model in its order, HR; LR has fewer pixels."""
    whole: Uint8Image
    """HR, made small."""


def detail_of(lr: Uint8Image, images: Mapping[str, Uint8Image], hr: Uint8Image, side: int) -> Detail:
    """Of the window of `side` HR pixels in which the models differ most.

    Bicubic, which differs from every network wherever there is an edge, has a say only beside fewer than two others.

    Args:
        lr: (h,w,3).
        images: model -> its image, (s*h,s*w,3), at least one.
        hr: (s*h,s*w,3).
    """
    scale = len(hr) // len(lr)
    networks = [image for model, image in images.items() if model != BICUBIC]
    window = most_different(networks if len(networks) > 1 else list(images.values()), side, scale)
    panels = {"LR": window.of(lr, shrunk=scale), **{model: window.of(image) for model, image in images.items()}}
    whole = Image.fromarray(hr)
    whole.thumbnail((WHOLE, WHOLE))
    height, width = hr.shape[:2]
    return Detail(window, height, width, panels | {"HR": window.of(hr)}, np.asarray(whole))
