"""A finished run as its folder tells it, made without training: real photographs, files as the stages write them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from mtkd_dist.config.load import dump_config
from mtkd_dist.config.presets import PRESETS
from mtkd_dist.config.shares import PoolShares
from mtkd_dist.data import bicubic_upscale, matlab_downscale
from mtkd_dist.data.demo import demo_photos
from mtkd_dist.metrics import error_bands, score
from mtkd_dist.pools.detail import detail_of
from mtkd_dist.pools.evaluate import Scored
from mtkd_dist.pools.placement import Resources
from mtkd_dist.report.history import History
from mtkd_dist.stages import half_done, manifest
from mtkd_dist.stages.details import most_different_photos, write_details
from mtkd_dist.stages.environment import write_environment
from mtkd_dist.stages.evaluate import BANDS
from mtkd_dist.stages.manifest import Manifest, write_json
from mtkd_dist.stages.scores import About, band_rows, mean_rows

SCALE = 2
# Model -> role, and how much of what bicubic lacks it brings back.
MODELS = {
    "bicubic": ("bicubic", 0.0),
    "edsr-baseline": ("teacher", 0.5),
    "rcan": ("teacher", 0.42),
    "swinir-light": ("teacher", 0.3),
    "mean of teachers": ("mean", 0.48),
    "aggregate": ("aggregate", 0.52),
    "student": ("student", 0.35),
    "student-edsr-baseline-width-8-blocks-2": ("student", 0.2),
}
PARAMS = (0, 159_000, 101_000, 41_200, 301_200, 494_000, 26_400, 4_321)
LIMIT = "the teachers were the limit: students waited 61% of the time (38 min)"


def write_run(folder: Path) -> Path:
    """A run of the preset `demo` with a further student; returns its folder."""
    config = PRESETS["demo"]()
    settings = yaml.safe_load(dump_config(config)) | {"more_students": ["edsr-baseline:width=8,blocks=2"]}
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    write_environment(folder, Resources(2, 0))
    for name in ("edsr-baseline", "rcan", "swinir-light"):
        write_training(folder, f"teachers/{name}", f"{name}:width=32", 300)
    write_training(folder, "aggregate", config.aggregator, 500)
    more = [["edsr-baseline-width-8-blocks-2", "edsr-baseline:width=8,blocks=2", None]]
    write_training(folder, "distil", config.student, 600, more_students=more)
    write_evaluation(folder)
    return folder


def write_training(folder: Path, stage: str, network: str, steps: int, finished: bool = True, **inputs: Any) -> None:
    """One that was interrupted once in the middle."""
    trained_with = {"network": network, "training": {"steps": steps}, **inputs}
    checkpoints = half_done.begin(folder / stage, trained_with)
    for first, end in ((0, steps // 2 + 20), (steps // 2, steps if finished else 3 * steps // 4)):
        with History(half_done.history_of(checkpoints), steps, print) as history:
            for step in range(first, end, 10):
                records = [_record(stage, s, steps, inputs.get("more_students", [])) for s in range(step, step + 10)]
                history.add(records, _pools(stage, step / steps))
                if step % 50 == 40:
                    history.validated(_validation(step + 10, steps, inputs.get("more_students", [])))
    if not finished:
        return
    outputs = {"distil": ["student", *(f"student-{name}" for name, *_ in inputs.get("more_students", []))]}
    titles = outputs.get(stage, ["aggregator" if stage == "aggregate" else f"{stage}/weights"])
    for title in titles:
        (folder / f"{title}.safetensors").write_bytes(b"")
    manifest.write(
        folder / stage,
        Manifest(
            stage=stage,
            inputs=trained_with,
            outputs={f"{title}.safetensors": f"{i}a5d" * 16 for i, title in enumerate(titles)},
            seed=0,
            seconds=185.0,
            summary={"limit": LIMIT, "images_per_second": 25.6, "loss": 0.02},
        ),
    )


def _record(stage: str, step: int, steps: int, more: list[Any]) -> dict[str, Any]:
    noise = 1 + 0.25 * math.sin(12.9898 * step) * math.cos(78.233 * step)
    loss = (0.02 + 0.2 * math.exp(-9 * step / steps)) * noise
    record: dict[str, Any] = {"step": step, "learning_rate": 1e-3, "loss": loss, "wait_seconds": 0.1}
    if more:
        record |= {"student/loss": 0.45 * loss, f"{more[0][0]}/loss": 0.55 * loss}
    return record


def _validation(step: int, steps: int, more: list[Any]) -> dict[str, Any]:
    score = 33 - 9 * math.exp(-12 * step / steps)
    record = {"step": step, "photos": 1, "validation_psnr_y": score, "best_step": step, "best_psnr_y": score}
    return record | ({f"{more[0][0]}/validation_psnr_y": score - 0.7} if more else {})


def _pools(stage: str, done: float) -> dict[str, PoolShares]:
    waited = 0.6 - 0.3 * done
    students = PoolShares(0.98 - waited, waited, 0.02)
    return {"students": students} | ({"teachers": PoolShares(0.9, 0.04, 0.06)} if "/" not in stage else {})


def write_evaluation(folder: Path) -> None:
    """Scores, spectra and details of images between bicubic and the truth."""
    scored = most_different_photos([_scored(path) for path in demo_photos().held_out], 1)
    about = {model: About(role, params) for (model, (role, _)), params in zip(MODELS.items(), PARAMS, strict=True)}
    rows = mean_rows(scored, about)
    write_details(folder, scored)
    write_json(folder / "scores.json", rows)
    write_json(folder / BANDS, band_rows(scored))
    manifest.write(folder / "evaluate", Manifest("evaluate", {}, {}, 0, 4.2, scores=rows))


def _scored(path: Path) -> Scored:
    with Image.open(path) as picture:
        hr = np.asarray(picture.convert("RGB"))[:296, :392]
    lr = matlab_downscale(hr, SCALE)
    bicubic = bicubic_upscale(lr, SCALE)
    images = {}
    for number, (model, (_, part)) in enumerate(MODELS.items()):
        # Each has a place where it does worse.
        wave = 0.08 * np.sin(np.indices(hr.shape[:2])[number % 2] / (9 + 5 * number))[..., None] * (number > 0)
        images[model] = np.clip(bicubic + (part + wave) * (hr.astype(float) - bicubic), 0, 255).round().astype(np.uint8)
    scores = {model: dict(score(image, hr, SCALE)._asdict()) for model, image in images.items()}
    bands = {model: error_bands(image, hr, SCALE) for model, image in images.items()}
    return Scored("demo", path.name, SCALE, scores, bands, detail_of(lr, images, hr, 144))
