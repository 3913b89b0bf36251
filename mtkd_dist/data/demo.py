"""Photographs for a first run without a download: those that come inside the scikit-image wheel."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
from pathlib import Path
from typing import NamedTuple

# motorcycle_left and motorcycle_right show one scene: they must stay on the same side.
_TRAIN = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "motorcycle_left.png",
    "motorcycle_right.png",
)
_VALIDATION = ("rocket.jpg",)
_HELD_OUT = ("chelsea.png", "coffee.png")


class DemoPhotos(NamedTuple):
    """Photographs to learn from, and others, of other scenes, to be watched and to be judged by."""

    train: list[Path]
    validation: list[Path]
    held_out: list[Path]


def demo_photos() -> DemoPhotos:
    """Nine photographs to train on, one to watch by, two to score on; 300 to 1000 pixels a side, grey and colour.

    Raises:
        FileNotFoundError: if the installed scikit-image lacks one of them.
    """
    folder = Path(str(importlib.resources.files("skimage"))) / "data"
    missing = [name for name in _TRAIN + _VALIDATION + _HELD_OUT if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"scikit-image {importlib.metadata.version('scikit-image')} lacks {', '.join(missing)} in {folder}: "
            "install scikit-image 0.25 or 0.26 from its wheel, or name a folder of your own photographs"
        )
    return DemoPhotos(*([folder / name for name in names] for names in (_TRAIN, _VALIDATION, _HELD_OUT)))
