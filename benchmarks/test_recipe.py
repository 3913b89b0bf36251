"""Does the recipe work? Aggregate against its teachers and their mean, distilled student against one trained alone.

    pytest -m slow benchmarks/test_recipe.py --write

Takes about an hour on two cores, and goes on where it was interrupted. Needs the real images and weights of a folder
`shared/` beside the checkout; what it computes lies in `runs/recipe`.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import numpy as np
import pytest

from benchmarks import recipe
from benchmarks.recipe import SCALE, SEEDS, TEACHERS, TEST_SETS, Bench, Scores
from benchmarks.results_table import Table
from mtkd_dist.models import build_aggregator, build_network, load_network
from mtkd_dist.models.registry import count_params
from mtkd_dist.report.tables import parameters_text

ROOT = Path(__file__).resolve().parents[1]

TABLE = Table("recipe", ["model", "params", *(f"{name} ×{SCALE} {m}" for name in TEST_SETS for m in ("dB", "SSIM"))])


@pytest.mark.slow
def test_recipe() -> None:
    shared = ROOT.parent / "shared"
    if not shared.is_dir():
        pytest.skip("real images and weights are not at hand: shared/ beside the checkout is absent")
    bench = recipe.open_bench(shared, ROOT / "runs/recipe")
    models = recipe.run(bench)
    params = _params(bench)
    for model, of_seeds in models.items():
        TABLE.add(model, parameters_text(params[model]), *_cells(of_seeds))
    best = max(TEACHERS, key=lambda teacher: _mean(models[teacher][0], TEST_SETS[0])[0])
    for first, second in (
        ("aggregate", best),
        ("aggregate", "mean of teachers"),
        ("aggregate", "aggregate without skip"),
        ("student distilled", "student alone"),
    ):
        TABLE.add(f"{first} − {second}", "", *_differences(models[first], models[second]))
    sizes = bench.sizes
    TABLE.notes += [
        f"Mean ± standard deviation over seeds {', '.join(map(str, SEEDS))}; differences are taken seed by seed.",
        f"Aggregator `{sizes.aggregator}`: {sizes.aggregate.steps:,} steps of {sizes.aggregate.batch_size} patches of "
        f"{sizes.aggregate.patch}² LR pixels, learning rate {sizes.aggregate.learning_rate:g}.",
        f"Student `{sizes.student}`, both ways: {sizes.distil.steps:,} steps of {sizes.distil.batch_size} patches of "
        f"{sizes.distil.patch}² LR pixels, learning rate {sizes.distil.learning_rate:g}; same weights to begin with, "
        "same samples.",
        f"{len(bench.train)} training photographs (BSDS500 train, JPEG). Teachers' images are rendered once; "
        "stage 2 reads the aggregate of the aggregator of its seed.",
    ]
    # What it finds is reported whatever it says; this only guards the harness.
    assert all(
        np.isfinite(_mean(scores, name)).all() for of in models.values() for scores in of.values() for name in TEST_SETS
    )


def _params(bench: Bench) -> dict[str, int]:
    teachers = {name: load_network(path, scale=SCALE).params for name, path in bench.teachers.items()}
    together = sum(teachers.values())
    aggregate = together + count_params(build_aggregator(bench.sizes.aggregator, len(teachers), SCALE))
    student = count_params(build_network(bench.sizes.student, SCALE))
    return (
        {"bicubic": 0, **teachers, "mean of teachers": together}
        | dict.fromkeys(("aggregate", "aggregate without skip"), aggregate)
        | dict.fromkeys(("student alone", "student distilled"), student)
    )


def _mean(scores: Scores, name: str) -> tuple[float, float]:
    psnr, ssim = np.mean(scores[name], axis=0)
    return float(psnr), float(ssim)


def _cells(of_seeds: dict[int, Scores]) -> list[str]:
    cells = []
    for name in TEST_SETS:
        for values, digits in zip(zip(*(_mean(s, name) for s in of_seeds.values()), strict=True), (2, 4), strict=True):
            cells.append(_spread(values, digits, ""))
    return cells


def _differences(first: dict[int, Scores], second: dict[int, Scores]) -> list[str]:
    cells = []
    for name in TEST_SETS:
        pairs = [np.subtract(_mean(first[seed], name), _mean(second[seed], name)) for seed in first]
        for values, digits in zip(zip(*pairs, strict=True), (3, 5), strict=True):
            cells.append(_spread(values, digits, "+"))
    return cells


def _spread(values: tuple[float, ...], digits: int, sign: str) -> str:
    spread = statistics.stdev(values)
    return f"{statistics.mean(values):{sign}.{digits}f}" + (f" ± {spread:.{digits}f}" if spread else "")
