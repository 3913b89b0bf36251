"""What limited a stage, what to change, and what that would gain: in the model by which splits are chosen, with the
seconds that the run itself took. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from rich.filesize import decimal

from mtkd_dist.config.shares import PoolShares
from mtkd_dist.pools.split import (
    Costs,
    Devices,
    Split,
    Step,
    best,
    cached_forecast,
    forecast,
    possible_splits,
    students_forecast,
)
from mtkd_dist.report.progress import duration

BUSY = 0.7
"""A pool that works less than this is not the limit: what lies between the pools is."""
ALIKE = 0.1
"""Pools whose busy shares differ by less than this are balanced."""
WORTH = 0.03
"""Gains below this are not worth a sentence."""


@dataclass(frozen=True)
class Ran:
    """How a stage ran."""

    split: Split
    devices: Devices
    """What both pools could have used."""
    step: Step
    teachers: PoolShares
    """All 0 where no teacher pool serves the students; `split` then has no teachers either."""
    students: PoolShares
    """Of the rank that waited longest: the others wait for it in the sum of the gradients."""
    images_per_second: float
    """Over the time that the shares are of."""
    waited_seconds: float = 0.0
    """Exposed wait of the students."""
    spilled_bytes: int = 0
    window_full_bytes: bool = False
    """Whether the bytes in flight, and not the number of steps, kept the teachers back."""


@dataclass(frozen=True)
class Advice:
    """Another split, or another way to run, and what it gains."""

    text: str
    gain: float
    """Of images/s, as a share: 0.38 is 38 % more."""
    split: Split
    more_devices: int = 0
    """Devices that it needs beyond those that the run could use."""


@dataclass(frozen=True)
class Verdict:
    limit: Literal["teachers", "students", "balanced", "link", "reading", "one device"]
    advice: tuple[Advice, ...] = ()
    """Empty where nothing is worth it."""


@dataclass(frozen=True)
class Cached:
    """What it takes to say whether rendered teacher answers would pay."""

    lr_pixels: int
    """Of all training photographs."""
    images: int
    """That the stage trains on in all."""


def observed(ran: Ran, probe: Costs | None) -> Costs:
    """Seconds of work for an image, as this run took them: busy share x workers / images/s.

    What a run cannot see comes from the probe: how much of a student's step is there for any batch, and what threads
    shorten; without one, nothing and everything.
    """
    known = probe or Costs(0, 0, 1, 1e-9, 1e-9, {}, 0, serial=0)
    teacher = ran.teachers.working * ran.split.teachers / ran.images_per_second
    step = (ran.students.working + ran.students.held_back) * ran.step.batch_size / ran.images_per_second
    factor = step / known.step_seconds(ran.step.batch_size / ran.split.students, ran.split.threads)
    return replace(
        known,
        teacher=max(teacher, 1e-9),
        student_step=known.student_step * factor,
        student_image=max(known.student_image * factor, 1e-9),
    )


def judge(ran: Ran, probe: Costs | None = None, cached: Cached | None = None) -> Verdict:
    """What limited the stage, and what would have made it faster."""
    teachers, students = ran.teachers.working, ran.students.working + ran.students.held_back
    if not ran.split.teachers:
        return _judge_alone(ran, observed(ran, probe))
    if ran.split.shared:
        return Verdict("one device", _more_devices(ran, observed(ran, probe)))
    if max(teachers, students) < BUSY:
        return Verdict("link", (_link_advice(ran, 1 / max(teachers, students, 1e-9) - 1),))
    costs = observed(ran, probe)
    limit: Literal["teachers", "students", "balanced"] = "teachers" if teachers > students else "students"
    if abs(teachers - students) < ALIKE:
        limit = "balanced"
    more = _more(ran, costs, limit)
    other = _other_split(ran, costs)
    found = [other] if other is not None and other.split not in [advice.split for advice in more] else []
    found += more
    if probe is not None and cached is not None and limit == "teachers":
        found.append(_cached_advice(ran, costs, cached))
    return Verdict(limit, tuple(advice for advice in found if advice.gain >= WORTH))


def _judge_alone(ran: Ran, costs: Costs) -> Verdict:
    """Students that cut their samples from files."""
    busy = ran.students.working + ran.students.held_back
    if busy < BUSY:
        gain = 1 / max(busy, 1e-9) - 1
        storage = Advice(f"faster storage of what they cut from gives up to {gain:+.0%}", gain, ran.split)
        return Verdict("reading", (storage,))
    return Verdict("students", tuple(advice for advice in _more(ran, costs, "students") if advice.gain >= WORTH))


def sentence(ran: Ran, verdict: Verdict) -> str:
    """`the teachers were the limit: students waited 61 % of the time (38 min); ...`"""
    waited = f"students waited {ran.students.starved:.0%} of the time ({duration(ran.waited_seconds)})"
    said = {
        "teachers": f"the teachers were the limit: {waited}",
        "students": f"the students were the limit: teachers were held back {ran.teachers.held_back:.0%} of the time, "
        f"students waited {ran.students.starved:.0%}",
        "balanced": f"the pools were balanced: {waited}, teachers worked {ran.teachers.working:.0%} of theirs",
        "link": f"neither pool was the limit: {waited}, teachers worked only {ran.teachers.working:.0%} of theirs",
        "reading": f"reading was the limit: {waited} for what they cut from files",
        "one device": "both pools took turns on one device",
    }[verdict.limit]
    if verdict.limit == "students" and not ran.split.teachers:
        said = f"the students were the limit: they waited {ran.students.starved:.0%} of the time for data"
    spilled = f". Ray wrote {decimal(ran.spilled_bytes)} to disk; lower --link.max-bytes" if ran.spilled_bytes else ""
    return "; ".join([f"{said}{spilled}", *(advice.text for advice in verdict.advice)])


def link_text(ready: int, slots: int, bytes_in_flight: int, spilled_bytes: int | None) -> str:
    """`3 of 8 slots ready, 12.0 MB in flight`"""
    spilled = f", {decimal(spilled_bytes)} spilled" if spilled_bytes else ""
    return f"{ready} of {slots} slots ready, {decimal(bytes_in_flight)} in flight{spilled}"


def _gain(ran: Ran, costs: Costs, split: Split) -> float:
    """In the model, so that what it leaves out is left out on both sides."""
    model = forecast if ran.split.teachers else students_forecast
    return model(costs, split, ran.step).images_per_second / model(costs, ran.split, ran.step).images_per_second - 1


def _other_split(ran: Ran, costs: Costs) -> Advice | None:
    """The fastest use of the same devices."""
    splits = possible_splits(ran.devices, ran.step)
    if not splits:
        return None
    split = best([forecast(costs, split, ran.step) for split in splits]).split
    gain = _gain(ran, costs, split)
    if split == ran.split or gain <= 0:
        return None
    return Advice(f"{_flags(ran, split)} would give about {gain:+.0%}", gain, split)


def _more(ran: Ran, costs: Costs, limit: str) -> list[Advice]:
    """One more teacher, or the next possible number of students."""
    now = ran.split
    found = []
    if limit == "teachers":
        more = _with_cores(ran, replace(now, teachers=now.teachers + 1))
        found.append(_added(ran, costs, more, f"one more teacher worker ({more.teachers} instead of {now.teachers})"))
    if limit == "students":
        numbers = [n for n in ran.step.students(ran.step.slots) if n > now.students]
        if numbers:
            more = _with_cores(ran, replace(now, students=numbers[0]))
            count = numbers[0] - now.students
            which = f"{count} more student worker{'s' if count > 1 else ''} ({more.students} instead of {now.students})"
            found.append(_added(ran, costs, more, which))
    return found


def _with_cores(ran: Ran, split: Split) -> Split:
    """CPU students have the cores that the teachers leave, or else as many as they had."""
    if not split.teachers:
        return split
    return replace(split, threads=max(0, ran.devices.threads(split.teachers, split.students)) or split.threads)


def _added(ran: Ran, costs: Costs, split: Split, which: str) -> Advice:
    gain = _gain(ran, costs, split)
    beyond = max(0, split.teachers + split.students * split.threads - ran.devices.count)
    on = f"on {beyond} {ran.devices.kind}{'s' if beyond > 1 else ''} more, " if beyond else ""
    return Advice(f"{on}{which} would give about {gain:+.0%} ({_flags(ran, split)})", gain, split, beyond)


def _more_devices(ran: Ran, costs: Costs) -> tuple[Advice, ...]:
    """A second device, so that the pools need not take turns. What turns cost is in the busy shares already."""
    two = replace(ran.split, shared=False)
    gain = _gain(ran, costs, two)
    beyond = 2 - ran.devices.count
    text = f"on a second {ran.devices.kind} they would work at the same time, which gives up to {gain:+.0%}"
    return (Advice(text, gain, two, beyond),) if gain >= WORTH else ()


def _cached_advice(ran: Ran, costs: Costs, cached: Cached) -> Advice:
    there = cached_forecast(costs, ran.devices, ran.step, cached.lr_pixels)
    live = cached.images / forecast(costs, ran.split, ran.step).images_per_second
    gain = live / there.stage_seconds(cached.images) - 1
    rendering = duration(there.before_seconds)
    text = f"--teacher-outputs cached would give about {gain:+.0%}, with {rendering} of rendering in it"
    return Advice(text, gain, there.split)


def _link_advice(ran: Ran, gain: float) -> Advice:
    if ran.spilled_bytes:
        change = "give Ray's object store more memory"
    elif ran.teachers.held_back >= ran.teachers.starved:
        change = "raise --link.max-bytes" if ran.window_full_bytes else "raise --link.window-steps"
    else:
        change = "larger answers, and fewer of them, travel faster: raise --link.slot-size"
    return Advice(f"{change}, which gives up to {gain:+.0%}", gain, ran.split)


def _flags(ran: Ran, split: Split) -> str:
    if not split.teachers:
        return f"{'--cluster.student-workers' if ran.devices.kind == 'CPU' else '--num-gpus'} {split.students}"
    if ran.devices.kind == "CPU":
        return f"--cluster.teacher-workers {split.teachers} --cluster.student-workers {split.students}"
    used = split.teachers + split.students
    total = f"--num-gpus {used} " if used > ran.devices.count else ""
    return f"{total}--teacher-gpus {split.teachers} --student-gpus {split.students}"
