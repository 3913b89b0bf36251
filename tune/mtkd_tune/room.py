"""How much of a cluster each trial gets, how many run at a time, and what the teachers of all of them get. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from mtkd_dist.pools.placement import LayoutError, PoolSize, Resources
from mtkd_tune.tree import SweepConfig

_HAIR = 1e-9
"""In floating point, three times a third may be less than one."""


@dataclass(frozen=True)
class Room:
    trial: PoolSize
    """What one trial gets; a part of a GPU where several share a card."""
    concurrent: int
    """Trials at a time."""
    teachers: PoolSize | None
    """What the teachers of all trials get; None where their answers are rendered before."""


def room_of(sweep: SweepConfig, available: Resources, live: bool) -> Room:
    """`live`: teachers answer while trials run. Errors: LayoutError where not even one trial fits."""
    gpus = available.gpus if sweep.num_gpus is None else sweep.num_gpus
    if gpus > available.gpus:
        raise LayoutError(
            f"--num-gpus {gpus}: this cluster has {available.gpus} GPUs (and {available.cpus} CPUs); ask for at most "
            f"{available.gpus}, leave it out, or name a larger cluster with --address"
        )
    of_trial = (1.0 if gpus else 0.0) if sweep.trial.gpus is None else sweep.trial.gpus
    teachers = _teachers(sweep, available, gpus) if live else None
    if live and gpus == 1 and sweep.trial.gpus is None:
        of_trial = 0.5  # the teachers have the other half
    free_cpus, free_gpus = float(available.cpus), float(gpus)
    if teachers is not None:
        free_cpus -= teachers.workers * teachers.cpus
        free_gpus -= teachers.workers * teachers.gpus
    concurrent = int(free_cpus / sweep.trial.cpus + _HAIR)
    if of_trial:
        concurrent = min(concurrent, _fitting(free_gpus, of_trial))
    if concurrent < 1:
        raise LayoutError(
            f"a trial wants {sweep.trial.cpus:g} CPUs and {of_trial:g} GPUs (trial.cpus, trial.gpus), and "
            f"{free_cpus:g} CPUs and {free_gpus:g} GPUs are free for trials; ask for less, or for fewer teachers "
            "(teacher_gpus, teacher_workers)"
        )
    trial = PoolSize(1, sweep.trial.cpus, of_trial)
    return Room(trial, min(concurrent, sweep.trial.concurrent or concurrent), teachers)


def _fitting(gpus: float, of_trial: float) -> int:
    """Trials on so many GPUs. What is left of two cards, too little on each, is no place for one more."""
    whole = int(gpus)
    return whole * int(1 / of_trial + _HAIR) + int((gpus - whole) / of_trial + _HAIR)


def _teachers(sweep: SweepConfig, available: Resources, gpus: int) -> PoolSize:
    if not gpus:
        return PoolSize(sweep.teacher_workers, cpus=1, gpus=0)
    cpus = min(1.0, available.cpus / (2 * gpus))
    if gpus == 1:
        return PoolSize(1, cpus, 0.5)
    return PoolSize(max(1, gpus // 2) if sweep.teacher_gpus is None else sweep.teacher_gpus, cpus, 1)
