"""Presets: complete configurations under a name; `demo` is what a command without arguments runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from mtkd_dist.config.tree import Config, ImagesConfig, LinkConfig, Scale, TrainingConfig


def _demo() -> Config:
    """Minutes on two CPU cores: small teachers are trained on photographs of scikit-image, aggregated, distilled."""
    small = TrainingConfig(batch_size=8, patch=24, ema=0.98, checkpoint_every=200, validate_every=200)
    return Config(
        preset="demo",
        output="runs/demo",
        data=["demo"],
        test=["demo"],
        teachers=[
            "edsr-baseline:width=32,blocks=6",
            "rcan:groups=2,blocks=3,width=24,reduction=8",
            "swinir-light:width=24,groups=2,layers=2,heads=3",
        ],
        student="edsr-baseline:width=16,blocks=3",
        aggregator="dctswin:width=24,groups=1,layers=2,heads=3",
        scale=2,
        teacher_training=dataclasses.replace(small, steps=400, learning_rate=1e-3),
        # A larger rate first loses what the aggregator starts with, the mean of the teachers.
        aggregate=dataclasses.replace(small, steps=500, learning_rate=2e-4),
        distil=dataclasses.replace(small, steps=600, learning_rate=2e-3),
        link=LinkConfig(max_bytes=256 << 20),
    )


def _demo_sweep() -> Config:
    """The demo, short enough that a dozen trials of a sweep take minutes; the images of its teachers are rendered."""
    demo = _demo()
    return dataclasses.replace(
        demo,
        preset="demo-sweep",
        output="runs/sweep",
        teacher_training=dataclasses.replace(demo.teacher_training, steps=200, checkpoint_every=100),
        aggregate=dataclasses.replace(demo.aggregate, steps=150, checkpoint_every=50, validate_every=50),
        # Validations are what the scheduler of a sweep goes by.
        distil=dataclasses.replace(demo.distil, checkpoint_every=100, validate_every=50),
        teacher_outputs="cached",
    )


def _demo_compare() -> Config:
    """The demo, short enough that dozens of cells of a comparison take minutes."""
    sweep = _demo_sweep()
    return dataclasses.replace(
        sweep,
        preset="demo-compare",
        output="runs/compare",
        aggregate=dataclasses.replace(sweep.aggregate, validate_every=0),
        distil=dataclasses.replace(sweep.distil, steps=200, validate_every=0),
    )


def _paper(scale: Scale) -> Config:
    """The recipe of MTKD (ECCV 2024) as its released code states it; `data` must be given (DIV2K in the paper)."""
    return Config(
        preset=f"paper-x{scale}",
        output=f"runs/paper-x{scale}",
        data=[],
        test=[],
        teachers=["edsr", "rcan", "swinir"],
        student="edsr-baseline",
        aggregator="dctswin:mask=swin,mean_skip=false",
        scale=scale,
        images=ImagesConfig(held_out=0.0125),
        # The paper takes published teachers; one that is named instead of given as a file is trained like this.
        teacher_training=TrainingConfig(batch_size=16, patch=48, learning_rate=1e-4),
        aggregate=TrainingConfig(batch_size=16, patch=256 // scale, learning_rate=2e-4),
        distil=TrainingConfig(batch_size=16, patch=128 // scale, learning_rate=2e-5),
    )


PRESETS: dict[str, Callable[[], Config]] = {
    "demo": _demo,
    "demo-sweep": _demo_sweep,
    "demo-compare": _demo_compare,
    "paper-x2": lambda: _paper(2),
    "paper-x3": lambda: _paper(3),
    "paper-x4": lambda: _paper(4),
}
