"""What is to be trained, as plain data that travels to every rank."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
from mtkd_dist.train.students import MAIN, Students


@dataclass(frozen=True)
class StudentNet:
    """A network that learns in a training."""

    name: str
    """Names it in weights, losses and scores: of letters, digits, - and _, unlike those of the others."""
    network: str
    """Its text."""
    start: Path | None = None
    """File whose weights it starts from; None: random weights."""
    start_digest: str | None = None
    """SHA-256 of that file."""

    def metadata(self, shared: Mapping[str, str]) -> dict[str, str]:
        """Of the file of its weights. `shared`: of those of all students."""
        return {**shared, "network": self.network}


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
    more: tuple[StudentNet, ...] = ()
    """Further networks that learn from the same batches in the same steps, each as it would alone."""

    @property
    def slots_per_step(self) -> int:
        return self.training.batch_size // self.slot_size

    @property
    def students(self) -> tuple[StudentNet, ...]:
        """All that learn, the main one first."""
        return (StudentNet(MAIN, self.network, self.start), *self.more)

    def build(self) -> nn.Module:
        """What is trained, as training begins, the same on every rank: the network, with what its method adds;
        `Students` where there are `more`, each of them as it would be alone.

        Errors: ValueError for a file of `tails` that is not what its digest says, or does not fit.
        """
        method = self.method
        if not isinstance(method, Equips):
            return self.build_shipped()
        for file in self.tails:
            check_digest(file.path, file.digest)
        teachers = {file.name: load_network(file.path, self.scale, file.input_range).module for file in self.tails}
        return self._built(lambda net: method.equip(self._network(net), teachers, self.plan.patch))

    def build_shipped(self) -> nn.Module:
        """The network that the training is for, as it begins: what `TrainState.result` is the weights of."""
        return self._built(self._network)

    def _built(self, build: Callable[[StudentNet], nn.Module]) -> nn.Module:
        if self.more:
            return Students({net.name: build(net) for net in self.students})
        return build(*self.students)

    def _network(self, net: StudentNet) -> nn.Module:
        torch.manual_seed(self.seed)
        if self.num_teachers:
            return build_aggregator(net.network, self.num_teachers, self.scale)
        network = build_network(net.network, self.scale)
        if net.start is not None:
            check_digest(net.start, net.start_digest)
            load_strict(network, starting_weights(net.start, net.network, self.scale), str(net.start))
        return network
