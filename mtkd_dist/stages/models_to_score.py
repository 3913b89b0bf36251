"""`MODEL...` of the evaluation command: weight files of any origin, runs, aggregators of ours, the word `bicubic`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mtkd_dist.config.load import ConfigError, nearest
from mtkd_dist.models import count_params, is_aggregator, load_network, read_metadata
from mtkd_dist.pools.evaluate import BICUBIC, ENSEMBLE_MARK, EvaluateJob, Extra, Merged
from mtkd_dist.pools.teacher_worker import TeacherFile
from mtkd_dist.stages.scores import About
from mtkd_dist.stages.student_file import weights_at
from mtkd_dist.stages.teacher_spec import parse_teacher


@dataclass(frozen=True)
class Candidate:
    """A model that can be scored: its file was read, and its scale is known."""

    model: TeacherFile | Merged
    file: str
    """As the user wrote it, for messages."""
    scale: int
    about: About


def read_models(words: Sequence[str]) -> list[Candidate]:
    """What `weight_file` takes, or `bicubic`, which gives no candidate -> networks as given, then aggregators.

    Errors: ConfigError naming file, what was found and the remedy.
    """
    files = [weight_file(word, or_word=BICUBIC) for word in words if word != BICUBIC]
    _refuse_equal_names(files)
    try:
        networks = {file.name: _network(file) for file in files if not is_aggregator(file.path)}
        aggregates = [_aggregate(file, networks) for file in files if is_aggregator(file.path)]
    except ValueError as error:
        raise ConfigError(str(error)) from None
    merged = [candidate.model for candidate in aggregates]
    teachers = {teacher.name for model in merged if isinstance(model, Merged) for teacher in model.teachers}
    return [
        replace(network, about=network.about._replace(role="teacher")) if name in teachers else network
        for name, network in networks.items()
    ] + aggregates


def jobs_of(
    candidates: Sequence[Candidate], scales: Sequence[int], extra: tuple[Extra, ...], with_ensemble: bool
) -> list[EvaluateJob]:
    """One job a scale."""
    return [
        EvaluateJob(scale, tuple(c.model for c in candidates if c.scale == scale), extra, with_ensemble)
        for scale in scales
    ]


def about_models(candidates: Sequence[Candidate]) -> dict[str, About]:
    """Name of every row -> its role and parameters; a self-ensemble has those of its model."""
    about = {candidate.model.name: candidate.about for candidate in candidates}
    return {BICUBIC: About("bicubic", 0)} | about | {name + ENSEMBLE_MARK: about[name] for name in about}


def weight_file(word: str, or_word: str | None = None) -> TeacherFile:
    """`FILE[:name=X,input_range=255]`, with the path as the user wrote it; in the place of FILE also RUN, the folder of
    a finished run, whose student has its name.

    Errors: ConfigError where there is no such file or no student in it; `or_word` might have been meant instead.
    """
    if Path(word).is_dir():  # also where it is called as a network is
        return TeacherFile(Path(word).resolve().name, weights_at(Path(word)), None)
    try:
        spec = parse_teacher(word)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if spec.path is None:
        raise ConfigError(f"{word!r} is a network without weights; give a weight file, or train it with mtkd launch")
    path = weights_at(spec.path)
    if not path.is_file():
        beside = [other.name for other in spec.path.parent.iterdir()] if spec.path.parent.is_dir() else []
        raise ConfigError(
            f"{str(spec.path)!r}: there is no such file or folder; expected a weight file"
            f"{', the word ' + or_word if or_word else ''} or the folder of a finished run."
            f"{nearest(spec.path.name, [*beside, or_word] if or_word else beside)}"
        )
    return TeacherFile(spec.name, path, spec.input_range)


def _refuse_equal_names(files: Sequence[TeacherFile]) -> None:
    taken: dict[str, str] = {BICUBIC: f"the word {BICUBIC}"}
    for file in files:
        if file.name in taken:
            raise ConfigError(
                f"two models are called {file.name!r}: {taken[file.name]} and {file.path}; "
                f"name one of them: {file.path}:name=OTHER"
            )
        taken[file.name] = str(file.path)
    for file in files:
        if (ensemble := file.name + ENSEMBLE_MARK) in taken:
            raise ConfigError(
                f"{taken[ensemble]} is called {ensemble!r}, as the self-ensemble of {file.name!r} is; "
                f"name one of them: {file.path}:name=OTHER"
            )


def _network(file: TeacherFile) -> Candidate:
    loaded = load_network(file.path, input_range=file.input_range)
    role = "student" if "method" in read_metadata(file.path) else "model"
    return Candidate(_resolved(file), str(file.path), loaded.scale, About(role, loaded.params))


def _resolved(file: TeacherFile) -> TeacherFile:
    """Workers may stand in another folder."""
    return TeacherFile(file.name, file.path.resolve(), file.input_range)


def _aggregate(file: TeacherFile, networks: Mapping[str, Candidate]) -> Candidate:
    if file.input_range is not None:
        raise ConfigError(f"{file.path}: an aggregator has no input_range; its teachers have")
    metadata = read_metadata(file.path)
    names, scale = list(json.loads(metadata["teachers"])), int(metadata["scale"])
    if missing := [name for name in names if name not in networks]:
        raise ConfigError(
            f"{file.path} is an aggregator of {', '.join(names)}, and {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not given; given: {', '.join(networks) or 'no network'}. "
            "Give the files of its teachers too, under these names: FILE:name=NAME"
        )
    teachers: list[TeacherFile] = []
    for name in names:
        network = networks[name]
        if network.scale != scale:
            raise ConfigError(
                f"{file.path} is an aggregator of x{scale}, and its teacher {name} ({network.file}) enlarges "
                f"{network.scale} times; give the files that it was trained with"
            )
        assert isinstance(network.model, TeacherFile)
        teachers.append(network.model)
    merged = Merged(file.name, tuple(teachers), file.path.resolve())
    params = count_params(merged.load(scale)) + sum(networks[name].about.params for name in names)
    return Candidate(merged, str(file.path), scale, About("aggregate", params))
