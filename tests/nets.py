"""Small things that several tests share: photographs, networks that cost nothing, jobs built of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import l1_loss

from mtkd_dist.config.tree import TrainingConfig
from mtkd_dist.data import ImageStore, Photo, Plan, build_store
from mtkd_dist.methods import Aggregation, Batch, Crops, Losses, Method, Supervised
from mtkd_dist.models import (
    aggregator_metadata,
    build_aggregator,
    build_network,
    digest_file,
    load_strict,
    save_network,
)
from mtkd_dist.pools.placement import PoolSize
from mtkd_dist.pools.teacher_worker import TeacherFile, TeacherJob, load_networks
from mtkd_dist.train.job import StudentJob
from mtkd_dist.train.loop import train
from mtkd_dist.train.source import LocalSource, Share, Source
from mtkd_dist.train.state import TrainState

TINY = "edsr-baseline:width=8,blocks=1"
TINY_AGGREGATOR = "dctswin:width=12,groups=1,layers=2,heads=2"


def write_photos(folder: Path, count: int, side: int = 64) -> list[Path]:
    """`count` smooth colour pictures of `side` x `side`, each different."""
    folder.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[:side, :side] / side
    paths = []
    for i in range(count):
        waves = [np.sin((3 + i) * x + c) * np.cos((2 + c) * y + i) for c in range(3)]
        picture = np.uint8(np.clip(np.stack(waves, -1) * 100 + 128, 0, 255))
        paths.append(folder / f"{i:02}.png")
        Image.fromarray(picture).save(paths[-1])
    return paths


def make_store(folder: Path, count: int = 4, scale: int = 2, side: int = 64) -> ImageStore:
    photos = [Photo(str(path)) for path in write_photos(folder / "photos", count, side)]
    return build_store(photos, scale, folder / "store")


def make_teacher(folder: Path, name: str, scale: int = 2, seed: int = 0) -> TeacherFile:
    torch.manual_seed(seed)
    save_network(folder / f"{name}.safetensors", build_network(TINY, scale), {"network": TINY, "scale": str(scale)})
    return TeacherFile(name, folder / f"{name}.safetensors", None)


def nearest_teacher(folder: Path, name: str) -> TeacherFile:
    """A teacher that needs no training: its weights repeat every pixel (x2)."""
    network = build_network(TINY, 2)
    weights = {key: torch.zeros_like(value) for key, value in network.state_dict().items()}
    for colour in range(3):
        weights["head.0.weight"][colour, colour, 1, 1] = 1
        weights["tail.0.0.weight"][4 * colour : 4 * colour + 4, colour, 1, 1] = 1
        weights["tail.1.weight"][colour, colour, 1, 1] = 1
    load_strict(network, weights, name)
    save_network(folder / f"{name}.safetensors", network, {"network": TINY, "scale": "2"})
    return TeacherFile(name, folder / f"{name}.safetensors", None)


def make_aggregator(folder: Path, teachers: Sequence[TeacherFile], scale: int = 2) -> Path:
    """The file of an untrained aggregator for `teachers`: their mean."""
    path = folder / "aggregator.safetensors"
    digests = {teacher.name: digest_file(teacher.path) for teacher in teachers}
    aggregator = build_aggregator(TINY_AGGREGATOR, len(teachers), scale)
    save_network(path, aggregator, aggregator_metadata(TINY_AGGREGATOR, scale, digests))
    return path


def train_teacher(folder: Path, name: str) -> TeacherFile:
    """A teacher that has seen enough steps to enlarge a picture recognisably (x2)."""
    job = make_job(make_store(folder / "teacher"), steps=200, learning_rate=5e-3)
    state = TrainState(job.build(), job.training)
    train_alone(job, state)
    teacher = make_teacher(folder, name)
    network = build_network(TINY, 2)
    load_strict(network, state.result(), name)
    save_network(teacher.path, network, {"network": TINY, "scale": "2"})
    return teacher


def write_launch(folder: Path, photos: int, **distil: object) -> Path:
    """The configuration file of a launch that is nearly nothing but its distil stage, with `distil` as its settings."""
    write_photos(folder / "train", photos)
    write_photos(folder / "held", 1, side=48)
    teacher = train_teacher(folder, "given")
    config = {
        "data": [str(folder / "train")],
        "test": [f"held={folder / 'held'}"],
        "teachers": [str(teacher.path)],
        "aggregator": str(make_aggregator(folder, [teacher])),
        "student": TINY,
        "scale": 2,
        "link": {"slot_size": 2},
        "distil": {"patch": 8, "validate_every": 0, **distil},
    }
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


def share(job: StudentJob, slots: list[int] | None = None) -> Share:
    """What a rank takes; without `slots`, the whole step."""
    return Share(job.images, job.plan, job.slot_size, list(range(job.slots_per_step)) if slots is None else slots)


def train_alone(
    job: StudentJob,
    state: TrainState,
    checkpoint: Callable[[], None] = lambda: None,
    post: Callable[[list[dict[str, Any]]], None] = lambda records: None,
    validate: Callable[[], None] = lambda: None,
    network: nn.Module | None = None,
    consumed: Callable[[int, Sequence[int], Sequence[int]], None] = lambda step, checks, skipped: None,
    slots: list[int] | None = None,
    skipped: dict[int, list[int]] | None = None,
    world_size: int = 1,
    source: Callable[[int, Share, torch.device], Source] | None = None,
) -> None:
    """The training loop in this process: one rank that cuts its own samples, by default those of the whole step.

    `skipped`: step -> slots that are left out, as a link would.
    """
    taken = dataclasses.replace(share(job, slots), skipped=skipped or {})
    device = next(state.model.parameters()).device
    train(
        state,
        network or state.model,
        job.method,
        LocalSource(taken, device, job.training.channels_last) if source is None else source(1, taken, device),
        job.training,
        seed=job.seed,
        rank=0,
        world_size=world_size,
        consumed=consumed,
        checkpoint=checkpoint,
        post=post,
        validate=validate,
    )


class Answered(LocalSource):
    """Batches with the signals that the job's `tails` answer, in this process and without rounding."""

    def __init__(self, job: StudentJob, taken: Share, device: torch.device) -> None:
        super().__init__(taken, device, job.training.channels_last)
        self._method = job.method
        self._networks = load_networks(job.tails, None, job.scale, device)

    @classmethod
    def by(cls, job: StudentJob) -> Callable[[int, Share, torch.device], Answered]:
        """As `train_alone` of the product asks for it."""
        return lambda attempt, taken, device: cls(job, taken, device)

    @torch.no_grad()
    def fetch(self, step: int) -> Batch:
        batch = super().fetch(step)
        signals = self._method.teach(Crops(batch.lr, batch.hr, batch.checks), self._networks)
        return dataclasses.replace(batch, signals=signals)


def make_plan(store: ImageStore, batch_size: int = 4, patch: int = 8, seed: int = 0) -> Plan:
    return Plan(seed, store.digest, tuple(store.lr_sizes), batch_size, patch)


def make_job(store: ImageStore, method: Method | None = None, **training: object) -> StudentJob:
    config = TrainingConfig(**({"steps": 8, "batch_size": 4, "patch": 8, "ema": 0.9, "checkpoint_every": 4} | training))  # type: ignore[arg-type]
    return StudentJob(
        network=TINY,
        num_teachers=0,
        scale=store.scale,
        method=method or Supervised(),
        plan=make_plan(store, config.batch_size, config.patch),
        slot_size=2,
        images=store.folder,
        training=config,
        seed=0,
        pool=PoolSize(workers=1, cpus=1, gpus=0),
    )


def make_teacher_job(folder: Path, teachers: Sequence[str] = ("a",)) -> TeacherJob:
    """The teacher half of the aggregate stage on `make_store(folder)`, with teachers of random weights."""
    store = make_store(folder)
    return TeacherJob(
        method=Aggregation(),
        plan=make_plan(store),
        slot_size=2,
        scale=2,
        images=store.folder,
        teachers=tuple(make_teacher(folder, name, seed=seed) for seed, name in enumerate(teachers)),
        aggregator=None,
        wire="float32",
        pool=PoolSize(workers=1, cpus=1, gpus=0),
    )


@dataclass(frozen=True)
class NaNFor(Supervised):
    """The loss of one sample is NaN, and its gradient is not: L1 hides a NaN from its gradient."""

    lr: bytes = b""
    """The sample's LR crop, uint8."""

    def loss(self, student: nn.Module, batch: Batch) -> Losses:
        hit = [(image * 255).round().byte().numpy().tobytes() == self.lr for image in batch.lr]
        truth = batch.hr * torch.tensor([math.nan if h else 1.0 for h in hit]).view(-1, 1, 1, 1)
        loss = l1_loss(student(batch.lr), truth)
        return Losses(loss, {"l1_hr": loss})


def nan_for(store: ImageStore, plan: Plan, step: int, row: int) -> NaNFor:
    """NaN for the `row`-th sample of `step`."""
    return NaNFor(lr=store.cut(plan.samples(step)[row], plan.patch)[0].tobytes())


class Nearest(nn.Module):
    """A teacher that needs no weights: (B,3,h,w) -> nearest neighbour, times `gain`."""

    def __init__(self, scale: int, gain: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.gain = gain

    def forward(self, lr: Tensor) -> Tensor:
        return self.gain * nn.functional.interpolate(lr, scale_factor=self.scale, mode="nearest")


def crops_at(lr: Tensor) -> Crops:
    """For methods whose teachers look at LR alone."""
    return Crops(lr, lr.new_empty(0))
