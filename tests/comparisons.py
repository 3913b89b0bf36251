"""Made-up comparisons that tests of `mtkd compare` are built from."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np

from mtkd_dist.report.comparison import Cell, Comparison, Scores

EDSR, RLFN = "edsr-baseline:width=16,blocks=3", "rlfn:width=16"
SETS = {"Set5": ("baby", "bird", "butterfly"), "Kodak": ("kodim01", "kodim02")}
# What a method adds in dB to the scores of every image.
GAINS = {"scratch": 0.0, "mtkd": 0.3, "mean": 0.2, "kd": -0.1, "at": 0.05, "fakd": 0.02, "dukd": 0.1, "crosskd": 0.15}


def scores(psnr_y: Callable[[str, str], float]) -> Scores:
    """Of every image of `SETS`; `psnr_y` gets the set and the image. SSIM-Y is a hundredth of it plus 0.5."""
    return {
        name: {image: (psnr_y(name, image), 0.5 + psnr_y(name, image) / 100) for image in images}
        for name, images in SETS.items()
    }


def cell(
    method: str = "mtkd", student: str = EDSR, seed: int = 1, scored: Scores | None = None, steps: int = 500
) -> Cell:
    if scored is None:
        # The same every time, and another one for every cell and image.
        noise = np.random.default_rng(zlib.crc32(f"{method} {student} {seed}".encode()))
        scored = scores(lambda name, image: 28 + len(image) / 4 + GAINS[method] + float(noise.normal(0, 0.02)))
    return Cell(method, student, seed, steps, 100.0 * seed, 3072, 40_000 + len(student), scored)


def comparison(
    methods: Sequence[str] = ("scratch", "mean", "mtkd"),
    students: Sequence[str] = (EDSR, RLFN),
    seeds: Sequence[int] = (1, 2, 3),
    without: Sequence[tuple[str, str, int]] = (),
) -> Comparison:
    """All cells of the grid but those `without`."""
    keys = [(method, student, seed) for method in methods for student in students for seed in seeds]
    cells = [cell(*key) for key in keys if key not in without]
    references = {"bicubic": scores(lambda name, image: 26.0), "teacher rcan": scores(lambda name, image: 32.0)}
    return Comparison(methods, students, seeds, cells, references, {"photographs": "800 of DIV2K", "scale": "×4"})
