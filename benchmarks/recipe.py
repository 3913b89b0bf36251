"""The whole recipe of MTKD at small scale: real teachers, real photographs, x4, three seeds.

`test_recipe.py` runs it and tabulates what comes out. Every cell (a rendered photograph, a trained and scored network)
is a file in `folder`: an interrupted benchmark goes on where it was, and a change of sizes makes new cells.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
import os
from collections.abc import Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mtkd_dist.config.tree import TrainingConfig
from mtkd_dist.data import ImageStore, Plan, bicubic_upscale, build_store, find_photos
from mtkd_dist.data.store import crop
from mtkd_dist.methods import MTKD, Aggregation, Batch, Method, Supervised
from mtkd_dist.metrics import score, to_uint8
from mtkd_dist.models import (
    build_aggregator,
    build_network,
    digest_file,
    load_network,
    load_strict,
    read_state_dict,
    save_network,
)
from mtkd_dist.models.tiling import enlarge
from mtkd_dist.pools.device import use_threads
from mtkd_dist.pools.wire import unpack
from mtkd_dist.train.loop import train
from mtkd_dist.train.source import Share
from mtkd_dist.train.state import TrainState

SCALE = 4
SEEDS = (0, 1, 2)
TEACHERS = {"DCTLSA": "DCTLSA_x4.pt", "CRAFT": "CRAFT_x4_ntire2024_team34.pth", "RLFN": "rlfn_x4.pth"}
TEST_SETS = ("Set5", "Kodak24")


@dataclass(frozen=True)
class Sizes:
    """What is trained, and for how long."""

    student: str
    aggregator: str
    aggregate: TrainingConfig
    distil: TrainingConfig
    workers: int
    """Processes at a time, one thread each on a CPU."""


CPU = Sizes(
    student="edsr-baseline:width=32,blocks=8",
    aggregator="dctswin",
    aggregate=TrainingConfig(steps=600, batch_size=16, patch=16, learning_rate=5e-4, ema=0.99),
    distil=TrainingConfig(steps=1500, batch_size=16, patch=24, learning_rate=1e-3, ema=0.99),
    workers=2,
)
GPU = Sizes(
    student="edsr-baseline",
    aggregator="dctswin",
    aggregate=TrainingConfig(steps=10_000, batch_size=16, patch=32, learning_rate=2e-4),
    distil=TrainingConfig(steps=30_000, batch_size=16, patch=32, learning_rate=1e-3),
    workers=2,
)

Scores = dict[str, list[tuple[float, float]]]
"""Test set -> (PSNR-Y in dB, SSIM-Y) of each of its photographs."""


@dataclass(frozen=True)
class Bench:
    """Inputs and folder of one benchmark; small enough to travel to every process."""

    folder: Path
    train: ImageStore
    tests: dict[str, ImageStore]
    teachers: dict[str, Path]
    sizes: Sizes

    @cached_property
    def key(self) -> str:
        """Cells of other weights, photographs or sizes have another one."""
        facts = [
            [digest_file(path) for path in self.teachers.values()],
            [store.digest for store in (self.train, *self.tests.values())],
            dataclasses.asdict(self.sizes),
        ]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]

    def cell(self, name: str) -> Path:
        return self.folder / self.key / name

    def rendered(self, network: str, set_name: str) -> Rendered:
        """Images of a frozen network; a teacher's depend on its weights and the photographs alone."""
        store = self.store(set_name)
        if network in self.teachers:
            key = f"{network}-{digest_file(self.teachers[network])[:12]}"
            return Rendered(self.folder / "rendered" / f"{key}-{store.digest[:12]}")
        return Rendered(self.cell(f"rendered/{network}-{set_name}"))

    def store(self, set_name: str) -> ImageStore:
        return self.train if set_name == "train" else self.tests[set_name]


@dataclass(frozen=True)
class Rendered:
    """The images of one network for all photographs of a store, (s*h, s*w, 3) float16, unclamped, a file each."""

    folder: Path

    def path(self, index: int) -> Path:
        return self.folder / f"{index:05}.npy"

    def image(self, index: int) -> NDArray[np.float16]:
        """A view of the file."""
        return np.load(self.path(index), mmap_mode="r")

    def tensor(self, index: int) -> Tensor:
        """(3,H,W) float32."""
        return torch.from_numpy(np.array(self.image(index))).permute(2, 0, 1).float()

    def write(self, index: int, image: Tensor) -> None:
        """`image`: (3,H,W). Whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.path(index).with_suffix(f".{os.getpid()}.tmp")
        with temporary.open("wb") as file:
            np.save(file, image.permute(1, 2, 0).half().cpu().numpy())
        temporary.rename(self.path(index))


class RenderedSource:
    """Batches of which the teachers' half is read from files; one rank."""

    def __init__(self, store: ImageStore, plan: Plan, signals: dict[str, list[Rendered]], device: torch.device) -> None:
        self.share = Share(store.folder, plan, plan.batch_size, [0])
        self._store, self._signals, self._device = store, signals, device

    def fetch(self, step: int) -> Batch:
        samples, patch = self.share.samples(step), self.share.plan.patch
        pairs = [self._store.cut(sample, patch) for sample in samples]
        signals = {}
        for name, networks in self._signals.items():
            stack = [
                np.stack([crop(rendered.image(sample.image), sample, patch, SCALE) for rendered in networks])
                for sample in samples
            ]
            # One image of each sample is a signal of its own; several are a stack along a second dimension.
            images = np.stack(stack)
            signals[name] = unpack([images[:, 0] if name == "aggregate" else images], self._device)
        lr, hr = (unpack([np.stack(images)], self._device) for images in zip(*pairs, strict=True))
        return Batch(lr, hr, signals)


def open_bench(shared: Path, folder: Path) -> Bench:
    """Photographs of BSDS500 to learn from, Set5 and Kodak24 to score on; decoded once."""

    def decoded(source: str, name: str) -> ImageStore:
        return build_store(find_photos(shared / source, SCALE).photos, SCALE, folder / "images" / name, workers=2)

    train = decoded("data/train/BSDS500/train", "train")
    tests = {name: decoded(f"data/test/{name}", name) for name in TEST_SETS}
    teachers = {name: shared / "weights" / file for name, file in TEACHERS.items()}
    return Bench(folder, train, tests, teachers, GPU if torch.cuda.is_available() else CPU)


def run(bench: Bench) -> dict[str, dict[int, Scores]]:
    """Do what is not done yet. Returns model -> seed -> scores; what has no seed stands under each of them."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(bench.sizes.workers, context, initializer=use_threads, initargs=(1,)) as pool:
        _finish(
            pool.submit(render_teacher, bench, teacher, name, index)
            # The slowest first, so that the processes end together.
            for teacher in ("CRAFT", "DCTLSA", "RLFN")
            for name in (*bench.tests, "train")
            for index in range(len(bench.store(name)))
        )
        aggregates = {seed: pool.submit(train_aggregator, bench, "aggregate", seed) for seed in SEEDS}
        alone = {seed: pool.submit(train_student, bench, "alone", seed) for seed in SEEDS}
        no_skip = {seed: pool.submit(train_aggregator, bench, "aggregate without skip", seed) for seed in SEEDS}
        _finish(aggregates.values())
        students = {seed: pool.submit(train_student, bench, "distilled", seed) for seed in SEEDS}
        fixed = pool.submit(score_fixed, bench).result()
        models: dict[str, dict[int, Scores]] = {name: dict.fromkeys(SEEDS, scores) for name, scores in fixed.items()}
        for name, futures in {
            "aggregate": aggregates,
            "aggregate without skip": no_skip,
            "student alone": alone,
            "student distilled": students,
        }.items():
            models[name] = {seed: future.result() for seed, future in futures.items()}
    return models


def _finish(futures: Iterable[Future[Any]]) -> None:
    for future in list(futures):
        future.result()


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _lr(store: ImageStore, index: int) -> Tensor:
    """(1,3,h,w) in [0,1]."""
    return unpack([store.lr(index).transpose(2, 0, 1)[None]], _device())


@torch.inference_mode()
def render_teacher(bench: Bench, teacher: str, set_name: str, index: int) -> None:
    rendered = bench.rendered(teacher, set_name)
    if not rendered.path(index).exists():
        network = _teacher(bench.teachers[teacher])
        rendered.write(index, enlarge(network, _lr(bench.store(set_name), index), SCALE)[0])


_loaded: dict[Path, nn.Module] = {}


def _teacher(path: Path) -> nn.Module:
    if path not in _loaded:
        _loaded[path] = load_network(path, scale=SCALE).module.to(_device())
    return _loaded[path]


def train_aggregator(bench: Bench, name: str, seed: int) -> Scores:
    """Stage 1 of MTKD on the rendered teachers; leaves the aggregate of every training photograph for stage 2."""
    cell = bench.cell(f"{name}-{seed}")
    text = bench.sizes.aggregator + (":mean_skip=false" if name == "aggregate without skip" else "")
    torch.manual_seed(seed)
    aggregator = build_aggregator(text, len(TEACHERS), SCALE)
    teachers = {name: [bench.rendered(teacher, name) for teacher in TEACHERS] for name in ("train", *bench.tests)}
    _train(bench, cell, aggregator, Aggregation(), bench.sizes.aggregate, seed, {"teachers": teachers["train"]})

    @torch.inference_mode()
    def aggregate(set_name: str, index: int) -> Tensor:
        stack = torch.stack([rendered.tensor(index) for rendered in teachers[set_name]])[None]
        return aggregator(stack.to(_device()))[0]

    if name == "aggregate":
        rendered = bench.rendered(f"aggregate-{seed}", "train")
        for index in range(len(bench.train)):
            if not rendered.path(index).exists():
                rendered.write(index, aggregate("train", index))
    return _scored(cell, bench, aggregate)


def train_student(bench: Bench, name: str, seed: int) -> Scores:
    """Stage 2 of MTKD, or the same student on the truth alone: same weights to begin with, same samples, same steps."""
    torch.manual_seed(seed)
    student = build_network(bench.sizes.student, SCALE)
    method: Method = Supervised() if name == "alone" else MTKD()
    signals = {} if name == "alone" else {"aggregate": [bench.rendered(f"aggregate-{seed}", "train")]}
    cell = bench.cell(f"student {name}-{seed}")
    _train(bench, cell, student, method, bench.sizes.distil, seed, signals)

    @torch.inference_mode()
    def enlarged(set_name: str, index: int) -> Tensor:
        return enlarge(student, _lr(bench.tests[set_name], index), SCALE)[0]

    return _scored(cell, bench, enlarged)


def _train(
    bench: Bench,
    cell: Path,
    network: nn.Module,
    method: Method,
    config: TrainingConfig,
    seed: int,
    signals: dict[str, list[Rendered]],
) -> None:
    """Leaves `network` in eval mode with the EMA weights that training ended with."""
    weights = cell.with_suffix(".safetensors")
    if not weights.exists():
        plan = Plan(seed, bench.train.digest, tuple(bench.train.lr_sizes), config.batch_size, config.patch)
        source = RenderedSource(bench.train, plan, signals, _device())
        config = dataclasses.replace(config, checkpoint_every=config.steps)
        state = TrainState(network.to(_device()), config)
        cell.parent.mkdir(parents=True, exist_ok=True)
        with cell.with_suffix(".losses.jsonl").open("w") as losses:
            train(
                state,
                network,
                method,
                source,
                config,
                seed=seed,
                rank=0,
                world_size=1,
                consumed=lambda step, checks, skipped: None,
                checkpoint=lambda: None,
                validate=lambda: None,
                post=_poster(losses),
            )
        load_strict(network, state.result(), cell.name)
        save_network(weights, network, {})
    load_strict(network, read_state_dict(weights), cell.name)
    network.to(_device()).eval().requires_grad_(False)


def _poster(file: Any) -> Any:
    def post(records: list[dict[str, Any]]) -> None:
        lines = ({key: value for key, value in record.items() if key != "students"} for record in records)
        file.writelines(json.dumps(line) + "\n" for line in lines)
        file.flush()

    return post


def _scored(cell: Path, bench: Bench, image_of: Any) -> Scores:
    """Scores of `image_of(set, index)` -> (3,H,W) on all test photographs."""
    path = cell.with_suffix(".scores.json")
    if not path.exists():
        scores = {
            name: [tuple(score(to_uint8(image_of(name, index)), store.hr(index), SCALE)) for index in range(len(store))]
            for name, store in bench.tests.items()
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(scores))
    return json.loads(path.read_text())


def score_fixed(bench: Bench) -> dict[str, Scores]:
    """Bicubic, every teacher, and the mean of the teachers."""

    def teacher(name: str) -> Any:
        return lambda set_name, index: bench.rendered(name, set_name).tensor(index)

    def mean(set_name: str, index: int) -> Tensor:
        return torch.stack([bench.rendered(name, set_name).tensor(index) for name in TEACHERS]).mean(0)

    def bicubic(set_name: str, index: int) -> Tensor:
        enlarged = bicubic_upscale(bench.tests[set_name].lr(index), SCALE)
        return torch.from_numpy(enlarged).permute(2, 0, 1).float() / 255

    images = {"bicubic": bicubic} | {name: teacher(name) for name in TEACHERS} | {"mean of teachers": mean}
    return {name: _scored(bench.cell(name), bench, image_of) for name, image_of in images.items()}
