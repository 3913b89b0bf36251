"""Does a student that reads rendered teacher answers train as fast as one alone? And how fast are they rendered?

    pytest benchmarks/test_cached.py

The ways take turns step by step in one process, so that whatever else the machine does meets all of them alike. Prints
one Markdown table; `--write` of this folder's conftest puts it into `benchmarks/results/cached.md`.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from benchmarks.results_table import Table
from mtkd_dist.config.tree import TrainingConfig
from mtkd_dist.data import Photo, Plan, build_store, demo_photos
from mtkd_dist.data.teacher_outputs import total_bytes
from mtkd_dist.methods import MTKD, Batch, Crops, Method, Supervised, TeacherImages
from mtkd_dist.models import aggregator_metadata, build_aggregator, build_network, digest_file, save_network
from mtkd_dist.pools.evaluate import Merged
from mtkd_dist.pools.placement import Resources
from mtkd_dist.pools.render import RenderedTeachers, aggregate_rendering, render, teacher_rendering
from mtkd_dist.pools.teacher_worker import TeacherFile
from mtkd_dist.train.cached_source import CachedSource
from mtkd_dist.train.source import LocalSource, Share, Source
from mtkd_dist.train.state import TrainState

SCALE, PATCH, BATCH = 2, 48, 16
TEACHERS = ("edsr-baseline:width=16,blocks=2", "edsr-baseline:width=24,blocks=2")
AGGREGATOR = "dctswin:width=24,groups=1,layers=2,heads=3"
STUDENTS = ("edsr-baseline:width=16,blocks=3", "edsr-baseline:width=32,blocks=8")
WARM_UP, STEPS = 5, 60

TABLE = Table("cached", ["student", "way", "ms/step", "fetch, CPU ms", "ratio to alone", "ratio at the same loss"])


@dataclasses.dataclass(frozen=True)
class Alone(Supervised):
    """The L1 loss, and nothing of teachers."""


@dataclasses.dataclass(frozen=True)
class AloneWithMTKDsLoss(MTKD):
    """MTKD's loss with the truth in place of the aggregate: what the loss costs where nothing is read."""

    def loss(self, student: torch.nn.Module, batch: Batch) -> object:  # type: ignore[override]
        return super().loss(student, dataclasses.replace(batch, signals={"aggregate": batch.hr}))

    def teach(self, crops: Crops, networks: TeacherImages) -> dict[str, Tensor]:
        return {}


class Way:
    """One training, a step at a time.

    The next batch is fetched beside the step, as a `Prefetcher` does, and a step ends when both are done: so no way is
    charged for the fetching of another.
    """

    def __init__(self, student: str, method: Method, source: Source) -> None:
        torch.manual_seed(0)
        training = TrainingConfig(steps=STEPS + WARM_UP, batch_size=BATCH, patch=PATCH)
        self._state = TrainState(build_network(student, SCALE), training)
        self._method, self._source = method, source
        self._thread = ThreadPoolExecutor(1)
        self._batch = source.fetch(0)
        self.milliseconds: list[float] = []

    def step(self, number: int) -> None:
        began = time.perf_counter()
        fetched = self._thread.submit(self._source.fetch, number + 1)
        losses = self._method.loss(self._state.model, self._batch)
        self._state.optimizer.zero_grad(set_to_none=True)
        losses.total.backward()
        self._state.update(torch.nn.utils.get_total_norm([p.grad for p in self._state.model.parameters()]))
        self._batch = fetched.result()
        self.milliseconds.append(1e3 * (time.perf_counter() - began))


def fetch_milliseconds(source: Source) -> float:
    """CPU time of the prefetch thread's work for one batch."""
    times = []
    for step in range(30):
        began = time.thread_time()
        source.fetch(step)
        times.append(1e3 * (time.thread_time() - began))
    return statistics.median(times)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> tuple[Share, RenderedTeachers]:
    folder = tmp_path_factory.mktemp("cached")
    store = build_store([Photo(str(path)) for path in demo_photos().train], SCALE, folder / "images")
    teachers = []
    for i, network in enumerate(TEACHERS):
        path = folder / f"teacher-{i}.safetensors"
        save_network(path, build_network(network, SCALE), {"network": network, "scale": str(SCALE)})
        teachers.append(TeacherFile(path.stem, path, None))
    aggregator = folder / "aggregator.safetensors"
    digests = {teacher.name: digest_file(teacher.path) for teacher in teachers}
    metadata = aggregator_metadata(AGGREGATOR, SCALE, digests)
    save_network(aggregator, build_aggregator(AGGREGATOR, len(teachers), SCALE), metadata)
    of_teachers = tuple(
        teacher_rendering(teacher, digests[teacher.name], store, folder / "outputs", "float16", "auto")
        for teacher in teachers
    )
    aggregate = aggregate_rendering(Merged("aggregate", tuple(teachers), aggregator), of_teachers)
    for renderings in (of_teachers, (aggregate,)):
        began = time.perf_counter()
        count = len(list(render(renderings, Resources(cpus=2, gpus=0))))
        seconds = time.perf_counter() - began
        size = total_bytes([rendering.outputs for rendering in renderings])
        names = " and ".join(rendering.network.name for rendering in renderings)
        TABLE.notes.append(
            f"Rendering of {names}: {count} images in {seconds:.1f} s ({count / seconds:.2f} images/s with the start "
            f"of 2 CPU workers), {size / 1e6:.0f} MB."
        )
    plan = Plan(0, store.digest, tuple(store.lr_sizes), BATCH, PATCH)
    return Share(store.folder, plan, 4, list(range(BATCH // 4))), RenderedTeachers(of_teachers, aggregate)


@pytest.mark.parametrize("student", STUDENTS)
def test_step_time(sources: tuple[Share, RenderedTeachers], student: str) -> None:
    torch.set_num_threads(1)
    share, rendered = sources
    cpu = torch.device("cpu")
    made: dict[str, tuple[Method, Source]] = {
        "alone (L1 to the truth)": (Alone(), LocalSource(share, cpu)),
        "alone, with MTKD's loss": (AloneWithMTKDsLoss(), LocalSource(share, cpu)),
        "cached MTKD": (MTKD(), CachedSource(share, MTKD(), rendered, cpu)),
    }
    ways = {name: Way(student, method, source) for name, (method, source) in made.items()}
    for step, way in itertools.product(range(WARM_UP + STEPS), ways.values()):
        way.step(step)
        if step < WARM_UP:
            way.milliseconds.clear()
    medians = {name: statistics.median(way.milliseconds) for name, way in ways.items()}
    alone, same_loss, _ = ways.values()
    for name, way in ways.items():
        ratios = [
            statistics.median(map(float.__truediv__, way.milliseconds, one.milliseconds)) for one in (alone, same_loss)
        ]
        fetch = fetch_milliseconds(made[name][1])
        TABLE.add(student, name, f"{medians[name]:.1f}", f"{fetch:.1f}", *(f"{ratio:.3f}" for ratio in ratios))
    assert all(len(way.milliseconds) == STEPS for way in ways.values())
