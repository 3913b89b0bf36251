"""The pool that renders: workers that die, images that kill, interruptions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import torch

from mtkd_dist.data.teacher_outputs import TeacherOutputs
from mtkd_dist.models import build_network, digest_file, save_network
from mtkd_dist.pools.errors import TrainingFailed
from mtkd_dist.pools.photo_workers import hand_out, photo_workers
from mtkd_dist.pools.placement import Resources
from mtkd_dist.pools.render import Renderer, Rendering, render, teacher_rendering
from mtkd_dist.pools.teacher_worker import TeacherFile
from tests.mortal import Mortal
from tests.nets import TINY, make_store, make_teacher

pytestmark = pytest.mark.usefixtures("ray_cluster")
TWO_CPUS = Resources(cpus=2, gpus=0)


def handed_out(flags: Path, tasks: int) -> Iterator[tuple[int, int]]:
    with photo_workers(Mortal, [flags], tasks, TWO_CPUS, None, max_restarts=-1) as workers:
        yield from hand_out(
            workers, list(range(tasks)), lambda worker, task: worker.work.remote(task), lambda task: f"task {task}"
        )


def test_the_tasks_of_workers_that_die_are_done_by_others(tmp_path: Path) -> None:
    for task in (0, 4):
        (tmp_path / str(task)).touch()
    assert dict(handed_out(tmp_path, 6)) == {task: 10 * task for task in range(6)}


def test_a_task_that_kills_every_worker_is_named(tmp_path: Path) -> None:
    for name in ("2", "always"):
        (tmp_path / name).touch()
    with pytest.raises(TrainingFailed, match="workers died of task 2, 3 times"):
        list(handed_out(tmp_path, 4))


def test_what_a_task_raises_comes_through_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "broken").touch()
    with pytest.raises(ValueError, match=r"^a broken photograph$"):
        list(handed_out(tmp_path, 2))


def teacher_rendering_in(folder: Path, root: Path) -> Rendering:
    store = make_store(folder, count=4, side=48)
    teacher = make_teacher(folder, "given")
    return teacher_rendering(teacher, digest_file(teacher.path), store, root, "float16", "float32")


def content(rendering: Rendering) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in rendering.outputs.folder.iterdir()}


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_a_rendering_that_was_interrupted_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    parts = teacher_rendering_in(tmp_path, tmp_path / "parts")
    elsewhere = TeacherOutputs(tmp_path / "whole", parts.outputs.key, parts.outputs.images)
    whole = dataclasses.replace(parts, outputs=elsewhere)
    whole.outputs.create()
    for index in range(4):
        Renderer(torch.device("cpu")).render(whole, index)
    rendering = render([parts], TWO_CPUS, workers=1)
    next(rendering)
    rendering.close()
    done = 4 - len(parts.outputs.missing())
    assert done >= 1
    assert len(list(render([parts], TWO_CPUS, workers=1))) == 4 - done
    assert content(parts) == content(whole)
    assert list(render([parts], TWO_CPUS)) == []


def test_an_image_that_is_not_finite_is_named_with_its_network(tmp_path: Path) -> None:
    store, path = make_store(tmp_path, count=4, side=48), make_teacher(tmp_path, "given").path
    broken = build_network(TINY, 2)
    for parameter in broken.parameters():
        torch.nn.init.constant_(parameter, float("nan"))
    save_network(path, broken, {"network": TINY, "scale": "2"})
    given = TeacherFile("given", path, None)
    rendering = teacher_rendering(given, digest_file(path), store, tmp_path / "outputs", "float16", "float32")
    rendering.outputs.create()
    with pytest.raises(ValueError, match=r"given on 02\.png: the image is not finite"):
        Renderer(torch.device("cpu")).render(rendering, 2)
    assert len(rendering.outputs.missing()) == 4


def test_a_pool_for_which_there_is_no_room_says_so_instead_of_hanging(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mtkd_dist.pools.photo_workers.START_SECONDS", 1.0)
    more_than_there_are = int(ray.cluster_resources()["GPU"]) + 1
    blocked = ray.remote(Mortal).options(num_gpus=more_than_there_are).remote(tmp_path, True)
    with pytest.raises(TrainingFailed, match="could be started within 1 s"):
        list(hand_out([blocked], [0], lambda worker, task: worker.work.remote(task), str))
    ray.kill(blocked)
