"""What `mtkd compare` compares: trained students, what they scored, and their means over images and seeds. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from mtkd_dist.report.tables import LUMA

# Test set -> name of an image -> (PSNR-Y in dB, SSIM-Y from -1 to 1). Read back from JSON, the pair is a list.
Scores = Mapping[str, Mapping[str, tuple[float, float]]]


@dataclass(frozen=True)
class Cell:
    """One trained student. Plain data: `Cell(**json.loads(json.dumps(dataclasses.asdict(cell))))` is the same again.

    Attributes:
        method: `mtkd`, `scratch` and so on.
        student: the network as text, such as `edsr-baseline:width=16,blocks=3`.
        steps: optimizer steps of its training.
        seconds: of its training; of several students that learn from one stream, its share.
        bytes_per_sample: what the student's side reads for one sample.
        params: number of parameters of the student.
    """

    method: str
    student: str
    seed: int
    steps: int
    seconds: float
    bytes_per_sample: int
    params: int
    scores: Scores


@dataclass(frozen=True)
class Comparison:
    """The planned grid, and the cells of it that are there. The order of all names is the order of tables.

    Attributes:
        references: name -> scores of what has no seed of its own, such as `bicubic`, a teacher, `aggregate (seed 1)`.
        settings: what all cells have in common, as text, for the paragraph on the set-up.

    Raises:
        ValueError: a cell outside the grid or twice in it; steps that differ between two cells, or parameters between
            two cells of one student: they did not train on the same plan.
    """

    methods: Sequence[str]
    students: Sequence[str]
    seeds: Sequence[int]
    cells: Sequence[Cell]
    references: Mapping[str, Scores] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known: set[tuple[str, str, int]] = set()
        first_of_student: dict[str, Cell] = {}
        for cell in self.cells:
            if cell.method not in self.methods or cell.student not in self.students or cell.seed not in self.seeds:
                raise ValueError(
                    f"{_name(cell)} is none of the planned cells; methods: {', '.join(self.methods)}; students: "
                    f"{', '.join(self.students)}; seeds: {', '.join(map(str, self.seeds))}"
                )
            if _key(cell) in known:
                raise ValueError(f"{_name(cell)} is there twice; expected one cell a method, student and seed")
            known.add(_key(cell))
            other = self.cells[0]
            if cell.steps != other.steps:
                raise ValueError(
                    f"{_name(other)} trained for {other.steps} steps and {_name(cell)} for {cell.steps}; only students "
                    "of the same plan are compared: train them for the same number of steps"
                )
            other = first_of_student.setdefault(cell.student, cell)
            if cell.params != other.params:
                raise ValueError(
                    f"{_name(other)} has {other.params} parameters and {_name(cell)} {cell.params}; they are not the "
                    "same network: train one of them again"
                )

    @cached_property
    def missing(self) -> list[tuple[str, str, int]]:
        """(method, student, seed) of the planned cells that are not there."""
        return [
            (method, student, seed)
            for student in self.students
            for method in self.methods
            for seed in self.seeds
            if (method, student, seed) not in self._by_key
        ]

    @cached_property
    def images(self) -> dict[str, list[str]]:
        """Test set -> the images that count: those which every cell that was scored on the set has.

        Means over different images could not be compared. Without any cell: the images of the references.
        """
        counted: dict[str, list[str]] = {}
        for scores in [cell.scores for cell in self.cells] or list(self.references.values()):
            for name, of_set in scores.items():
                if of_set:
                    counted[name] = [image for image in counted.get(name, of_set) if image in of_set]
        return counted

    @cached_property
    def left_out(self) -> dict[str, list[str]]:
        """Test set -> the images that some cell has and another one lacks; sets without such images are absent."""
        seen: dict[str, dict[str, None]] = {}
        for cell in self.cells:
            for name, of_set in cell.scores.items():
                seen.setdefault(name, {}).update(dict.fromkeys(of_set))
        out = {name: [image for image in images if image not in self.images[name]] for name, images in seen.items()}
        return {name: images for name, images in out.items() if images}

    def seeds_scored(self, method: str, student: str, test_set: str) -> list[int]:
        """Seeds whose cell was scored on the set."""
        cells = ((seed, self._by_key.get((method, student, seed))) for seed in self.seeds)
        return [seed for seed, cell in cells if cell is not None and cell.scores.get(test_set)]

    def scores(self, method: str, student: str, seeds: Sequence[int], test_set: str, metric: str) -> np.ndarray:
        """Float64 array (seeds, images) of `psnr_y` or `ssim_y`; the images are those of `images`."""
        column = LUMA.index(metric)
        of_seeds = [self._by_key[method, student, seed].scores[test_set] for seed in seeds]
        rows = [[of_seed[image][column] for image in self.images[test_set]] for of_seed in of_seeds]
        return np.array(rows, dtype=np.float64).reshape(len(seeds), len(self.images[test_set]))

    def cells_of(self, method: str, student: str) -> list[Cell]:
        """In the order of `seeds`."""
        keys = ((method, student, seed) for seed in self.seeds)
        return [self._by_key[key] for key in keys if key in self._by_key]

    @cached_property
    def _by_key(self) -> dict[tuple[str, str, int], Cell]:
        return {_key(cell): cell for cell in self.cells}


class Spread(NamedTuple):
    """Over seeds, of the mean over images. `deviation` (n - 1) is None where fewer than two seeds are there."""

    mean: float
    deviation: float | None
    seeds: int


@dataclass(frozen=True)
class Summary:
    """One line of the table of means. `seconds` and `bytes_per_sample` are means over seeds.

    Numbers are None, and `scores` empty, where no seed of the method and student is there. `scores`: set -> metric
    (`psnr_y`, `ssim_y`).
    """

    method: str
    student: str
    seeds: int
    steps: int | None
    seconds: float | None
    bytes_per_sample: float | None
    params: int | None
    scores: Mapping[str, Mapping[str, Spread]]


def summaries(comparison: Comparison) -> list[Summary]:
    """A line for every planned student and method, students outside."""
    return [_summary(comparison, method, student) for student in comparison.students for method in comparison.methods]


def reference_means(comparison: Comparison) -> dict[str, dict[str, tuple[float, float]]]:
    """Reference -> set -> (PSNR-Y, SSIM-Y), means over the images that count; without sets where it lacks one."""
    means: dict[str, dict[str, tuple[float, float]]] = {}
    for name, scores in comparison.references.items():
        means[name] = {}
        for test_set, images in comparison.images.items():
            of_set = scores.get(test_set, {})
            if images and all(image in of_set for image in images):
                psnr, ssim = np.mean([of_set[image] for image in images], axis=0)
                means[name][test_set] = (float(psnr), float(ssim))
    return means


def _summary(comparison: Comparison, method: str, student: str) -> Summary:
    cells = comparison.cells_of(method, student)
    scores = {}
    for test_set, images in comparison.images.items():
        seeds = comparison.seeds_scored(method, student, test_set)
        if seeds and images:
            scores[test_set] = {
                metric: _spread(comparison.scores(method, student, seeds, test_set, metric)) for metric in LUMA
            }
    if not cells:
        return Summary(method, student, 0, None, None, None, None, scores)
    return Summary(
        method,
        student,
        len(cells),
        cells[0].steps,
        float(np.mean([cell.seconds for cell in cells])),
        float(np.mean([cell.bytes_per_sample for cell in cells])),
        cells[0].params,
        scores,
    )


def _spread(scores: np.ndarray) -> Spread:
    of_seeds = scores.mean(axis=1)
    # A PSNR may be infinite: the spread is then NaN, which the tables show.
    with np.errstate(invalid="ignore"):
        deviation = float(of_seeds.std(ddof=1)) if len(of_seeds) > 1 else None
        return Spread(float(of_seeds.mean()), deviation, len(of_seeds))


def _key(cell: Cell) -> tuple[str, str, int]:
    return cell.method, cell.student, cell.seed


def _name(cell: Cell) -> str:
    return f"{cell.method} of {cell.student}, seed {cell.seed},"
