"""From YAML file and flags to a `SweepConfig`, and from its key `launch` to the `Config` that all trials share."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from mtkd_dist.config.load import config_of, flatten, load_tree
from mtkd_dist.config.tree import Config
from mtkd_tune.tree import SweepConfig

PRESET = "demo-sweep"
"""Preset of a launch that names none."""

_NOT_HERE = {
    "output": "the sweep writes into its own `output`",
    "cluster": "the sweep and its trials run on the sweep's own `cluster`",
    "num_gpus": "GPUs are counted by the sweep's own `num_gpus`",
    "teacher_gpus": "the teachers that all trials share have the sweep's own `teacher_gpus`",
    "student_gpus": "each trial has the sweep's `trial.gpus`",
    "plan_only": "a trial is one process, with no split to plan",
}


def load_sweep(argv: Sequence[str], prog: str = "mtkd_tune") -> SweepConfig:
    """Read flags and the YAML file that they name, as `mtkd_dist.config.load.load_config` does for a launch.

    Flags reach into `launch` too (--launch.distil.steps 500). `--help` and `--print-config` print and raise
    `SystemExit`. Errors: ConfigError (unknown key, wrong type or choice, unreadable file).
    """
    return load_tree(SweepConfig(), argv, prog, {"launch": Config})


def base_config(sweep: SweepConfig) -> Config:
    """What all trials share: the defaults of the launch's preset, its keys, and output, cluster and GPUs of the sweep.

    Teachers' answers are rendered, whatever the preset says, unless `launch` asks for `teacher_outputs: live`: a second
    trial already pays for it.

    Errors: ConfigError for a key of `launch` that is unknown, of the wrong type, or the sweep's own.
    """
    config = config_of(sweep.launch, "launch", PRESET, _NOT_HERE)
    if flatten(sweep.launch).get("teacher_outputs") != "live":
        config = dataclasses.replace(config, teacher_outputs="cached")
    return dataclasses.replace(config, output=sweep.output, cluster=sweep.cluster, num_gpus=sweep.num_gpus)
