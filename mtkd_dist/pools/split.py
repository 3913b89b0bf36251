"""Which split of the devices between the pools is fastest, given what a probe measured. Pure: no Ray, no clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

Limit = Literal["teachers", "students", "link", "one device"]


@dataclass(frozen=True)
class Costs:
    """Seconds of work, as the probe measured them on one device (a GPU, or one CPU core)."""

    teacher: float
    """Of a teacher worker for one image: cutting, all teachers, the aggregator where it is frozen, packing, storing."""
    student_step: float
    """Of a student's step, whatever its batch."""
    student_image: float
    """Of a student's step for each image in it, on top of `student_step`."""
    read: float
    """Of a student's prefetch thread for one image: out of the object store and onto the device."""
    cut: float
    """For one image: cutting LR and HR."""
    teachers: Mapping[str, float]
    """Of each teacher alone for one image; together at most about `teacher`."""
    aggregator: float
    """Of the aggregator alone for one image; 0 where the teacher half has none."""
    serial: float = 1.0
    """Share of a student's step that more CPU threads do not shorten, in 0..1."""
    patch: int = 1
    """Side of an image in LR pixels."""

    @property
    def render_pixel(self) -> float:
        """Of all teachers and the frozen aggregator for one LR pixel: what it costs to render a photograph once."""
        return (sum(self.teachers.values()) + self.aggregator) / self.patch**2

    def step_seconds(self, images: float, threads: int = 1) -> float:
        """Of a student's step over `images`."""
        return (self.student_step + images * self.student_image) * (self.serial + (1 - self.serial) / threads)


@dataclass(frozen=True)
class Split:
    """Workers of both pools; one device each, but for students of several CPU threads."""

    teachers: int
    students: int
    threads: int = 1
    """CPU cores of one student."""
    shared: bool = False
    """Both pools on one device, in turns."""


@dataclass(frozen=True)
class Forecast:
    split: Split
    images_per_second: float
    limit: Limit
    """What keeps it from being more."""
    before_seconds: float = 0.0
    """Work that comes first: rendering, in cached mode."""

    def stage_seconds(self, images: int) -> float:
        """Of a stage that trains on `images` in all (steps x batch size)."""
        return self.before_seconds + images / self.images_per_second


@dataclass(frozen=True)
class Devices:
    """What both pools together may use."""

    count: int
    kind: Literal["GPU", "CPU"]
    nodes: int = 1
    """Machines that they are in, equally many in each."""

    def threads(self, teachers: int, students: int) -> int:
        """CPU cores of a student: those that the teachers leave, as far as one machine has them."""
        if self.kind == "GPU":
            return 1
        return min((self.count - teachers) // students, self.count // self.nodes)


@dataclass(frozen=True)
class Step:
    """One step of all students together."""

    batch_size: int
    slots: int
    """Students share them evenly, so their number divides it."""

    def students(self, at_most: int) -> list[int]:
        """Numbers of students that are possible, in ascending order."""
        return [count for count in range(1, min(self.slots, at_most) + 1) if self.slots % count == 0]


def possible_splits(
    devices: Devices, step: Step, teachers: int | None = None, students: int | None = None
) -> list[Split]:
    """All splits that use the devices in full; `teachers` and `students`: numbers that are fixed already.

    A single device is shared, others never are. A teacher worker takes one CPU core: two workers answer more than one
    with two threads. The cores that the teachers leave are divided between the students.
    """
    if devices.count < 2:
        return [Split(teachers or 1, students or 1, shared=True)]
    found = []
    for s in step.students(devices.count - 1) if students is None else [students]:
        least = 1 if devices.kind == "CPU" else devices.count - s
        for t in range(max(1, least), devices.count - s + 1) if teachers is None else [teachers]:
            if t + s <= devices.count:
                found.append(Split(t, s, devices.threads(t, s)))
    return found


def forecast(costs: Costs, split: Split, step: Step) -> Forecast:
    """Images/s of a split: those of the slower pool. Not counted: what students lose by adding up their gradients."""
    share = step.batch_size / split.students
    rates: dict[Limit, float] = {
        "teachers": split.teachers / costs.teacher,
        "students": step.batch_size / costs.step_seconds(share, split.threads),
        "link": split.students / costs.read,
    }
    if split.shared:
        return Forecast(split, 1 / (1 / rates["teachers"] + 1 / rates["students"]), "one device")
    limit = min(rates, key=rates.__getitem__)
    return Forecast(split, rates[limit], limit)


def best(forecasts: list[Forecast]) -> Forecast:
    """The fastest; of equally fast ones that with the fewest students, then the fewest teachers."""
    return max(forecasts, key=lambda f: (f.images_per_second, -f.split.students, -f.split.teachers))


def cached_forecast(costs: Costs, devices: Devices, step: Step, lr_pixels: int) -> Forecast:
    """The same where teachers and frozen aggregator answer each photograph once (`lr_pixels` in all) on all devices,
    which then train.

    Students cut what they need. A pixel is taken to cost what it costs in a patch.
    """
    before = lr_pixels * costs.render_pixel / devices.count
    splits = [Split(0, students, devices.threads(0, students)) for students in step.students(devices.count)]
    return best([replace(students_forecast(costs, split, step), before_seconds=before) for split in splits])


def students_forecast(costs: Costs, split: Split, step: Step) -> Forecast:
    """Images/s of students that no teacher pool serves: they cut what they need from files."""
    share = step.batch_size / split.students
    rates: dict[Limit, float] = {
        "students": step.batch_size / costs.step_seconds(share, split.threads),
        "link": split.students / costs.cut,
    }
    limit = min(rates, key=rates.__getitem__)
    return Forecast(split, rates[limit], limit)


@dataclass(frozen=True)
class Placement:
    """Nodes of the workers, one entry a worker."""

    teachers: list[str] = field(default_factory=list)
    students: list[str] = field(default_factory=list)


def place(free: Mapping[str, float], teachers: int, students: int, student_devices: int = 1) -> Placement | None:
    """Students on as few nodes as possible, since they add up their gradients in every step; teachers on the others.

    Args:
        free: node -> free devices.
        student_devices: devices of one student; a teacher takes one.

    Returns None when there is no room, or none without a student that is cut in two.
    """
    room = {node: int(count) // student_devices for node, count in free.items()}
    left = {node: int(count) for node, count in free.items()}
    placed: list[str] = []
    while len(placed) < students:
        wanted = students - len(placed)
        enough = [node for node in room if room[node] >= wanted]
        # The tightest node that takes all of them, or else the largest.
        node = min(enough, key=lambda n: (left[n], n)) if enough else max(room, key=lambda n: (room[n], n), default="")
        taken = min(wanted, room.pop(node, 0))
        if not taken:
            return None
        left[node] -= taken * student_devices
        placed += [node] * taken
    # Nodes without students first.
    order = sorted(left, key=lambda n: (n in placed, -left[n], n))
    for_teachers = [node for node in order for _ in range(left[node])]
    return Placement(for_teachers[:teachers], placed) if len(for_teachers) >= teachers else None
