"""Follows a training: shows, tracks and writes down each update, and keeps what is said about it at the end."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from mtkd_dist.config.shares import PoolShares
from mtkd_dist.config.tree import LinkConfig
from mtkd_dist.pools.placement import Layout
from mtkd_dist.pools.split import Devices, Split, Step
from mtkd_dist.report.history import History
from mtkd_dist.report.limits import Ran, link_text
from mtkd_dist.report.progress import Progress
from mtkd_dist.tracking.tracker import StageRun
from mtkd_dist.train.job import StudentJob
from mtkd_dist.train.news import Update
from mtkd_dist.train.students import MAIN

NOBODY = PoolShares(0.0, 0.0, 0.0)


class Course:
    LOSSES_KEPT = 50

    def __init__(
        self,
        stage: str,
        layout: Layout,
        student: StudentJob,
        link: LinkConfig,
        progress: Progress,
        tracked: StageRun,
        history: History,
        say: Callable[[str], None],
    ) -> None:
        self._stage = stage
        self._layout = layout
        self._step = Step(student.training.batch_size, student.slots_per_step)
        self._students = student.students
        self._link_config = link
        self._say = say
        self._lost_workers = 0
        self._progress = progress
        self._tracked = tracked
        self._history = history
        self._losses: list[float] = []
        self._rates: list[float] = []
        self._pools: dict[str, PoolShares] = {}
        self._link: dict[str, Any] = {}
        self._fullest = 0
        self._waited_seconds = 0.0
        self._images_per_second = 0.0
        self._validation: dict[str, Any] = {}

    def update(self, update: Update) -> None:
        for record in update.records:
            numbers = {key: value for key, value in record.items() if isinstance(value, float)}
            self._tracked.metrics(numbers, step=record["step"])
        self._losses = (self._losses + [r["loss"] for r in update.records])[-self.LOSSES_KEPT :]
        for note in update.notes:
            self._say(f"{self._stage}: {note}")
        lost = update.link.get("lost_workers", 0)
        if lost > self._lost_workers:
            self._say(f"{self._stage}: {lost} teacher worker(s) have died so far; their work is done again by others")
            self._lost_workers = lost
        self._fullest = max(self._fullest, update.link.get("bytes_in_flight", 0))
        rated = [r for r in update.records if "images_per_second" in r]
        if rated:
            self._rates += [r["images_per_second"] for r in rated]
            self._rated(rated[-1], update)
        self._history.add(update.records, self._pools)
        # After the steps that it is about: in the history a start puts aside what lies beyond it.
        for scored in update.validations:
            self._validated(scored)

    def _rated(self, last: dict[str, Any], update: Update) -> None:
        students = update.students or last["students"]
        self._pools = {"students": students} | ({"teachers": update.teachers} if update.teachers else {})
        self._link = {key: value for key, value in update.link.items() if isinstance(value, int | float)}
        seconds, images = last["so_far"]["seconds"], last["so_far"]["images"]
        # The rank that waited longest, against the clock of rank 0: all ranks take a step together.
        self._waited_seconds = students.starved * seconds
        self._images_per_second = images / seconds if seconds else 0.0
        shares = {f"{pool}_{name}": value for pool, of in self._pools.items() for name, value in _asdict(of).items()}
        link = {f"link_{name}": float(value) for name, value in self._link.items()}
        self._tracked.metrics(shares | link | {"waited_seconds": self._waited_seconds}, step=last["step"])
        self._progress.update(
            last["step"] + 1, last["loss"], last["images_per_second"], self._pools, self._link_text() if link else ""
        )

    def _link_text(self) -> str:
        slots = self._link_config.window_steps * self._step.slots
        return link_text(self._link["ready"], slots, self._link["bytes_in_flight"], self._link.get("bytes_spilled"))

    def _validated(self, scored: dict[str, Any]) -> None:
        step = scored["step"]
        photographs = f"{scored['photos']} held-out photograph{'s' if scored['photos'] > 1 else ''}"
        for net in self._students:
            prefix = "" if net.name == MAIN else f"{net.name}/"
            who = f"{net.name}, " if len(self._students) > 1 else ""
            score, best_step, best = (scored[prefix + key] for key in ("validation_psnr_y", "best_step", "best_psnr_y"))
            self._tracked.metrics({f"{prefix}validation_psnr_y": score}, step=step)
            so_far = "the best so far" if best_step == step else f"best {best:.2f}"
            self._say(f"{self._stage}: step {step}, {who}PSNR-Y {score:.2f} dB on {photographs} ({so_far})")
        self._history.validated(scored)
        self._validation = {"validation": scored}

    def ran(self, devices: Devices) -> Ran | None:
        """How the pools fared; None before any figures. `devices`: what they could have had."""
        teachers, students = self._layout.teachers, self._layout.students
        if len(self._pools) < (1 if teachers is None else 2) or not self._images_per_second:
            return None
        # Those that were really there.
        working = 0 if teachers is None else self._link.get("workers") or teachers.workers
        shared = teachers is not None and (students.gpus or students.cpus) < 1 and devices.count < 2
        split = Split(working, students.workers, 1 if students.gpus else students.threads, shared)
        return Ran(
            split,
            devices,
            self._step,
            self._pools.get("teachers", NOBODY),
            self._pools["students"],
            self._images_per_second,
            self._waited_seconds,
            self._link.get("bytes_spilled", 0),
            # One more step would not have fitted.
            self._fullest * (1 + 1 / self._link_config.window_steps) > self._link_config.max_bytes,
        )

    def summary(self) -> dict[str, Any]:
        """Mean of the last losses, median of images/s, where the pools' time went, last and best validation."""
        return (
            ({"pools": {name: _asdict(pool) for name, pool in self._pools.items()}} if self._pools else {})
            | ({"link": self._link, "waited_seconds": self._waited_seconds} if self._link else {})
            | self._validation
            | {
                "loss": sum(self._losses) / len(self._losses) if self._losses else None,
                "images_per_second": sorted(self._rates)[len(self._rates) // 2] if self._rates else None,
            }
        )


def _asdict(shares: PoolShares) -> dict[str, float]:
    return dataclasses.asdict(shares)
