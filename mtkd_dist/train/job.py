"""What is to be trained, as plain data that travels to every rank."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from mtkd_dist.config.tree import TrainingConfig
from mtkd_dist.data import Plan
from mtkd_dist.methods import Equips, Method
from mtkd_dist.models import build_aggregator, build_network, load_network, load_strict, starting_weights
from mtkd_dist.pools.placement import PoolSize
from mtkd_dist.pools.render import RenderedTeachers
from mtkd_dist.pools.teacher_worker import TeacherFile, check_digest


@dataclass(frozen=True)
class StudentJob:
    """Everything a student rank needs to know; files instead of tensors."""

    network: str
    """What is trained: a network by its text, or an aggregator when `num_teachers` is not 0."""
    num_teachers: int
    scale: int
    method: Method
    plan: Plan
    slot_size: int
    images: Path
    training: TrainingConfig
    seed: int
    pool: PoolSize
    """What this rank reserved."""
    min_workers: int | None = None
    """Ranks with which training goes on where there is no room for `pool.workers`; None: with all of them only."""
    rendered: RenderedTeachers | None = None
    """Where the teachers' images lie that the method asks for; None: it gets them by the link, or needs none."""
    start: Path | None = None
    """File whose weights `network` starts from; None: random weights."""
    tails: tuple[TeacherFile, ...] = ()
    """Teachers whose last layers judge the student in its own pool; for a method that `Equips` it."""

    @property
    def slots_per_step(self) -> int:
        return self.training.batch_size // self.slot_size

    def build(self) -> nn.Module:
        """What is trained, as training begins, the same on every rank: the network, with what its method adds.

        Errors: ValueError for a file of `tails` that is not what its digest says, or does not fit.
        """
        network = self.build_shipped()
        if not isinstance(self.method, Equips):
            return network
        for file in self.tails:
            check_digest(file.path, file.digest)
        teachers = {file.name: load_network(file.path, self.scale, file.input_range).module for file in self.tails}
        return self.method.equip(network, teachers, self.plan.patch)

    def build_shipped(self) -> nn.Module:
        """The network that the training is for, as it begins: what `TrainState.result` is the weights of."""
        torch.manual_seed(self.seed)
        if self.num_teachers:
            return build_aggregator(self.network, self.num_teachers, self.scale)
        network = build_network(self.network, self.scale)
        if self.start is not None:
            load_strict(network, starting_weights(self.start, self.network, self.scale), str(self.start))
        return network
