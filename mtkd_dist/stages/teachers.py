"""Stage `teachers`: a given file is checked, a network that is only named is trained."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from mtkd_dist.methods import Supervised
from mtkd_dist.metrics import from_uint8
from mtkd_dist.models import (
    build_network,
    check_input_range,
    digest_file,
    load_network,
    load_strict,
    save_network,
)
from mtkd_dist.pools.teacher_worker import TeacherFile, digests_of
from mtkd_dist.stages import manifest
from mtkd_dist.stages.manifest import Manifest
from mtkd_dist.stages.run import Run
from mtkd_dist.stages.teacher_spec import TeacherSpec, parse_teachers
from mtkd_dist.stages.training import Training, train_stage

CHECK_CROP = 64
"""Side in LR pixels of the photograph that a teacher's input range is checked on."""


@dataclass(frozen=True)
class ReadyTeachers:
    files: tuple[TeacherFile, ...]
    digests: dict[str, str]
    params: dict[str, int]


def run_teachers(run: Run) -> ReadyTeachers:
    """Every teacher as a weight file, in the order of the configuration."""
    specs = parse_teachers(run.config.teachers)
    # Files first: a wrong one is found before anything is trained.
    files = {spec.name: _given(run, spec) for spec in specs if spec.path is not None}
    for spec in specs:
        if spec.network is not None:
            files[spec.name] = _trained(run, spec.name, spec.network)
    ordered = tuple(replace(file, digest=digest_file(file.path)) for file in (files[spec.name] for spec in specs))
    return ReadyTeachers(
        ordered,
        digests_of(ordered),
        {file.name: load_network(file.path, run.config.scale, file.input_range).params for file in ordered},
    )


def _trained(run: Run, name: str, network: str) -> TeacherFile:
    stage = f"teachers/{name}"
    path = run.output / stage / "weights.safetensors"

    metadata = {"network": network, "scale": str(run.config.scale)}

    def write(weights: dict[str, Tensor]) -> list[Path]:
        module = build_network(network, run.config.scale)
        load_strict(module, weights, stage)
        save_network(path, module, metadata)
        return [path]

    train_stage(run, Training(stage, network, Supervised(), run.config.teacher_training, metadata), write)
    return TeacherFile(name, path, None)


def _given(run: Run, spec: TeacherSpec) -> TeacherFile:
    """Errors: ValueError for a file that cannot be read, of another scale, or with a wrong input range."""
    assert spec.path is not None
    folder = run.output / "teachers" / spec.name
    path = spec.path.resolve()
    inputs = {"file": digest_file(path), "input_range": spec.input_range, "scale": run.config.scale}
    old = manifest.read(folder)
    if manifest.changed(old, inputs, {}):
        began = time.monotonic()
        loaded = load_network(path, run.config.scale, spec.input_range)
        lr = from_uint8(run.images.lr(0)[:CHECK_CROP, :CHECK_CROP])
        db = check_input_range(loaded.module, lr, run.config.scale, str(path), loaded.input_range)
        folder.mkdir(parents=True, exist_ok=True)
        manifest.write(
            folder,
            Manifest(
                stage=f"teachers/{spec.name}",
                inputs=inputs,
                outputs={},
                seed=run.config.seed,
                seconds=time.monotonic() - began,
                summary={
                    "path": str(path),
                    "architecture": loaded.architecture,
                    "input_range": loaded.input_range,
                    "shrunk_back_psnr_db": db,
                    "params": loaded.params,
                },
            ),
        )
        tracked = run.tracker.stage(f"teachers/{spec.name}")
        tracked.params({"path": path, "architecture": loaded.architecture, "input_range": loaded.input_range})
        tracked.metrics({"params": loaded.params, "shrunk_back_psnr_db": db})
        tracked.finish()
        run.say(f"teachers/{spec.name}: {loaded.architecture}, {loaded.params:,} parameters, from {path.name}")
    else:
        run.say(f"teachers/{spec.name}: checked before")
    return TeacherFile(spec.name, path, spec.input_range)
