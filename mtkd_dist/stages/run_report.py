"""The report of a run: what its folder holds, also of a half-done one, gathered for one page."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from mtkd_dist.report.history import Past, read_history
from mtkd_dist.report.page.facts import Facts, Stage, Weights
from mtkd_dist.report.page.render import render
from mtkd_dist.stages import details, environment, half_done, manifest
from mtkd_dist.stages.evaluate import BANDS
from mtkd_dist.stages.manifest import Manifest
from mtkd_dist.stages.students import title_of
from mtkd_dist.stages.teacher_spec import parse_teachers
from mtkd_dist.tracking.events import without_credentials
from mtkd_dist.train.students import MAIN

FILE = "report.html"
"""In the output folder."""
CONFIG = "config.yaml"
FILES = {
    "student.safetensors": "the student",
    "student-*.safetensors": "a further student",
    "aggregator.safetensors": "the aggregator",
    "scores.json": "the scores",
    CONFIG: "all settings: mtkd launch --config runs them again",
    "plan.json": "how the split of the devices was chosen",
    environment.FILE: "versions and machine",
    details.STRIPS: "strips of the details, to send around",
    details.FOLDER: "each detail as a picture of its own",
    BANDS: "the spectra of the errors",
    "launch.log": "what the launch and its workers said",
}
"""Pattern -> what it is."""


def write_report(run: Path, file: Path) -> None:
    """One page about the run in the folder `run`.

    Errors: ValueError where no run has begun there, or a file of it cannot be read; OSError where the page cannot be
    written.
    """
    facts = gather(run)
    beside = Path(os.path.relpath(run, file.parent)).as_posix()
    manifest.write_text(file, render(facts, run, "" if beside == "." else beside))


def gather(run: Path) -> Facts:
    """Errors: ValueError as `write_report`."""
    if not run.is_dir():
        raise ValueError(f"{run} is no folder; expected the output folder of a launch")
    settings_text = _text(run / CONFIG)
    settings = _settings(run / CONFIG, settings_text)
    found = list(_stages(run, settings))
    if not found and not settings:
        raise ValueError(f"{run}: there is neither a {CONFIG} nor a stage; expected the output folder of a launch")
    rows = _json(run / "scores.json", [])
    params = {row["model"]: row["params"] for row in rows}
    return Facts(
        name=run.resolve().name,
        settings=settings,
        settings_text=settings_text,
        rows=rows,
        bands=_json(run / BANDS, []),
        details=_json(run / details.INDEX, []),
        stages=[stage for stage, _ in found],
        weights=[one for _, done in found if done is not None for one in _weights(done, params)],
        environment=_json(run / environment.FILE, {}),
        files={
            path.relative_to(run).as_posix() + ("/" if path.is_dir() else ""): what
            for pattern, what in FILES.items()
            for path in sorted(run.glob(pattern))
        },
    )


def _stages(run: Path, settings: dict[str, Any]) -> Iterator[tuple[Stage, Manifest | None]]:
    """Those that are done or begun, in their order, with their manifests; teachers in the order of the settings."""
    teachers = sorted(run.glob("teachers/*"))
    with contextlib.suppress(ValueError):  # of another version, which knew other networks
        named = [run / "teachers" / spec.name for spec in parse_teachers(settings.get("teachers", []))]
        teachers = named or teachers
    others = [run / name for name in ("answers/teachers", "aggregate", "answers/aggregate", "distil", "evaluate")]
    for folder in [*teachers, *others]:
        name, done = folder.relative_to(run).as_posix(), manifest.read(folder)
        half = half_done.begun(folder, done)
        if half is not None:  # what may be finished is of other settings, and will be replaced
            checkpoints, inputs = half
            past = read_history(half_done.history_of(checkpoints))
            yield Stage(name, False, _steps(inputs), past=past, more_students=_more_students(name, inputs)), None
        elif done is not None:
            course = next(folder.glob("course-*"), None)
            past = read_history(course) if course is not None else Past()
            more = _more_students(name, done.inputs)
            yield Stage(name, True, _steps(done.inputs), done.seconds, past, done.summary, more), done


def _steps(inputs: dict[str, Any]) -> int | None:
    steps: int | None = inputs.get("training", {}).get("steps")
    return steps


def _more_students(stage: str, inputs: dict[str, Any]) -> list[str]:
    return [name for name, *_ in inputs.get("more_students", [])] if stage == "distil" else []


def _weights(done: Manifest, params: dict[str, int]) -> Iterator[Weights]:
    """The files that a stage took or made. `params`: of the models that were scored."""
    network = done.inputs.get("network") or done.summary.get("architecture", "")
    if done.stage.startswith("teachers/"):
        name = done.stage.removeprefix("teachers/")
        path, digest = next(iter(done.outputs.items()), (done.summary.get("path", ""), done.inputs.get("file", "")))
        yield Weights(name, "teacher", network, params.get(name, done.summary.get("params")), path, digest)
    elif done.stage == "aggregate":
        path, digest = next(iter(done.outputs.items()))
        yield Weights("aggregator", "aggregator", network, None, done.summary.get("path", path), digest)
    elif done.stage == "distil":
        networks = {MAIN: network} | {name: text for name, text, *_ in done.inputs.get("more_students", [])}
        for name, text in networks.items():
            path = f"{title_of(name)}.safetensors"
            yield Weights(title_of(name), "student", text, params.get(title_of(name)), path, done.outputs.get(path, ""))


def _text(file: Path) -> str:
    """Empty where there is no such file. Addresses in it lose their passwords: a report is sent around."""
    try:
        return without_credentials(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ""


def _settings(file: Path, text: str) -> dict[str, Any]:
    try:
        return yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{file} cannot be read: {error}") from error


def _json(file: Path, otherwise: Any) -> Any:
    text = _text(file)
    try:
        return json.loads(text) if text else otherwise
    except ValueError as error:
        raise ValueError(f"{file} cannot be read: {error}; launch the run again, which writes it anew") from error
