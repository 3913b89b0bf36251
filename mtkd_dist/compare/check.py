"""Refuses a comparison that cannot work, before anything starts, naming key, value, what is expected and the remedy."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import yaml

from mtkd_dist.compare.load import base_config
from mtkd_dist.compare.tree import CompareConfig
from mtkd_dist.compare.work import config_of_method
from mtkd_dist.config.load import ConfigError, flatten
from mtkd_dist.config.tree import Config
from mtkd_dist.stages.check import check
from mtkd_dist.stages.distil_method import method_title
from mtkd_dist.stages.refuse import require
from mtkd_dist.stages.training import WEIGHTLESS


def check_compare(compare: CompareConfig, base: Config) -> None:
    """Errors: ConfigError for the first thing that cannot work. `base`: what all cells share."""
    for key in ("methods", "students", "seeds"):
        _check_names(key, getattr(compare, key))
    # Folders are named by titles, and those of files in different folders may be the same.
    _check_names("methods", [method_title(method) for method in compare.methods])
    require(all(0 <= seed < 2**32 for seed in compare.seeds), "seeds", compare.seeds, "numbers from 0 to below 2^32")
    cell = compare.cell
    require(0 < cell.cpus < math.inf, "cell.cpus", cell.cpus, "a number above 0")
    require(
        cell.gpus is None or 0 <= cell.gpus <= 1,
        "cell.gpus",
        cell.gpus,
        "from 0 to 1: a cell trains on one GPU or a part of it",
    )
    require(cell.retries >= 0, "cell.retries", cell.retries, "0 or more")
    require((compare.num_gpus or 0) >= 0, "num_gpus", compare.num_gpus, "0 or more")
    first, *more = compare.students
    for method in compare.methods:
        try:
            check(dataclasses.replace(config_of_method(base, method), student=first, more_students=more))
        except ConfigError as error:
            raise ConfigError(_in_own_words(str(error))) from None


def _in_own_words(refusal: str) -> str:
    """What a launch would be told, with the key by which a comparison has it."""
    key, colon, words = refusal.partition(": ")
    if key in ("student", "more_students", "method"):
        return f"{'methods' if key == 'method' else 'students'}{colon}{words}"
    own = {field.name for field in dataclasses.fields(CompareConfig)}
    return refusal if key.partition(".")[0] in own else f"launch.{refusal}"


def _check_names(key: str, names: Sequence[object]) -> None:
    require(bool(names), key, names, "at least one")
    require(len(set(names)) == len(names), key, names, "each of them once")


_FREE = (
    *("preset", "output", "test", "num_gpus", "teacher_gpus", "student_gpus", "plan_only", "on_change", "cluster"),
    *("images.on_bad", "images.cache", "answers.folder", "answers.max_bytes"),
)
"""Keys, and groups of keys, that cells do not depend on, or that say for themselves when they do."""


def _binding(compare: CompareConfig) -> dict[str, object]:
    """Settings that cells were made with."""
    values = flatten(dataclasses.asdict(base_config(compare)))
    return {key: value for key, value in values.items() if not _is_free(key)}


def _is_free(key: str) -> bool:
    return key in _FREE or key.partition(".")[0] in _FREE or key.rpartition(".")[2] in WEIGHTLESS


def check_unchanged(compare: CompareConfig, file: Path) -> None:
    """Whether the comparison that `file` holds can be gone on with. Cells that are done were made with its settings.

    Errors: ConfigError that shows what differs.
    """
    if not file.exists():
        return
    launch = yaml.safe_load(file.read_text())["launch"]
    before, now = (_binding(dataclasses.replace(compare, launch=words)) for words in (launch, compare.launch))
    changed = [f"launch.{key}: {before[key]!r} -> {now[key]!r}" for key in before if before[key] != now[key]]
    if changed:
        raise ConfigError(
            f"output: the comparison in {file.parent} was begun with other settings ({'; '.join(changed)}), and only "
            "students of the same plan are compared; go on with those, or give another --output"
        )
