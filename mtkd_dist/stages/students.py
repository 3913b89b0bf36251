"""The students that a configuration names: the main one, and those that learn from the same answers beside it. Pure."""

from __future__ import annotations

import re

from mtkd_dist.config.tree import Config
from mtkd_dist.models import parse_network
from mtkd_dist.train.job import StudentNet
from mtkd_dist.train.students import MAIN


def more_students(config: Config) -> tuple[StudentNet, ...]:
    """Those of `more_students`, named after their networks (`rlfn:width=16` is `rlfn-width-16`).

    Errors: ValueError for a text that names no network, and for one that is there twice.
    """
    taken = {parse_network(config.student).text: MAIN}
    students: list[StudentNet] = []
    for entry in config.more_students:
        network = parse_network(entry).text
        name = re.sub(r"\W+", "-", network)
        if network in taken or name in taken.values():
            raise ValueError(
                f"{entry!r} is there twice (student: {config.student}; more_students: "
                f"{', '.join(config.more_students)}): both would end alike; take one of them out"
            )
        taken[network] = name
        students.append(StudentNet(name, network))
    return tuple(students)


def title_of(name: str) -> str:
    """Of a student's row in the scores and, with `.safetensors`, of its file: `student`, or `student-NAME`."""
    return name if name == MAIN else f"{MAIN}-{name}"


def student_titles(config: Config) -> list[str]:
    """Of all students, the main one first."""
    return [title_of(name) for name in (MAIN, *(net.name for net in more_students(config)))]
