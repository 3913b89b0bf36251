"""Which crops make up which training step: a pure function, so that any worker can work out any step by itself.

Randomness is counter-based (Philox; Salmon et al., SC 2011): draw k of a plan is block k of one random sequence, so a
run that resumes at step 100,000 does not replay the steps before it. Only raw 64-bit words of the bit generator are
used: NumPy keeps those the same from version to version, which it does not promise for its distributions.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Sample:
    """One crop of one image: ``patch`` x ``patch`` LR pixels from (y, x) on, then mirrored, then rotated."""

    image: int
    """Index of the image in the dataset."""
    y: int
    """First row of the crop, in LR pixels."""
    x: int
    """First column of the crop, in LR pixels."""
    flip: bool
    """Mirror left to right."""
    rotate: int
    """Quarter turns counter-clockwise after the mirroring, 0 to 3."""


@dataclass(frozen=True)
class Plan:
    """The samples of every step of a run, the same on every machine and for any number of workers.

    The images are drawn epoch by epoch: each block of ``len(lr_sizes)`` consecutive draws holds every image once, in an
    order of its own; where an epoch ends inside a step, the next one begins there. Crop positions are uniform.

    Raises:
        ValueError: if a field is out of range, or an image is smaller than the crop.
    """

    seed: int
    """Another seed, another plan."""
    dataset_digest: str
    """Digest of the pictures (:attr:`mtkd_dist.data.ImageStore.digest`)."""
    lr_sizes: tuple[tuple[int, int], ...]
    """(height, width) of each LR image in pixels."""
    batch_size: int
    """Samples a step, over all workers together."""
    patch: int
    """Side of the square crop in LR pixels."""
    augment: bool = True
    """Mirror and rotate at random: the eight symmetries of the square, equally often."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.patch < 1:
            raise ValueError(f"patch must be at least 1 LR pixel, got {self.patch}")
        if not self.lr_sizes:
            raise ValueError("lr_sizes is empty: a plan needs at least one image")
        for index, (height, width) in enumerate(self.lr_sizes):
            if min(height, width) < self.patch:
                raise ValueError(
                    f"image {index} has {height}x{width} LR pixels, too few for crops of {self.patch}x{self.patch}: "
                    f"take a patch of at most {min(height, width)}, or leave the image out"
                )

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all fields, in hex: equal digests mean equal samples in every step."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @property
    def steps_per_epoch(self) -> float:
        """Steps in which every image is drawn once; seldom a whole number."""
        return len(self.lr_sizes) / self.batch_size

    def samples(self, step: int) -> list[Sample]:
        """The ``batch_size`` samples of a step, in the order of the batch.

        Raises:
            ValueError: for a negative step.
        """
        if step < 0:
            raise ValueError(f"steps are counted from 0, got {step}")
        first = step * self.batch_size
        # Philox gives four words a block, and sample k owns block k: words for y, x and the symmetry; one is spare.
        words = _words(self.digest, "crops", block=first, count=4 * self.batch_size).reshape(-1, 4).tolist()
        return [self._sample(first + offset, *sample_words) for offset, sample_words in enumerate(words)]

    def slots(self, step: int, slot_size: int) -> list[list[Sample]]:
        """A step cut into consecutive slots of ``slot_size`` samples; the last one is shorter where it does not divide.

        Raises:
            ValueError: for a negative step or a ``slot_size`` below 1.
        """
        if slot_size < 1:
            raise ValueError(f"slot_size must be at least 1, got {slot_size}")
        samples = self.samples(step)
        return [samples[start : start + slot_size] for start in range(0, len(samples), slot_size)]

    def _sample(self, draw: int, y_word: int, x_word: int, symmetry_word: int, _spare: int) -> Sample:
        epoch, position = divmod(draw, len(self.lr_sizes))
        image = int(_order(self.digest, epoch, len(self.lr_sizes))[position])
        height, width = self.lr_sizes[image]
        symmetry = _below(8, symmetry_word) if self.augment else 0
        return Sample(
            image=image,
            y=_below(height - self.patch + 1, y_word),
            x=_below(width - self.patch + 1, x_word),
            flip=symmetry >= 4,
            rotate=symmetry % 4,
        )


@lru_cache(maxsize=8)
def _order(digest: str, epoch: int, images: int) -> NDArray[np.intp]:
    """The order in which an epoch draws its images."""
    # Epochs lie 2**64 blocks apart in the sequence, so none reaches into the next.
    return np.argsort(_words(digest, "order", block=epoch << 64, count=images), kind="stable")


def _words(digest: str, purpose: str, block: int, count: int) -> NDArray[np.uint64]:
    """``count`` random 64-bit words from ``block`` on, of the sequence that belongs to a plan and a purpose."""
    key = int.from_bytes(hashlib.sha256(f"{digest} {purpose}".encode()).digest()[:16], "little")
    return np.random.Philox(key=key, counter=block).random_raw(count)


def _below(limit: int, word: int) -> int:
    """A number from 0 to limit-1, uniform to within limit/2**64, from 64 random bits."""
    return word * limit >> 64
