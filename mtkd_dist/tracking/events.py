"""What is told to MLflow, as plain JSON-serialisable dicts, and the pure rules that make it acceptable there.

| kind     | further keys                                                      |
| -------- | ----------------------------------------------------------------- |
| run      | name, tags, time_ms: create the run, or continue it               |
| params   | params: name -> text                                              |
| tags     | tags: name -> text                                                |
| metrics  | rows: [name, value, time_ms, step], values finite                 |
| artifact | path: absolute, of a file or folder; name: its place in the run   |
| model    | path: absolute, of a file of weights; weights: its SHA-256;       |
|          | title: of the model in its run; name: of the registered model;    |
|          | tags: name -> text; metrics: names of the run's that it has       |
| finish   | status, time_ms                                                   |

Every event also has `run`: the name of the stage it belongs to, or None for the launch as a whole. Run ids are not in
the events, because a run may have no id yet when the event happens.
"""

from __future__ import annotations

import hashlib
import math
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Event = dict[str, Any]

# Limits of the MLflow REST API for one key, one value and one log_batch call.
KEY_CHARACTERS = 250
PARAM_CHARACTERS = 6000
TAG_CHARACTERS = 8000
PARAMS_PER_CALL = 100
TAGS_PER_CALL = 100
METRICS_PER_CALL = 1000


class RefusedError(Exception):
    """This event will never be taken, but the next one may be."""


def flatten(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Leaves of nested mappings, keys joined by dots; an empty mapping is a leaf, so that it stays visible."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def legal_key(key: str) -> str:
    """`key` as MLflow accepts it: other characters become `_`, and a digest ends a key of more than 250 characters."""
    legal = re.sub(r"[^\w.\- :/]", "_", key)
    path = posixpath.normpath(legal)
    if path != legal or path == "." or path.startswith(("..", "/")):
        legal = "_" + legal.replace("/", "_")
    if len(legal) > KEY_CHARACTERS:
        # Two long keys often differ at their ends only.
        legal = f"{legal[: KEY_CHARACTERS - 9]}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
    return legal


def param_texts(params: Mapping[str, object]) -> dict[str, str]:
    """Nested parameters as flat text; a value of more than 6000 characters is cut and ends in `...`."""
    texts = {legal_key(key): str(value) for key, value in flatten(params)}
    return {
        key: text if len(text) <= PARAM_CHARACTERS else f"{text[: PARAM_CHARACTERS - 3]}..."
        for key, text in texts.items()
    }


def tag_texts(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags with legal keys; a value of more than 8000 characters is cut."""
    return {legal_key(key): str(value)[:TAG_CHARACTERS] for key, value in tags.items()}


def metric_rows(values: Mapping[str, float], step: int | None, time_ms: int) -> tuple[list[list[Any]], dict[str, str]]:
    """Rows [name, value, time_ms, step] of the finite values, and one tag for each value that is not finite.

    Stores disagree about NaN and infinity (one turns infinity into 1.8e308, another refuses the whole call), so they
    become the tag `nonfinite.<name>` with value and step. `step` None counts as 0, MLflow's own default.
    """
    rows: list[list[Any]] = []
    tags: dict[str, str] = {}
    for name, value in values.items():
        number = float(value)
        if math.isfinite(number):
            rows.append([legal_key(name), number, time_ms, step or 0])
        else:
            tags[legal_key(f"nonfinite.{name}")] = f"{number} at step {step or 0}"
    return rows, tags


def merged(events: Sequence[Event]) -> list[Event]:
    """The same events in the same order, with neighbouring metrics of one run joined up to the size of one call."""
    out: list[Event] = []
    for event in events:
        last = out[-1] if out else None
        if (
            last is not None
            and event["kind"] == last["kind"] == "metrics"
            and event["run"] == last["run"]
            and len(last["rows"]) + len(event["rows"]) <= METRICS_PER_CALL
        ):
            out[-1] = {**last, "rows": last["rows"] + event["rows"]}
        else:
            out.append(event)
    return out


def without_credentials(text: str) -> str:
    """`text` with `user:password@` taken out of every address in it."""
    return re.sub(r"//[^/@\s]+@", "//", text)
