"""From YAML file and flags to a `CompareConfig`, and from it to the `Config` that all cells share."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from mtkd_dist.compare.tree import PRESETS, CompareConfig
from mtkd_dist.compare.work import config_of_method
from mtkd_dist.config.load import ConfigError, config_of, flatten, load_tree, nearest, preset_of
from mtkd_dist.config.tree import Config

_NOT_HERE = {
    "output": "the comparison writes into its own `output`",
    "cluster": "the comparison and its cells run on the comparison's own `cluster`",
    "num_gpus": "GPUs are counted by the comparison's own `num_gpus`",
    "teacher_gpus": "no pool of teachers is at work beside the cells",
    "student_gpus": "each cell has the comparison's `cell.gpus`",
    "plan_only": "a cell is one process, with no split to plan",
    "method": "methods are compared: name them in `methods`",
    "student": "students are compared: name them in `students`",
    "more_students": "students are compared: name them in `students`",
    "student_weights": "all students start from random weights, the same for every method",
    "seed": "cells have the comparison's own `seeds`",
}


def load_compare(argv: Sequence[str], prog: str = "mtkd compare") -> CompareConfig:
    """Read flags and the YAML file that they name, as `mtkd_dist.config.load.load_config` does for a launch.

    Flags reach into `launch` too (--launch.distil.steps 500). `--help` and `--print-config` print and raise
    `SystemExit`. Errors: ConfigError (unknown key, wrong type or choice, unreadable file).
    """
    preset = preset_of(argv, CompareConfig, {"launch": Config})
    if preset not in PRESETS:
        raise ConfigError(f"preset: {preset!r} is not known; one of {', '.join(PRESETS)}.{nearest(preset, PRESETS)}")
    return load_tree(PRESETS[preset], argv, prog, {"launch": Config})


def base_config(compare: CompareConfig) -> Config:
    """What all cells share: the defaults of the launch's preset, its keys, and output, cluster and GPUs of the
    comparison; teachers only where some method has them.

    Teachers' images are rendered, whatever the preset says, unless `launch` asks for `teacher_outputs: live`.
    Errors: ConfigError for a key of `launch` that is unknown, of the wrong type, or the comparison's own.
    """
    config = config_of(compare.launch, "launch", "demo-compare", _NOT_HERE)
    if flatten(compare.launch).get("teacher_outputs") != "live":
        config = dataclasses.replace(config, teacher_outputs="cached")
    try:
        asked = [config_of_method(config, method).teachers for method in compare.methods]
    except ConfigError as error:  # for a method that is unknown, or whose file holds none
        raise ConfigError(str(error).replace("method:", "methods:", 1)) from None
    return dataclasses.replace(
        config,
        output=compare.output,
        cluster=compare.cluster,
        num_gpus=compare.num_gpus,
        seed=Config().seed,
        teachers=max(asked, key=len, default=[]),
    )
