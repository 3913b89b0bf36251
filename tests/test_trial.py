"""One trial of a sweep, in this process."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import io
import json
import pickle
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console

from mtkd_dist import launch
from mtkd_dist.config.load import load_config
from mtkd_dist.config.presets import PRESETS
from mtkd_dist.config.tree import AnswersConfig, Config, LinkConfig, MethodName, TrainingConfig
from mtkd_dist.data import ImageStore
from mtkd_dist.data.teacher_outputs import folder_bytes
from mtkd_dist.methods import Batch, Crops
from mtkd_dist.models import build_aggregator, build_network, digest_file, read_metadata
from mtkd_dist.pools.placement import PoolSize, Resources
from mtkd_dist.pools.render import Renderer, Rendering
from mtkd_dist.pools.teacher_worker import TeacherJob, digests_of, load_networks
from mtkd_dist.stages import manifest
from mtkd_dist.stages.run import Run
from mtkd_dist.stages.teachers import ReadyTeachers
from mtkd_dist.tracking.tracker import Untracked
from mtkd_dist.train.job import StudentJob
from mtkd_dist.train.source import LocalSource, Share
from mtkd_tune import aggregates
from mtkd_tune.population import RATES
from mtkd_tune.reports import REPORTED
from mtkd_tune.shared import Shared, share
from mtkd_tune.tree import PbtConfig, SweepConfig
from mtkd_tune.trial import LOG, run_trial
from tests.nets import TINY, TINY_AGGREGATOR, make_aggregator, make_store, make_teacher, nearest_teacher, write_photos

Metrics = dict[str, Any]
SMALL = TrainingConfig(steps=4, batch_size=4, patch=8, ema=0.9, checkpoint_every=2, validate_every=2)

ONE = PoolSize(workers=1, cpus=1, gpus=0)


class Sweep:
    """What a driver would have prepared: photographs, teachers, their rendered images."""

    def __init__(self, folder: Path) -> None:
        self.photos, self.held_out = make_store(folder), make_store(folder / "held-out", 1, side=40)
        self.teachers = [nearest_teacher(folder, "a"), make_teacher(folder, "b")]
        self.config = dataclasses.replace(
            PRESETS["demo"](),
            teachers=[str(teacher.path) for teacher in self.teachers],
            student=TINY,
            aggregator=TINY_AGGREGATOR,
            scale=2,
            link=LinkConfig(slot_size=2),
            aggregate=SMALL,
            distil=SMALL,
            answers=dataclasses.replace(PRESETS["demo"]().answers, folder=str(folder / "answers")),
        )
        files = tuple(dataclasses.replace(teacher, digest=digest_file(teacher.path)) for teacher in self.teachers)
        self.ready = ReadyTeachers(files, digests_of(files), {})

    def run(self, output: Path, config: Config, validation: bool = True) -> Run:
        console = Console(file=io.StringIO())
        held_out: ImageStore | None = self.held_out if validation else None
        return Run(config, output, console, Untracked(), Resources(2, 0), self.photos, held_out, {})

    def share(self, output: Path, **sweep: Any) -> Shared:
        return share(self.run(output, self.config), self.ready, SweepConfig(**sweep), ONE)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    return Sweep(tmp_path_factory.mktemp("sweep"))


def distil(config: Config, **changes: Any) -> Config:
    return dataclasses.replace(config, distil=dataclasses.replace(config.distil, **changes))


def aggregate(config: Config, **changes: Any) -> Config:
    return dataclasses.replace(config, aggregate=dataclasses.replace(config.aggregate, **changes))


def trial(shared: Shared, name: str, config: Config | None = None) -> list[Metrics]:
    """Runs it; what it reported."""
    reported: list[Metrics] = []
    run_trial(config or shared.config, shared, name, lambda metrics, folder: reported.append(metrics))
    return reported


def student_of(shared: Shared, name: str) -> str:
    return digest_file(shared.trial_folder(name) / "student.safetensors")


def log_of(shared: Shared, name: str) -> str:
    return " ".join((shared.trial_folder(name) / LOG).read_text().split())


def parameters(network: Any) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


class Answered(LocalSource):
    """Asks the networks of a teacher half itself."""

    def __init__(self, job: TeacherJob, share: Share) -> None:
        super().__init__(share, torch.device("cpu"))
        self._method = job.method
        self._networks = load_networks(job.teachers, job.aggregator, job.scale, torch.device("cpu"))

    def fetch(self, step: int) -> Batch:
        batch = super().fetch(step)
        crops = Crops(batch.lr, batch.hr, batch.checks)
        return dataclasses.replace(batch, signals=self._method.teach(crops, self._networks))


class Killed(BaseException):
    pass


def killed_at(step: int) -> Any:
    def report(metrics: Metrics, folder: Path | None) -> None:
        if metrics["step"] == step:
            raise Killed

    return report


def test_the_students_validations_are_reported_with_what_is_known_of_it(sweep: Sweep, tmp_path: Path) -> None:
    shared = sweep.share(tmp_path)
    first, last = trial(shared, "trial-0001")
    assert first.keys() == {"step", "psnr_y", "params", "aggregator", "aggregator_trained"}
    assert (first["step"], last["step"]) == (2, 4)
    assert first["params"] == parameters(build_network(TINY, 2))
    assert first["aggregator_trained"] is True
    assert (shared.aggregator_folder(first["aggregator"]) / "aggregator.safetensors").is_file()
    said = log_of(shared, "trial-0001")
    for metrics in (first, last):
        assert f"distil: step {metrics['step']}, PSNR-Y {metrics['psnr_y']:.2f} dB" in said


def test_what_is_shared_travels(sweep: Sweep, tmp_path: Path) -> None:
    shared = sweep.share(tmp_path)
    assert pickle.loads(pickle.dumps(shared)) == shared


def test_of_two_trials_with_the_same_aggregator_one_trains_it(sweep: Sweep, tmp_path: Path) -> None:
    shared = sweep.share(tmp_path)
    one = trial(shared, "trial-0001")
    images = tmp_path / aggregates.FOLDER
    rendered = set(images.rglob("*.npy"))
    other = trial(shared, "trial-0002", distil(shared.config, learning_rate=1e-3))
    third = trial(shared, "trial-0003", aggregate(shared.config, learning_rate=1e-3))
    assert [metrics["aggregator_trained"] for metrics in (one[0], other[0], third[0])] == [True, False, True]
    assert one[0]["aggregator"] == other[0]["aggregator"] != third[0]["aggregator"]
    assert len(list((tmp_path / "aggregators").iterdir())) == 2
    assert "aggregate: done before" in log_of(shared, "trial-0002")
    # Its images, one for each photograph, are all that the third had to render.
    assert len(set(images.rglob("*.npy")) - rendered) == len(sweep.photos)
    assert student_of(shared, "trial-0001") != student_of(shared, "trial-0002")


def with_room_for(aggregators: int, sweep: Sweep, output: Path) -> Shared:
    """`aggregators`: whose images fit beside those of the teachers."""
    trial(sweep.share(output / "before"), "trial")  # renders those of the teachers
    shared = sweep.share(output / "sweep")
    images = sum(path.stat().st_size for path in (output / "before" / aggregates.FOLDER).rglob("*.npy"))
    room = folder_bytes(Path(shared.config.answers.folder or "")) + int((aggregators + 0.5) * images)
    answers = dataclasses.replace(shared.config.answers, max_bytes=room)
    return dataclasses.replace(shared, config=dataclasses.replace(shared.config, answers=answers))


def test_an_aggregator_whose_images_have_no_room_is_not_trained(sweep: Sweep, tmp_path: Path) -> None:
    shared = with_room_for(0, sweep, tmp_path)
    with pytest.raises(ValueError, match=r"answers\.max_bytes allows .* those of 0 fit at a time"):
        trial(shared, "trial-0001")
    assert not (shared.output / "aggregators").exists()


def test_images_of_an_aggregator_that_no_trial_needs_make_room_and_are_rendered_again(
    sweep: Sweep, tmp_path: Path
) -> None:
    shared = with_room_for(1, sweep, tmp_path)
    other = aggregate(shared.config, learning_rate=1e-3)
    trial(shared, "trial-0001")
    trial(shared, "trial-0002", other)
    again = trial(shared, "trial-0003", distil(shared.config, learning_rate=1e-3))
    assert [metrics["aggregator_trained"] for metrics in again] == [False, False]
    assert len(list((shared.output / aggregates.FOLDER).rglob("*.npy"))) == len(sweep.photos)


def test_images_that_another_trial_is_rendering_are_not_rendered_again(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = sweep.share(tmp_path / "sweep")
    trial(sweep.share(tmp_path / "before"), "trial")  # the driver would have rendered the teachers' images
    rendered: list[tuple[str, int]] = []
    first_renders, second_waits = threading.Event(), threading.Event()
    render = Renderer.render

    def counted(renderer: Renderer, rendering: Rendering, index: int) -> None:
        first_renders.set()
        assert second_waits.wait(60)
        rendered.append((rendering.outputs.digest, index))
        render(renderer, rendering, index)

    monkeypatch.setattr(Renderer, "render", counted)
    runs = [threading.Thread(target=trial, args=(shared, f"trial-{i}"), daemon=True) for i in range(2)]
    runs[0].start()
    assert first_renders.wait(60)
    runs[1].start()
    log = shared.trial_folder("trial-1") / LOG
    until = time.monotonic() + 60
    while time.monotonic() < until and not (log.exists() and "renders into" in log.read_text()):
        time.sleep(0.05)
    second_waits.set()
    for run in runs:
        run.join(60)
    assert "another process renders into" in log_of(shared, "trial-1")
    assert len(rendered) == len(set(rendered)) == len(sweep.photos)


def test_who_trained_the_aggregator_is_known_after_a_restart(sweep: Sweep, tmp_path: Path) -> None:
    shared = sweep.share(tmp_path)
    with pytest.raises(Killed):
        run_trial(shared.config, shared, "trial-0001", killed_at(2))
    assert [metrics["aggregator_trained"] for metrics in trial(shared, "trial-0001")] == [True, True]


def test_a_trial_waits_for_another_one_that_trains_its_aggregator(sweep: Sweep, tmp_path: Path) -> None:
    shared = sweep.share(tmp_path)
    key = trial(shared, "trial-0001")[0]["aggregator"]
    reported: list[Metrics] = []
    with (shared.aggregator_folder(key) / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = threading.Thread(target=lambda: reported.extend(trial(shared, "trial-0002")), daemon=True)
        waiting.start()
        log = shared.trial_folder("trial-0002") / LOG
        until = time.monotonic() + 60
        while time.monotonic() < until and not (log.exists() and "waiting" in log.read_text()):
            time.sleep(0.05)
        assert "another trial is at work in" in log_of(shared, "trial-0002")
        assert not reported
    waiting.join(60)
    assert [metrics["aggregator"] for metrics in reported] == [key, key]


@pytest.mark.parametrize(("step", "told"), [(2, [2, 4]), (4, [4])])
def test_a_trial_that_was_killed_goes_on_and_ends_with_the_same_student(
    sweep: Sweep, tmp_path: Path, step: int, told: list[int]
) -> None:
    shared = sweep.share(tmp_path)
    whole = trial(shared, "undisturbed")
    with pytest.raises(Killed):
        run_trial(shared.config, shared, "killed", killed_at(step))
    again = trial(shared, "killed")
    assert [metrics["step"] for metrics in again] == told
    assert [metrics["psnr_y"] for metrics in again] == [m["psnr_y"] for m in whole if m["step"] in told]
    assert student_of(shared, "killed") == student_of(shared, "undisturbed")


def test_a_trial_that_was_killed_while_its_aggregator_trained_ends_with_the_same_student(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, other = sweep.share(tmp_path / "one"), sweep.share(tmp_path / "other")
    trial(other, "undisturbed")
    from mtkd_dist.train.validation import Validation

    with monkeypatch.context() as patch:

        def die(*_: object) -> None:
            raise Killed

        patch.setattr(Validation, "run", die)
        with pytest.raises(Killed):
            run_trial(shared.config, shared, "killed", lambda metrics, folder: None)
    assert trial(shared, "killed")[0]["aggregator_trained"] is True
    assert student_of(shared, "killed") == student_of(other, "undisturbed")


def test_a_trial_that_is_done_reports_its_last_score_once_more(sweep: Sweep, tmp_path: Path) -> None:
    shared = sweep.share(tmp_path)
    first = trial(shared, "trial-0001")
    assert trial(shared, "trial-0001") == first[-1:]
    assert json.loads((shared.trial_folder("trial-0001") / REPORTED).read_text())["step"] == 4


def test_a_name_that_is_given_to_other_values_reports_all_their_scores(sweep: Sweep, tmp_path: Path) -> None:
    shared = sweep.share(tmp_path)
    trial(shared, "trial-0001")
    again = trial(shared, "trial-0001", distil(shared.config, learning_rate=1e-3))
    assert [metrics["step"] for metrics in again] == [2, 4]


def test_with_aggregators_as_the_target_no_student_is_trained_and_theirs_are_the_scores(
    sweep: Sweep, tmp_path: Path
) -> None:
    shared = sweep.share(tmp_path, target="aggregate")
    one, same = trial(shared, "trial-0001"), trial(shared, "trial-0002")
    assert [metrics["step"] for metrics in one] == [2, 4]
    assert one[0]["params"] == parameters(build_aggregator(TINY_AGGREGATOR, 2, 2))
    assert [metrics["aggregator_trained"] for metrics in one + same] == [True, True, False, False]
    assert [metrics | {"aggregator_trained": True} for metrics in same] == one
    assert not list(tmp_path.rglob("student.safetensors"))


def test_scores_of_an_aggregator_that_another_trial_began_are_reported_too(sweep: Sweep, tmp_path: Path) -> None:
    shared = sweep.share(tmp_path, target="aggregate")
    with pytest.raises(Killed):
        run_trial(shared.config, shared, "killed", killed_at(4))
    other = trial(shared, "other")
    assert [(metrics["step"], metrics["aggregator_trained"]) for metrics in other] == [(2, True), (4, True)]


def test_a_given_aggregator_is_taken_as_it_is(sweep: Sweep, tmp_path: Path) -> None:
    shared = sweep.share(tmp_path)
    config = dataclasses.replace(shared.config, aggregator=str(make_aggregator(tmp_path, sweep.teachers)))
    metrics = trial(shared, "trial-0001", config)
    assert [(m["aggregator"], m["aggregator_trained"]) for m in metrics] == [("", False)] * 2
    assert not (tmp_path / "aggregators").exists()


def test_where_teachers_answer_live_nothing_is_rendered(sweep: Sweep, tmp_path: Path) -> None:
    opened: list[str] = []

    @contextlib.contextmanager
    def live(teacher: TeacherJob, student: StudentJob, link: LinkConfig, say: Any) -> Iterator[Any]:
        pickle.loads(pickle.dumps(say))("a word of the teachers")
        opened.append(student.network)
        yield lambda attempt, share, device: Answered(teacher, share)
        opened.append("closed")

    config = dataclasses.replace(sweep.config, answers=AnswersConfig(folder=str(tmp_path / "answers")))
    shared = share(sweep.run(tmp_path, config), sweep.ready, SweepConfig(), ONE, live)
    assert [metrics["step"] for metrics in trial(shared, "trial-0001")] == [2, 4]
    assert opened == [TINY_AGGREGATOR, "closed", TINY, "closed"]
    assert not list((tmp_path / "answers").rglob("*.npy"))
    assert "a word of the teachers" in log_of(shared, "trial-0001")


@pytest.mark.parametrize("method", ["mean", "kd", "scratch"])
def test_a_trial_of_a_method_without_an_aggregator_trains_its_student_and_nothing_else(
    sweep: Sweep, tmp_path: Path, method: MethodName
) -> None:
    config = dataclasses.replace(
        sweep.config, method=method, teachers=[] if method == "scratch" else sweep.config.teachers
    )
    teachers = ReadyTeachers((), {}, {}) if method == "scratch" else sweep.ready
    shared = share(sweep.run(tmp_path, config), teachers, SweepConfig(), ONE)
    first, last = trial(shared, "trial-0001")
    assert (first["step"], last["step"]) == (2, 4)
    assert (last["aggregator"], last["aggregator_trained"]) == ("", False)
    assert not (tmp_path / "aggregators").exists()
    assert read_metadata(shared.trial_folder("trial-0001") / "student.safetensors")["method"] == method
    answers = shared.trial_folder("trial-0001") / "answers"
    assert [path.name for path in answers.glob("*")] == ([] if method == "scratch" else ["teachers"])


@pytest.mark.parametrize("target", ["distil", "aggregate"])
def test_latency_is_measured_where_it_is_an_objective(sweep: Sweep, tmp_path: Path, target: str) -> None:
    shared = sweep.share(tmp_path, target=target, objectives=["psnr_y", "latency_ms"])
    first, last = trial(shared, "trial-0001")
    assert first["latency_ms"] == last["latency_ms"] > 0


def test_a_trial_without_a_score_fails_with_words(sweep: Sweep, tmp_path: Path) -> None:
    shared = sweep.share(tmp_path)
    config = distil(shared.config, steps=1, learning_rate=1e30, ema=0.0)
    with pytest.raises(ValueError, match=r"trial-0001: no validation of distil came to a score"):
        trial(shared, "trial-0001", config)
    assert "distil: the validation after step 1 failed" in log_of(shared, "trial-0001")


def test_what_goes_wrong_is_in_the_log_of_the_trial(sweep: Sweep, tmp_path: Path) -> None:
    shared = sweep.share(tmp_path)

    def fail(metrics: Metrics, folder: Path | None) -> None:
        raise RuntimeError("nobody listens")

    with pytest.raises(RuntimeError, match="nobody listens"):
        run_trial(shared.config, shared, "trial-0001", fail)
    assert "RuntimeError: nobody listens" in log_of(shared, "trial-0001")


class Population:
    """Trials of a sweep with pbt, and the folders that came with their reports."""

    def __init__(self, shared: Shared, folder: Path) -> None:
        self.shared, self.folder = shared, folder
        self.reported: dict[str, list[Metrics]] = {}

    def run(self, name: str, rate: float, parts: int, start: tuple[str, int] | None = None) -> None:
        """Up to the end of part `parts`. `start`: trial and step that it goes on from."""
        told = self.reported.setdefault(name, [])

        def report(metrics: Metrics, folder: Path | None) -> None:
            assert folder is not None
            told.append(metrics | {"handed rates": json.loads((folder / RATES).read_text())})
            shutil.copytree(folder, self.at(name, metrics["step"]))
            if len(metrics["rates"]) == parts < self.shared.parts:
                raise Killed

        config = self.shared.config
        training = dataclasses.replace(getattr(config, self.shared.sweep.target), learning_rate=rate)
        config = dataclasses.replace(config, **{self.shared.sweep.target: training})
        try:
            run_trial(config, self.shared, name, report, None if start is None else self.at(*start))
        except Killed:
            return

    def at(self, name: str, step: int) -> Path:
        return self.folder / f"{name}-{step}"


@pytest.fixture
def population(sweep: Sweep, tmp_path: Path) -> Population:
    shared = sweep.share(tmp_path / "sweep", scheduler="pbt", pbt=PbtConfig(parts=2))
    return Population(shared, tmp_path)


def test_a_copied_trial_ends_as_one_training_with_its_rates_from_the_beginning(
    population: Population, sweep: Sweep, tmp_path: Path
) -> None:
    population.run("donor", 1e-3, parts=1)
    population.run("copy", 1e-2, parts=1)
    population.run("copy", 5e-3, parts=2, start=("donor", 2))
    found = population.reported["copy"]
    assert [(m["step"], m["rates"]) for m in found] == [(2, [1e-2]), (4, [1e-3, 5e-3])]
    assert [m["handed rates"] for m in found] == [m["rates"] for m in found]
    shared = sweep.share(tmp_path / "plain")
    (_, last) = trial(shared, "whole", distil(shared.config, rates=[1e-3, 5e-3]))
    assert student_of(shared, "whole") == student_of(population.shared, "copy")
    assert last["psnr_y"] == found[-1]["psnr_y"]
    other = trial(shared, "other", distil(shared.config, rates=[1e-2, 5e-3]))
    assert other[-1]["psnr_y"] != last["psnr_y"]


def test_a_trial_that_goes_on_from_its_own_folder_keeps_its_rates(population: Population) -> None:
    population.run("whole", 1e-3, parts=2)
    population.run("paused", 1e-3, parts=1)
    population.run("paused", 1e-3, parts=2, start=("paused", 2))
    assert [m["step"] for m in population.reported["paused"]] == [2, 4]
    assert student_of(population.shared, "whole") == student_of(population.shared, "paused")


@pytest.mark.parametrize("name", ["whole", "copy"])
def test_where_all_parts_are_done_the_last_score_is_reported_once_more(population: Population, name: str) -> None:
    population.run("whole", 1e-3, parts=2)
    last = population.reported["whole"][-1]
    shutil.move(population.at("whole", 4), population.at("donor", 4))
    population.run(name, 5e-3, parts=2, start=("donor", 4))
    assert population.reported[name][-1] == last | {"aggregator_trained": name == "whole"}
    assert student_of(population.shared, name) == student_of(population.shared, "whole")


def test_only_ends_of_parts_are_reported(sweep: Sweep, tmp_path: Path) -> None:
    shared = sweep.share(tmp_path / "sweep", scheduler="pbt", pbt=PbtConfig(parts=2))
    config = distil(shared.config, validate_every=1, checkpoint_every=3)
    shared = dataclasses.replace(shared, config=config)
    population = Population(shared, tmp_path)
    population.run("trial", 1e-3, parts=2)
    assert [m["step"] for m in population.reported["trial"]] == [2, 4]
    assert "distil: step 3, PSNR-Y" in log_of(shared, "trial")


def test_aggregators_can_be_the_target_of_a_population(sweep: Sweep, tmp_path: Path) -> None:
    shared = sweep.share(tmp_path / "sweep", scheduler="pbt", pbt=PbtConfig(parts=2), target="aggregate")
    population = Population(shared, tmp_path)
    population.run("donor", 1e-3, parts=1)
    population.run("copy", 5e-3, parts=2, start=("donor", 2))
    (found,) = population.reported["copy"]
    plain = sweep.share(tmp_path / "plain", target="aggregate")
    whole = trial(plain, "whole", aggregate(plain.config, rates=[1e-3, 5e-3]))[-1]
    files = [
        s.aggregator_folder(m["aggregator"]) / "aggregator.safetensors" for s, m in ((shared, found), (plain, whole))
    ]
    assert digest_file(files[0]) == digest_file(files[1])


def test_steps_that_have_no_such_parts_are_refused(sweep: Sweep, tmp_path: Path) -> None:
    shared = sweep.share(tmp_path, scheduler="pbt", pbt=PbtConfig(parts=3))
    with pytest.raises(ValueError, match=r"pbt\.parts: 4 steps cannot be cut into 3 equal parts"):
        trial(shared, "trial-0001")


def test_a_sweep_without_held_out_photographs_is_refused(sweep: Sweep, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"images\.held_out: none of the 4 photographs"):
        share(sweep.run(tmp_path, sweep.config, validation=False), sweep.ready, SweepConfig(), ONE)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_launch_with_the_configuration_of_a_trial_ends_with_its_aggregator_and_its_student(tmp_path: Path) -> None:
    teachers = [nearest_teacher(tmp_path, name) for name in "ab"]
    write_photos(tmp_path / "photos", 4)
    training = dataclasses.asdict(SMALL) | {"learning_rate": 1e-3}
    settings = {
        "data": [str(tmp_path / "photos")],
        "teachers": [f"{teacher.path}:name={teacher.name}" for teacher in teachers],
        "student": TINY,
        "aggregator": TINY_AGGREGATOR,
        "scale": 2,
        "link": {"slot_size": 2},
        "teacher_outputs": "cached",
        "aggregate": training,
        "distil": training | {"rates": [2e-3, 5e-4]},
        # One student with one thread.
        "num_gpus": 1,
    }
    (tmp_path / "best.yaml").write_text(yaml.safe_dump(settings))
    launched = tmp_path / "launched"
    arguments = ["--config", str(tmp_path / "best.yaml"), "--output", str(launched)]
    assert launch.main(arguments) == 0
    files = tuple(dataclasses.replace(teacher, digest=digest_file(teacher.path)) for teacher in teachers)
    stores = [ImageStore.open(launched / "images" / f"{name}-x2") for name in ("train", "validation")]
    config = load_config(arguments)
    run = Run(config, tmp_path / "sweep", Console(file=io.StringIO()), Untracked(), Resources(1, 0), *stores, {})
    shared = share(run, ReadyTeachers(files, digests_of(files), {}), SweepConfig(), ONE)
    scores = trial(shared, "trial-0001")
    aggregator = shared.aggregator_folder(scores[0]["aggregator"]) / "aggregator.safetensors"
    assert digest_file(aggregator) == digest_file(launched / "aggregator.safetensors")
    assert student_of(shared, "trial-0001") == digest_file(launched / "student.safetensors")
    left = manifest.read(launched / "distil")
    assert left is not None
    assert left.summary["validation"]["validation_psnr_y"] == scores[-1]["psnr_y"]
