"""What stands for a model: a weight file, or the folder of the run that made it."""

from __future__ import annotations

from pathlib import Path

from mtkd_dist.config.load import ConfigError
from mtkd_dist.train.students import MAIN

STUDENT_FILE = f"{MAIN}.safetensors"
"""Name of the main student's weights in the folder of its run."""


def weights_at(place: Path) -> Path:
    """The main student of the run in a folder; whatever is no folder as it is.

    Errors: ConfigError for a folder without one, with the weight files that lie there instead.
    """
    if not place.is_dir():
        return place
    if (place / STUDENT_FILE).is_file():
        return place / STUDENT_FILE
    others = sorted(str(file) for file in place.glob("*.safetensors"))
    remedy = (
        f"it holds {', '.join(others)}: give {'one of them' if others[1:] else 'that'}"
        if others
        else "expected a finished run, which the same `mtkd launch` makes of one that is half done, or a weight file"
    )
    raise ConfigError(f"{place}: there is no {STUDENT_FILE} in this folder; {remedy}")
