"""best.yaml: the configuration of the best trial, for `python -m mtkd_dist.launch --config best.yaml`. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mtkd_dist.config.load import dump_config
from mtkd_dist.config.tree import Config
from mtkd_dist.stages.teacher_spec import parse_teachers
from mtkd_tune.population import in_parts
from mtkd_tune.ranking import Best
from mtkd_tune.tree import SweepConfig


def launch_config(config: Config, rates: Sequence[float], sweep: SweepConfig) -> Config:
    """What a launch needs to repeat a trial beside the sweep's folder, without doing again what the sweep has done.

    Teachers that the sweep trained are its files, decoded photographs and rendered images are read in its folder. To
    train aggregator and student is left: a sweep's training is usually shorter than the one that is wanted.

    Args:
        config: the trial's own configuration, all searched values in it.
        rates: with pbt, the learning rates of the parts that the trial was trained in; else empty.
    """
    folder = Path(sweep.output).resolve()
    if rates:
        parts: dict[str, Any] = {sweep.target: in_parts(getattr(config, sweep.target), sweep.pbt.parts, rates)}
        config = dataclasses.replace(config, **parts)
    if config.images.cache is None:
        config = dataclasses.replace(config, images=dataclasses.replace(config.images, cache=str(folder / "images")))
    if config.teacher_outputs != "live":
        # The trials read rendered images: so does the launch, whatever it would take "auto" for.
        config = dataclasses.replace(config, teacher_outputs="cached")
    if config.answers.folder is None and config.teacher_outputs != "live":
        answers = dataclasses.replace(config.answers, folder=str(folder / "teacher-outputs"))
        config = dataclasses.replace(config, answers=answers)
    teachers = [
        text if spec.network is None else f"{folder}/teachers/{spec.name}/weights.safetensors:name={spec.name}"
        for text, spec in zip(config.teachers, parse_teachers(config.teachers), strict=True)
    ]
    return dataclasses.replace(config, output=f"{folder}-best", teachers=teachers)


def best_yaml(config: Config, best: Best, sweep: SweepConfig, date: str) -> str:
    """The text of best.yaml. `config`: the best trial's own configuration; `date`: day of the sweep's end."""
    row = best.row
    asked = getattr(config, sweep.target).steps
    head = [
        f"The best of the sweep {sweep.output} ({date}): {row.name}, PSNR-Y {row.psnr_y:.4f} dB on the held-out "
        f"photographs after {row.step} of {asked} steps of {sweep.target}.",
        *([best.note] if best.note else []),
        *(f"  {name}: {value}" for name, value in row.values.items()),
        *([f"  {sweep.target}.rates: {row.rates}"] if row.rates else []),
        f"python -m mtkd_dist.launch --config {sweep.output}/best.yaml",
    ]
    if row.aggregator:
        head.append(
            "It trains the aggregator again; the trial's own is taken as it is by --aggregator "
            f"{sweep.output}/aggregators/{row.aggregator}/aggregator.safetensors"
        )
    launch = launch_config(config, row.rates, sweep)
    return "".join(f"# {line}\n" for line in head) + dump_config(launch)
