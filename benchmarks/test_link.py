"""What the link costs, how far one goes, and whether anybody waits who should not. Compute is simulated by waits."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import ray
import torch

from benchmarks.link_load import PLAN, ManyStudents, ManyTeachers, OneOfMany, WaitingTeacher, links_of
from benchmarks.results_table import Table
from mtkd_dist.config.tree import LinkConfig
from mtkd_dist.train.link_source import LinkSource
from mtkd_dist.train.source import Prefetcher

pytestmark = pytest.mark.usefixtures("ray_cluster")
SLOTS = 4


@pytest.fixture(scope="module")
def table() -> Table:
    return Table("link", ["what", "measured", "target"])


class _Plan:
    digest = PLAN


class WaitingShare:
    """One rank that takes all slots."""

    def __init__(self) -> None:
        self.plan = _Plan()
        self.slots = list(range(SLOTS))
        self.slots_per_step = SLOTS
        self.skipped: dict[int, list[int]] = {}


def source_of(links: list[Any]) -> LinkSource:
    return LinkSource(lambda: links, 1, 0, 1, WaitingShare(), torch.device("cpu"))  # type: ignore[arg-type]


@pytest.fixture
def teachers() -> Iterator[Callable[..., dict[str, Any]]]:
    """Starts worker processes and waits until they are up."""
    started: list[Any] = []

    def start(count: int, seconds: float, image_bytes: int = 900) -> dict[str, Any]:
        workers = {f"w{i}": WaitingTeacher.options(max_restarts=-1).remote(seconds, image_bytes) for i in range(count)}
        started.extend(workers.values())
        ray.get([worker.ping.remote() for worker in workers.values()])
        return workers

    yield start
    for worker in started:
        ray.kill(worker)


def train(links: list[Any], steps: int, step_seconds: float, at: dict[int, Callable[[], object]]) -> list[float]:
    """A student that waits `step_seconds` a step; returns for each step how long it had to wait for its batch."""
    source = source_of(links)
    waits = []
    ready = time.perf_counter()
    for step, _ in Prefetcher(source, 0, steps):
        waits.append(time.perf_counter() - ready)
        if step in at:
            at[step]()
        time.sleep(step_seconds)
        ready = time.perf_counter()
    return waits


def test_cost_of_a_batch(table: Table, teachers: Callable[..., dict[str, Any]]) -> None:
    """Against a student that calls the same teacher by itself, with as many calls on their way; answers are tiny."""
    steps, first = 400, 50
    workers = teachers(1, 0.0)
    calls = [workers["w0"].answer.options(num_returns=2).remote(0, 0) for _ in range(4 * SLOTS)]
    alone = []
    for _ in range(steps):
        began = time.perf_counter()
        now, calls = calls[:SLOTS], calls[SLOTS:]
        ray.get([answer for _, answer in now])
        calls += [workers["w0"].answer.options(num_returns=2).remote(0, 0) for _ in range(SLOTS)]
        alone.append(time.perf_counter() - began)
    ray.get([meta for meta, _ in calls])
    linked = []
    with links_of(workers, steps, SLOTS) as links:
        source = source_of(links)
        for step in range(steps):
            began = time.perf_counter()
            source.fetch(step)
            linked.append(time.perf_counter() - began)
    with_link, without = (1e3 * statistics.median(times[first:]) for times in (linked, alone))
    table.add(
        f"ms a batch of {SLOTS} slots through the link, and where the student calls the teacher itself",
        f"{with_link:.2f}, {without:.2f}: the link costs {with_link - without:.2f}",
        "1.5",
    )


@pytest.mark.parametrize(
    ("workers", "slots_each", "shards"), [(8, 1, 1), (8, 4, 1), (64, 1, 1), (64, 4, 1), (256, 1, 1), (256, 1, 2)]
)
def test_leases_per_second(table: Table, workers: int, slots_each: int, shards: int) -> None:
    """As many ranks as teachers; nobody computes, so the link and Ray are all that takes time."""
    steps = max(10, 2000 // workers // slots_each)
    processes = [ManyTeachers.remote(0.0, 900) for _ in range(2)]
    named = {f"w{i}": OneOfMany(processes[i % 2], f"w{i}") for i in range(workers)}
    students = [ManyStudents.remote() for _ in range(2)]
    with links_of(named, steps + 5, workers * slots_each, LinkConfig(shards=shards)) as links:
        ray.get([link.attach.remote(1, r, workers, 0, PLAN) for link in links for r in range(workers)])
        ranks = [(rank, rank * shards // workers) for rank in range(workers)]
        mine = [[r for r in ranks if r[0] % 2 == half] for half in range(2)]

        def run(over: range) -> float:
            began = time.perf_counter()
            ray.get([s.run.remote(links, m, slots_each, over, 0.0) for s, m in zip(students, mine, strict=True)])
            return time.perf_counter() - began

        run(range(5))
        before = sum(ray.get([link.cpu_seconds.remote() for link in links]))
        seconds = run(range(5, steps + 5))
        busy = sum(ray.get([link.cpu_seconds.remote() for link in links])) - before
    for actor in [*processes, *students]:
        ray.kill(actor)
    name = f"leases/s, {workers} teachers and {workers} students with {slots_each} of a step's slots each"
    name += f", {shards} links" if shards > 1 else ""
    leases = steps * workers * slots_each
    table.add(
        name,
        f"{leases / seconds:.0f}, at {1e3 * busy / leases:.2f} ms of the link's CPU each",
        "500" if shards == 1 else "–",
    )


@pytest.mark.parametrize("limit", ["teachers", "students"])
def test_throughput(table: Table, teachers: Callable[..., dict[str, Any]], limit: str) -> None:
    teacher_seconds, step_seconds = (0.1, 0.1) if limit == "teachers" else (0.025, 0.1)
    workers = teachers(2, teacher_seconds)
    steps = 60
    with links_of(workers, steps, SLOTS) as links:
        times = []
        source = source_of(links)
        for _ in Prefetcher(source, 0, steps):
            time.sleep(step_seconds)
            times.append(time.perf_counter())
    best = min(len(workers) / (SLOTS * teacher_seconds), 1 / step_seconds)
    rate = (steps - 11) / (times[-1] - times[10])
    table.add(f"throughput against min(teacher rate, student rate), {limit} limit", f"{rate / best:.3f}", "0.95")


def test_nobody_waits_where_teachers_have_a_tenth_to_spare(
    table: Table, teachers: Callable[..., dict[str, Any]]
) -> None:
    step_seconds = 0.2
    workers = teachers(2, 2 * step_seconds / SLOTS / 1.1)
    with links_of(workers, 60, SLOTS) as links:
        waits = train(links, 60, step_seconds, {})
    share = sum(waits[10:]) / (sum(waits[10:]) + step_seconds * len(waits[10:]))
    table.add("exposed wait of the students, teachers with 10 % to spare", f"{100 * share:.2f} %", "2 %")


def test_nobody_waits_when_a_teacher_is_killed(table: Table, teachers: Callable[..., dict[str, Any]]) -> None:
    step_seconds = 0.2
    workers = teachers(2, step_seconds / SLOTS / 1.1)
    with links_of(workers, 60, SLOTS, LinkConfig(window_steps=4)) as links:
        waits = train(links, 60, step_seconds, {30: lambda: ray.kill(workers["w0"], no_restart=False)})
        lost = ray.get(links[0].stats.remote())["lost_workers"]
    assert lost == 1
    calm, after = max(waits[10:31]), max(waits[31:])
    table.add(
        "longest wait for a batch after one of two teachers was killed (window of 4 steps), and before",
        f"{1e3 * after:.1f} ms, {1e3 * calm:.1f} ms",
        "no wait",
    )


def test_object_store_stays_below_its_bound(table: Table, teachers: Callable[..., dict[str, Any]]) -> None:
    """A student that is far slower than the teachers: credits are what holds them."""
    answer, bound = 900_000, 12_000_000
    workers = teachers(2, 0.0, answer)
    empty = store_bytes()
    highest = [0]
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            highest[0] = max(highest[0], store_bytes() - empty)
            time.sleep(0.01)

    watcher = threading.Thread(target=watch)
    with links_of(workers, 40, SLOTS, LinkConfig(window_steps=30, max_bytes=bound)) as links:
        watcher.start()
        train(links, 40, 0.05, {})
        stop.set()
        watcher.join()
    assert highest[0] > bound / 2
    table.add("highest use of the object store, of the bytes configured", f"{highest[0] / bound:.2f}", "at most 1")


def store_bytes() -> int:
    """In use on this machine, as Ray counts them."""
    from ray._private.internal_api import get_memory_info_reply, get_state_from_address

    state = get_state_from_address(ray.get_runtime_context().gcs_address)
    return int(get_memory_info_reply(state).store_stats.object_store_bytes_used)
