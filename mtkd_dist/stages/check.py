"""Refuses a configuration that cannot work, before Ray starts, naming key, value, what is allowed and the remedy."""

from __future__ import annotations

import functools
import math
from pathlib import Path

from torch import nn

from mtkd_dist.config.load import ConfigError, nearest
from mtkd_dist.config.tree import Config, TrainingConfig
from mtkd_dist.methods import Aggregation, Method, NeedsNetworks, values_sent
from mtkd_dist.models import (
    aggregator_path,
    build_aggregator,
    digest_file,
    load_aggregator,
    load_network,
    network_names,
    parse_aggregator,
    parse_network,
    starting_weights,
)
from mtkd_dist.pools.wire import sample_bytes
from mtkd_dist.stages.check_loss import check_loss
from mtkd_dist.stages.check_method import check_method, check_method_settings, require_room
from mtkd_dist.stages.distil_method import distil_method, needs_aggregator
from mtkd_dist.stages.refuse import parsed, require
from mtkd_dist.stages.students import more_students, title_of
from mtkd_dist.stages.teacher_spec import TeacherSpec, parse_teachers

TRAININGS = ("teacher_training", "aggregate", "distil")


def check(config: Config) -> None:
    """Errors: ConfigError for the first thing that cannot work."""
    _check_folders(config)
    teachers = _check_files(config)
    check_settings(config)
    check_method(config, teachers)


def check_settings(config: Config) -> None:
    """The part of `check` that reads no photograph and no weights, for who asks about hundreds of configurations."""
    _check_networks(config)
    for name in TRAININGS:
        _check_training(name, getattr(config, name), config)
    check_loss(config)
    check_method_settings(config)
    _check_link(config)
    _check_answers(config)
    _check_gpus(config)


def named_set(entry: str) -> tuple[str, str]:
    """`FOLDER` or `NAME=FOLDER` -> (name, folder). A folder called HR lends its parent's name: Set5/HR is Set5."""
    name, equals, folder = entry.partition("=")
    if equals and not Path(entry).exists():
        return name, folder
    path = Path(entry)
    return (path.resolve().parent.name if path.name.lower() in ("hr", "gt") else path.resolve().name), entry


def _check_folders(config: Config) -> None:
    output = Path(config.output)
    require(bool(config.output.strip()), "output", repr(config.output), "a folder")
    require(not output.exists() or output.is_dir(), "output", output, "a folder, and this is a file")
    require(
        bool(config.data), "data", config.data, f"at least one folder of photographs (preset {config.preset} has none)"
    )
    for entry in config.data:
        _check_folder("data", entry)
    for entry in config.test:
        _check_folder("test", entry if entry == "demo" else named_set(entry)[1])
    names = ["demo" if entry == "demo" else named_set(entry)[0] for entry in config.test]
    for name in names:
        require(names.count(name) == 1, "test", config.test, f"different names; {name!r} occurs twice (NAME=FOLDER)")
    require(0 <= config.images.held_out < 1, "images.held_out", config.images.held_out, "a share from 0 to below 1")
    names = config.images.held_out_names
    require(
        all(name.strip() for name in names), "images.held_out_names", names, "names or patterns, none of them empty"
    )


def _check_folder(key: str, entry: str) -> None:
    if entry == "demo" or Path(entry).exists():
        return
    close = nearest(Path(entry).name, _names_beside(Path(entry)))
    raise ConfigError(f"{key}: {entry!r} does not exist; expected a folder of photographs.{close}")


def _names_beside(path: Path) -> list[str]:
    return [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []


def _check_networks(config: Config) -> None:
    parsed("student", config.student, parse_network)
    trains_aggregator = needs_aggregator(config) and aggregator_path(config.aggregator) is None
    aggregator = parsed("aggregator", config.aggregator, parse_aggregator) if trains_aggregator else None
    require(
        bool(config.teachers) or not distil_method(config).needs_teachers,
        "teachers",
        config.teachers,
        f"at least one file or network: the method {config.method} needs it (scratch does not)",
    )
    teachers = parsed("teachers", config.teachers, parse_teachers)
    _check_more_students(config, [teacher.name for teacher in teachers])
    if aggregator:
        parsed("aggregator", aggregator, lambda spec: build_aggregator(spec, len(teachers), config.scale))


def _check_more_students(config: Config, teachers: list[str]) -> None:
    more = parsed("more_students", config, more_students)
    for title in (title_of(net.name) for net in more):
        require(
            title not in teachers,
            "more_students",
            config.more_students,
            f"students that are not called as a teacher is; name the teacher {title!r} otherwise (FILE:name=OTHER)",
        )


def _check_files(config: Config) -> dict[str, nn.Module]:
    """Weights that are given. Returns the networks of the teachers among them, by name."""
    student = parsed("student", config.student, parse_network)
    if config.student_weights is not None:
        if not Path(config.student_weights).is_file():
            close = nearest(Path(config.student_weights).name, _names_beside(Path(config.student_weights)))
            raise ConfigError(f"student_weights: {config.student_weights!r} is no file; expected weights.{close}")
        parsed(
            "student_weights",
            config.student_weights,
            functools.partial(starting_weights, network=student.text, scale=config.scale),
        )
    teachers = parsed("teachers", config.teachers, parse_teachers)
    networks = {}
    for teacher in teachers:
        if teacher.path is None:
            continue
        if not teacher.path.is_file():
            close = nearest(teacher.path.name, [*_names_beside(teacher.path), *network_names()])
            raise ConfigError(
                f"teachers: {str(teacher.path)!r} is neither a file nor a network; networks: "
                f"{', '.join(network_names())}.{close}"
            )
        # Cheap beside decoding a data set, after which it would otherwise be found out.
        networks[teacher.name] = parsed(
            "teachers",
            teacher.path,
            functools.partial(load_network, scale=config.scale, input_range=teacher.input_range),
        ).module
    given = aggregator_path(config.aggregator)
    if given and needs_aggregator(config):
        _check_given_aggregator(given, teachers, config.scale)
    return networks


def _check_given_aggregator(given: Path, teachers: list[TeacherSpec], scale: int) -> None:
    if not given.is_file():
        close = nearest(given.name, _names_beside(given))
        raise ConfigError(f"aggregator: {str(given)!r} does not exist; expected a file of an earlier run.{close}")
    digests = {}
    for teacher in teachers:
        if teacher.path is None:
            raise ConfigError(
                f"aggregator: {str(given)!r} cannot know the teacher {teacher.name!r}, which this run trains first; "
                f"expected weight files for all teachers (OUTPUT/teachers/{teacher.name}/weights.safetensors:name="
                f"{teacher.name} of the run that made it), or an aggregator to train (dctswin)"
            )
        digests[teacher.name] = digest_file(teacher.path)
    parsed("aggregator", given, lambda path: load_aggregator(path, digests, scale))


def _check_training(name: str, training: TrainingConfig, config: Config) -> None:
    least_values = {"steps": 1, "batch_size": 1, "patch": 8, "checkpoint_every": 1, "keep_checkpoints": 1}
    for field, least in least_values.items():
        value = getattr(training, field)
        require(value >= least, f"{name}.{field}", value, f"at least {least}")
    rate, rates = training.learning_rate, training.rates
    require(0 < rate < math.inf, f"{name}.learning_rate", rate, "a number above 0")
    require(all(0 < r < math.inf for r in rates), f"{name}.rates", rates, "numbers above 0")
    require(
        not rates or training.steps % len(rates) == 0,
        f"{name}.rates",
        rates,
        f"a number of rates that divides {name}.steps ({training.steps}), for parts of equal length",
    )
    require(0 <= training.ema < 1, f"{name}.ema", training.ema, "a decay from 0 (no average) to below 1")
    require(training.validate_every >= 0, f"{name}.validate_every", training.validate_every, "0 (never) or a number")
    require(
        training.result != "best" or training.validate_every > 0,
        f"{name}.result",
        training.result,
        f"last, or photographs to judge by: images.held_out ({config.images.held_out:g}) and {name}.validate_every "
        f"({training.validate_every}) above 0",
    )
    require(training.clip_grad >= 0, f"{name}.clip_grad", training.clip_grad, "0 (off) or a norm above 0")
    require(all(0 < s < 1 for s in training.halve_at), f"{name}.halve_at", training.halve_at, "shares between 0 and 1")
    require(config.link.slot_size >= 1, "link.slot_size", config.link.slot_size, "at least 1")
    require(
        training.batch_size % config.link.slot_size == 0,
        f"{name}.batch_size",
        training.batch_size,
        f"a multiple of link.slot_size ({config.link.slot_size})",
    )


def _check_link(config: Config) -> None:
    link = config.link
    require(link.window_steps >= 1, "link.window_steps", link.window_steps, "at least 1")
    for key in ("starved_seconds", "hang_seconds"):
        require(getattr(link, key) > 0, f"link.{key}", getattr(link, key), "a number above 0")
    for key in ("min_teachers", "shards"):
        require(getattr(link, key) >= 1, f"link.{key}", getattr(link, key), "at least 1")
    require_room(
        config, max((_step_bytes(training, method, config) for training, method in _on_the_link(config)), default=0)
    )


def _check_answers(config: Config) -> None:
    require(config.answers.max_bytes >= 1, "answers.max_bytes", config.answers.max_bytes, "at least 1")
    folder = Path(config.answers.folder) if config.answers.folder is not None else None
    require(folder is None or bool(str(folder).strip()), "answers.folder", repr(config.answers.folder), "a folder")
    require(
        folder is None or not folder.exists() or folder.is_dir(),
        "answers.folder",
        folder,
        "a folder, and this is a file",
    )


def _on_the_link(config: Config) -> list[tuple[TrainingConfig, Method]]:
    """The trainings whose samples teachers answer, with their methods."""
    student = distil_method(config)
    trainings: list[tuple[TrainingConfig, Method]] = [(config.distil, student)] if student.needs_teachers else []
    if needs_aggregator(config) and aggregator_path(config.aggregator) is None:
        trainings.append((config.aggregate, Aggregation()))
    return trainings


def _step_bytes(training: TrainingConfig, method: Method, config: Config) -> int:
    """Of all answers of one step; 0 where only networks can tell, which `check_method` asks."""
    try:
        values = values_sent(method, len(config.teachers), config.scale, training.patch)
    except NeedsNetworks:
        return 0
    return training.batch_size * sample_bytes(training.patch, config.scale, values, config.link.wire)


def _check_gpus(config: Config) -> None:
    for key in ("num_gpus", "teacher_gpus", "student_gpus"):
        value = getattr(config, key)
        require(value is None or value >= 0, key, value, "0 or more")
    asked = (config.teacher_gpus or 0) + (config.student_gpus or 0)
    if config.num_gpus is not None:
        require(
            asked <= config.num_gpus,
            "num_gpus",
            config.num_gpus,
            f"at least teacher_gpus + student_gpus = {asked}",
        )
    for key in ("teacher_workers", "student_workers", "min_students"):
        value = getattr(config.cluster, key)
        require(value is None or value >= 1, f"cluster.{key}", value, "at least 1")
    if config.num_gpus:
        for key in ("teacher_gpus", "student_gpus"):
            require(
                getattr(config, key) != 0 and getattr(config, key) != config.num_gpus,
                key,
                getattr(config, key),
                f"at least 1 and one of {config.num_gpus} left for the other pool",
            )
    slots_of_all = [getattr(config, name).batch_size // config.link.slot_size for name in TRAININGS]
    for key, students, slots in (
        # A teacher that is trained gets all GPUs, as many as divide its slots.
        ("student_gpus", config.student_gpus, slots_of_all[1:]),
        ("cluster.student_workers", config.cluster.student_workers, slots_of_all),
    ):
        require(
            not students or all(count % students == 0 for count in slots),
            key,
            students,
            f"a divisor of the slots of a step (batch_size / link.slot_size = {', '.join(map(str, slots))})",
        )
