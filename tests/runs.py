"""The folder of a finished run, without the run: what a launch leaves of its student."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from mtkd_dist.config.load import dump_config
from mtkd_dist.config.tree import Config, TrainingConfig
from mtkd_dist.data import Photo, build_store
from mtkd_dist.models import build_network, digest_file, save_network, teachers_text
from mtkd_dist.stages import manifest
from mtkd_dist.stages.manifest import Manifest
from tests.nets import TINY, write_photos

TEACHERS = {"big": "a" * 64, "bigger": "b" * 64}
PHOTOS = 3


def make_run(folder: Path, network: str = TINY, scale: int = 2) -> Path:
    """The output folder, `folder`/run-1, of a student with random weights that was scored on the set `held`."""
    run, home = folder / "run-1", folder / "home" / "somebody"
    config = Config(
        output=str(run),
        data=[str(home / "DIV2K_train_HR")],
        test=[f"held={home / 'held'}"],
        teachers=[f"{home / 'big.pth'}:name=big", str(home / "bigger.pth")],
        student=network,
        scale=scale,  # type: ignore[arg-type]
        distil=TrainingConfig(steps=12, batch_size=4, patch=8),
    )
    photos = [Photo(str(path)) for path in write_photos(home, PHOTOS)]
    store = build_store(photos, scale, run / f"images/train-x{scale}")
    (run / "config.yaml").write_text(dump_config(config))
    torch.manual_seed(0)
    student = run / "student.safetensors"
    metadata = {"network": network, "scale": str(scale), "method": "mtkd", "teachers": teachers_text(TEACHERS)}
    save_network(student, build_network(network, scale), metadata)
    inputs = {
        "network": network,
        "scale": scale,
        "seed": config.seed,
        "images": store.digest,
        "training": dataclasses.asdict(config.distil),
    }
    digest = digest_file(student)
    _write_stage(run, "distil", inputs, {student.name: digest})
    rows = [_row("bicubic", 30.0, 0.85, scale), _row("student", 31.5, 0.9, scale)]
    _write_stage(run, "evaluate", {"student": digest}, {}, rows)
    manifest.write_json(run / "scores.json", rows)
    return run


def _row(model: str, psnr: float, ssim: float, scale: int) -> dict[str, Any]:
    row = {"model": model, "role": model, "set": "held", "scale": scale, "psnr_y": psnr, "ssim_y": ssim}
    return row | {"params": 900}


def _write_stage(
    run: Path, stage: str, inputs: dict[str, Any], outputs: dict[str, str], scores: list[dict[str, Any]] | None = None
) -> None:
    (run / stage).mkdir()
    manifest.write(run / stage, Manifest(stage, inputs, outputs, seed=0, seconds=1.0, scores=scores or []))
