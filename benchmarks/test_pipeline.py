"""How fast the two pools feed each other: images/s, milliseconds of the link for a batch, and where pools spend time.

Beside them the obvious alternative: teachers, aggregator and student one after the other in one process, which has all
cores; once as the paper's released code does it (gradients of frozen networks are computed too) and once without.

    pytest benchmarks/test_pipeline.py

Prints one Markdown table; `--write` of this folder's conftest puts it into `benchmarks/results/pipeline.md`. Compare
rows of one table only: the machine may be shared.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch.nn.functional import l1_loss

from benchmarks.results_table import Table
from mtkd_dist.config.tree import LinkConfig, TrainingConfig
from mtkd_dist.data import ImageStore, Photo, Plan, build_store, demo_photos
from mtkd_dist.methods import MTKD, Method, Supervised
from mtkd_dist.models import (
    aggregator_metadata,
    build_aggregator,
    build_network,
    digest_file,
    load_aggregator,
    load_network,
    save_network,
)
from mtkd_dist.pools.board import BoardActor
from mtkd_dist.pools.device import use_threads
from mtkd_dist.pools.evaluate import Merged
from mtkd_dist.pools.placement import Layout, PoolSize, Resources
from mtkd_dist.pools.render import RenderedTeachers, aggregate_rendering, render, teacher_rendering
from mtkd_dist.pools.teacher_pool import TeacherPool
from mtkd_dist.pools.teacher_worker import TeacherFile, TeacherJob
from mtkd_dist.train.job import StudentJob
from mtkd_dist.train.link_source import LinkSource
from mtkd_dist.train.news import Update
from mtkd_dist.train.source import LocalSource, Share
from mtkd_dist.train.trainer import run_training
from mtkd_kernels import haar_l1_loss

SCALE, PATCH, BATCH, SLOT = 2, 48, 16, 4
TEACHERS = ("edsr-baseline:width=16,blocks=2", "edsr-baseline:width=24,blocks=2")
STUDENT = "edsr-baseline:width=16,blocks=3"
AGGREGATOR = "dctswin:width=24,groups=1,layers=2,heads=3"
CPU = PoolSize(workers=1, cpus=1, gpus=0)


@dataclass(frozen=True)
class Bench:
    store: ImageStore
    teachers: tuple[TeacherFile, ...]
    aggregator: Path

    def student(self, method: Method, steps: int) -> StudentJob:
        training = TrainingConfig(steps=steps, batch_size=BATCH, patch=PATCH, checkpoint_every=steps)
        return StudentJob(STUDENT, 0, SCALE, method, self.plan, SLOT, self.store.folder, training, seed=0, pool=CPU)

    def teacher(self, method: Method, teachers: tuple[TeacherFile, ...]) -> TeacherJob:
        aggregator = self.aggregator if teachers else None
        return TeacherJob(
            method, self.plan, SLOT, SCALE, self.store.folder, teachers, aggregator, wire="float16", pool=CPU
        )

    @property
    def plan(self) -> Plan:
        return Plan(0, self.store.digest, tuple(self.store.lr_sizes), BATCH, PATCH)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("pipeline")
    teachers = []
    for i, network in enumerate(TEACHERS):
        path = folder / f"teacher-{i}.safetensors"
        save_network(path, build_network(network, SCALE), {"network": network, "scale": str(SCALE)})
        teachers.append(TeacherFile(path.stem, path, None))
    aggregator = build_aggregator(AGGREGATOR, len(teachers), SCALE)
    digests = {t.name: digest_file(t.path) for t in teachers}
    save_network(folder / "aggregator.safetensors", aggregator, aggregator_metadata(AGGREGATOR, SCALE, digests))
    store = build_store([Photo(str(path)) for path in demo_photos().train], SCALE, folder / "images")
    return Bench(store, tuple(teachers), folder / "aggregator.safetensors")


@pytest.fixture(scope="module")
def table() -> Table:
    return Table("pipeline", ["what", "images/s", "ms/batch", "students w/s/h %", "teachers w/s/h %"])


def milliseconds(call: Callable[[int], object], first: int, last: int) -> float:
    """Median of one call in ms."""
    times = []
    for step in range(first, last):
        began = time.perf_counter()
        call(step)
        times.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times)


def shares_text(update: Update, pool: str) -> str:
    shares = update.teachers if pool == "teachers" else update.records[-1].get("students")
    return "/".join(f"{100 * s:.0f}" for s in (shares.working, shares.starved, shares.held_back)) if shares else "–"


@pytest.mark.usefixtures("ray_cluster")
def test_link_alone(bench: Bench, table: Table) -> None:
    """A batch through the link when the teachers compute nothing: cutting, object store, references, conversion."""
    student = bench.student(Supervised(), steps=120)
    job = bench.teacher(Supervised(), ())
    config = LinkConfig(slot_size=SLOT)
    with TeacherPool(job, CPU, 120, student.slots_per_step, config, BoardActor.remote()) as pool:
        share = Share(student.images, student.plan, SLOT, list(range(student.slots_per_step)))
        source = LinkSource(lambda: pool.links, 1, 0, 1, share, torch.device("cpu"))

        def fetch(step: int) -> None:
            source.fetch(step)

        milliseconds(fetch, 0, 20)
        per_batch = milliseconds(fetch, 20, 120)
    table.add("link alone (teachers compute nothing)", f"{1e3 * BATCH / per_batch:.0f}", f"{per_batch:.1f}", "–", "–")


@pytest.fixture(scope="module")
def rendered(bench: Bench, tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> RenderedTeachers:
    root = tmp_path_factory.mktemp("rendered")
    digests = {t.name: digest_file(t.path) for t in bench.teachers}
    teachers = tuple(
        teacher_rendering(t, digests[t.name], bench.store, root, "float16", "float32") for t in bench.teachers
    )
    aggregate = aggregate_rendering(Merged("aggregate", bench.teachers, bench.aggregator), teachers)
    for renderings in (teachers, (aggregate,)):
        list(render(renderings, Resources(cpus=2, gpus=0)))
    return RenderedTeachers(teachers, aggregate)


@pytest.mark.parametrize(
    ("kind", "cores"), [("student alone", 1), ("student alone", 2), ("two pools, live", 1), ("cached", 2)]
)
def test_training(
    bench: Bench, rendered: RenderedTeachers, table: Table, tmp_path: Path, kind: str, cores: int
) -> None:
    """Images/s of a whole training: the student alone, fed by a teacher pool on the other core, and from files."""
    pool = PoolSize(workers=1, cpus=cores, gpus=0)
    live = kind == "two pools, live"
    student = dataclasses.replace(
        bench.student(Supervised() if kind == "student alone" else MTKD(), steps=60),
        pool=pool,
        rendered=rendered if kind == "cached" else None,
    )
    teacher = bench.teacher(student.method, bench.teachers) if live else None
    updates: list[Update] = []
    layout = Layout(pool, CPU if live else None)
    run_training(student, teacher, layout, LinkConfig(slot_size=SLOT), tmp_path, updates.append)
    rates = [r["images_per_second"] for update in updates for r in update.records if "images_per_second" in r]
    rate = statistics.median(rates[1:])
    table.add(
        f"{kind}, {'one core each' if live else f'{cores} core' + 's' * (cores > 1)}",
        f"{rate:.1f}",
        f"{1e3 * BATCH / rate:.0f}",
        *(shares_text(updates[-1], p) for p in ("students", "teachers")),
    )
    assert len(rates) == 6


@pytest.mark.parametrize("gradients", [True, False], ids=["as the paper's code", "no-grad"])
def test_one_process(bench: Bench, table: Table, gradients: bool) -> None:
    """The released code neither detaches the target nor freezes what made it; its loss is L1 as it is shipped."""
    use_threads(os.cpu_count() or 1)
    student = bench.student(MTKD(), steps=10)
    network = student.build().train()
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-4)
    digests = {t.name: digest_file(t.path) for t in bench.teachers}
    teachers = [load_network(t.path, scale=SCALE).module.requires_grad_(gradients) for t in bench.teachers]
    aggregator = load_aggregator(bench.aggregator, digests, SCALE).requires_grad_(gradients)
    source = LocalSource(Share(student.images, student.plan, BATCH, [0]), torch.device("cpu"))

    def step(number: int) -> None:
        batch = source.fetch(number)
        with torch.set_grad_enabled(gradients):
            target = aggregator(torch.stack([teacher(batch.lr) for teacher in teachers], dim=1))
        image = network(batch.lr)
        distance = l1_loss(image, target) if gradients else haar_l1_loss(image, target)
        optimizer.zero_grad(set_to_none=True)
        (distance + 0.1 * l1_loss(image, batch.hr)).backward()
        optimizer.step()

    milliseconds(step, 0, 2)
    per_step = milliseconds(step, 2, 10)
    name = "one process, " + ("gradients of frozen networks as in the paper's code" if gradients else "no-grad")
    table.add(name, f"{1e3 * BATCH / per_step:.1f}", f"{per_step:.0f}", "–", "–")
