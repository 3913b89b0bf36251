"""What the choice of a method decides: stages, settings that count, rows of scores. Without Ray."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args
from unittest.mock import MagicMock

import pytest
from rich.console import Console

from mtkd_dist.config.load import ConfigError, dump_config, load_config
from mtkd_dist.config.presets import PRESETS
from mtkd_dist.config.tree import Config, Distance, LossConfig, MethodName
from mtkd_dist.methods import NeedsNetworks, images_asked, settings_of
from mtkd_dist.models import build_network, read_metadata, save_network
from mtkd_dist.pools import teacher_seconds
from mtkd_dist.pools.evaluate import score_photos_here
from mtkd_dist.pools.placement import LayoutError, Resources
from mtkd_dist.stages import answers_choice, evaluate, manifest, pipeline, plan_only
from mtkd_dist.stages.aggregate import aggregate_training
from mtkd_dist.stages.answers_choice import reads_rendered
from mtkd_dist.stages.check import check, check_settings
from mtkd_dist.stages.distil import distil_training
from mtkd_dist.stages.distil_method import (
    distil_method,
    in_force,
    needs_aggregator,
    settings_unused,
    settings_used,
)
from mtkd_dist.stages.evaluate import run_evaluate
from mtkd_dist.stages.manifest import Manifest
from mtkd_dist.stages.run import Run, check_layouts
from mtkd_dist.stages.teachers import ReadyTeachers, run_teachers
from mtkd_dist.stages.training import Training
from tests.nets import TINY, make_aggregator, make_store, nearest_teacher

METHODS: tuple[MethodName, ...] = get_args(MethodName)


def config_of(method: MethodName, **changes: Any) -> Config:
    return dataclasses.replace(PRESETS["demo"](), method=method, **changes)


def run_of(folder: Path, config: Config) -> Run:
    """A run without a cluster, on two photographs that are also its test set."""
    store = make_store(folder, count=2)
    tracker: Any = SimpleNamespace(stage=lambda stage: MagicMock())
    console = Console(file=io.StringIO(), width=200)
    (folder / "out").mkdir(exist_ok=True)
    return Run(config, folder / "out", console, tracker, Resources(cpus=4, gpus=0), store, None, {"own": store})


def printed(run: Run) -> str:
    return run.console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("method", METHODS)
def test_there_is_an_aggregate_stage_exactly_where_the_method_asks_for_aggregates(method: MethodName) -> None:
    config = config_of(method)
    try:
        asked = images_asked(distil_method(config), 3, 2)
    except NeedsNetworks:
        asked = frozenset({"teachers"})
    assert needs_aggregator(config) == ("aggregate" in asked)
    assert distil_method(config).needs_teachers == bool(asked)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("distance", get_args(Distance))
def test_a_setting_is_said_to_be_used_exactly_where_the_method_has_it(method: MethodName, distance: Distance) -> None:
    config = config_of(method, loss=LossConfig(distance=distance))
    has = {key.name for key in dataclasses.fields(distil_method(config))} - {"needs_teachers"}  # type: ignore[arg-type]
    own = {"wavelet": {"levels", "wavelet", "band_weights"}, "l1": set(), "charbonnier": {"charbonnier_eps"}}
    idle = {name for other, names in own.items() if other != distance for name in names}
    used = settings_used(config)
    assert {key.partition(".")[2] for key in used} == has - idle
    assert not used & settings_unused(config).keys()


@pytest.mark.parametrize("method", METHODS)
def test_the_demo_passes_with_every_method(method: MethodName) -> None:
    config = load_config(["--method", method])
    check_settings(config)
    check(in_force(config)[0])


def test_a_method_survives_its_configuration_file(tmp_path: Path) -> None:
    config = load_config(["--method", "kd", "--kd.hr-weight", "0.5", "--loss.teacher-weights", "1", "2", "0"])
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert load_config(["--config", str(tmp_path / "config.yaml")]) == config
    check(config)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--method", "fakt"], ["method", "'fakt'", "mtkd, mean, kd, at, fakd, dukd, crosskd, scratch"]),
        (["--method", "scratch", "--loss.levels", "2"], ["loss.levels: 2", "method scratch", "this one: none"]),
        (["--method", "kd", "--loss.l1_weight", "1"], ["loss.l1_weight: 1.0", "method kd", "kd.hr_weight"]),
        (["--method", "kd", "--loss.distance", "l1"], ["loss.distance: l1", "method kd"]),
        (["--kd.teacher_weight", "2"], ["kd.teacher_weight: 2.0", "method mtkd", "loss.levels"]),
        (["--loss.teacher_weights", "1", "1", "1"], ["loss.teacher_weights", "method mtkd has"]),
        (["--loss.each_teacher", "1", "2"], ["loss.each_teacher", "3 numbers of 0 or more"]),
        (["--method", "mean", "--loss.each_teacher", "1", "1", "1"], ["loss.each_teacher", "method mean has"]),
        (["--loss.distance", "l1", "--loss.levels", "2"], ["loss.levels: 2", "mtkd with loss.distance l1 has"]),
        (["--loss.charbonnier_eps", "0.1"], ["loss.charbonnier_eps: 0.1", "mtkd with loss.distance wavelet has"]),
        (["--loss.distance", "charbonnier", "--loss.charbonnier_eps", "0"], ["loss.charbonnier_eps", "above 0"]),
        (["--loss.distance", "l2"], ["loss.distance", "'l2'", "wavelet, l1, charbonnier"]),
        (["--method", "mean", "--loss.teacher_weights", "1", "2"], ["loss.teacher_weights", "3 numbers of 0 or more"]),
        (["--method", "kd", "--loss.teacher_weights", "1", "2", "-1"], ["loss.teacher_weights", "-1", "0 or more"]),
        (["--method", "kd", "--loss.teacher_weights", "0", "0", "0"], ["loss.teacher_weights", "at least above 0"]),
        (["--method", "kd", "--kd.hr_weight", "-1"], ["kd.hr_weight", "-1", "0 or more"]),
        (["--method", "kd", "--kd.hr_weight", "0", "--kd.teacher_weight", "0"], ["kd.hr_weight", "one of them above"]),
        (["--method", "at", "--at.hr_weight", "0", "--at.teacher_weight", "0"], ["at.hr_weight and at.teacher_weight"]),
        (["--method", "at", "--at.attention_weight", "-1"], ["at.attention_weight", "-1", "0 or more"]),
        (["--method", "fakd", "--fakd.affinity_weight", ".inf"], ["fakd.affinity_weight", "inf", "0 or more"]),
        (["--method", "fakd", "--fakd.hr_weight", ".nan"], ["fakd.hr_weight", "nan", "0 or more"]),
        (["--method", "dukd", "--dukd.teacher_weight", "-1"], ["dukd.teacher_weight", "-1", "0 or more"]),
        (["--method", "dukd", "--dukd.alter", "1.5"], ["dukd.alter: 1.5", "a probability from 0 to 1"]),
        (["--method", "crosskd", "--crosskd.hr_weight", "0"], ["crosskd.hr_weight", "a number above 0"]),
        (["--method", "crosskd", "--crosskd.cross_weight", "-1"], ["crosskd.cross_weight", "-1", "0 or more"]),
        (["--method", "kd", "--at.attention_weight", "3"], ["at.attention_weight: 3", "method kd", "kd.hr_weight"]),
        *(
            (["--method", method, "--teachers", "[]"], ["teachers", "at least one", f"method {method}"])
            for method in ("mean", "at", "fakd", "dukd", "crosskd")
        ),
        (["--method", "kd", "--teachers", "[]"], ["teachers", "at least one", "method kd"]),
        (["--teachers", "[]"], ["teachers", "at least one", "method mtkd"]),
    ],
)
def test_what_a_method_cannot_work_with_is_refused_in_words(argv: list[str], words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        check(load_config(argv))
    for word in words:
        assert word in str(error.value)


def test_a_patch_that_no_wavelet_divides_is_fine_where_there_is_no_wavelet() -> None:
    odd = ["--distil.patch", "25", "--scale", "3"]
    with pytest.raises(ConfigError, match="divisible"):
        check(load_config(odd))
    for more in (["--method", "scratch"], ["--method", "kd"], ["--loss.distance", "l1"]):
        check(load_config([*odd, *more]))


def test_the_bytes_of_a_step_are_those_of_the_method() -> None:
    # 8 samples of LR 24 x 24 and HR 48 x 48, an image of float16 for each that travels.
    sample, image = 3 * 24**2 + 3 * 48**2, 2 * 3 * 48**2
    for method, travelling in (("mtkd", 3), ("mean", 1), ("kd", 3)):  # mtkd: while the aggregator is trained
        need = 8 * (sample + travelling * image)
        check(load_config(["--method", method, "--link.max_bytes", str(need)]))
        with pytest.raises(ConfigError, match=f"link.max_bytes: .*at least {need}"):
            check(load_config(["--method", method, "--link.max_bytes", str(need - 1)]))
    check(load_config(["--method", "scratch", "--link.max_bytes", "1"]))


def test_scratch_needs_no_teachers_and_does_not_look_at_those_that_are_given() -> None:
    check(load_config(["--method", "scratch", "--teachers", "[]"]))
    used, lines = in_force(load_config(["--method", "scratch", "--teachers", "absent.pth", "edsr"]))
    assert used.teachers == []
    assert lines[0] == "teachers: absent.pth, edsr not used, scratch learns from the truth alone"
    check(used)


@pytest.mark.parametrize("method", ["mean", "kd", "scratch"])
def test_an_aggregator_that_is_given_is_not_looked_at_without_a_use_for_it(method: MethodName) -> None:
    used, lines = in_force(config_of(method, aggregator="absent.safetensors"))
    check(used)
    assert lines[-1] == f"aggregate: left out, {method} needs no aggregator"


def test_mtkd_uses_all_that_is_given() -> None:
    config = config_of("mtkd")
    assert in_force(config) == (config, [])


@pytest.mark.parametrize(
    ("preset", "loss", "fingerprint"),
    [
        ("demo", {}, "5118efa869d6"),
        (
            "paper-x4",
            {"levels": 2, "band_weights": [1.0, 0.5, 0.5, 0.25], "wavelet": "db2", "l1_weight": 0.2},
            "f68442b02657",
        ),
    ],
)
def test_trainings_with_mtkd_are_those_from_before_there_was_a_choice(
    preset: str, loss: dict[str, Any], fingerprint: str
) -> None:
    """Otherwise every finished student would be trained again. Fingerprints: of the code before."""
    config = PRESETS[preset]()
    config = dataclasses.replace(config, loss=dataclasses.replace(config.loss, **loss))
    training = Training("distil", config.student, distil_method(config), config.distil, {}, aggregator_digest="def")
    run: Any = SimpleNamespace(config=config, images=SimpleNamespace(digest="abc"))
    assert manifest.fingerprint(training.inputs(run)) == fingerprint


def test_every_method_and_every_used_setting_is_another_training() -> None:
    configs = [config_of(method) for method in METHODS]
    configs += [config_of(method, loss=LossConfig(distance="l1")) for method in METHODS[:2]]
    configs += [config_of(method, loss=LossConfig(teacher_weights=[1, 2, 3])) for method in ("mean", "kd")]  # type: ignore[arg-type]
    inputs = [[type(m).__name__, settings_of(m)] for m in map(distil_method, configs)]
    assert len({json.dumps(one) for one in inputs}) == len(inputs)


@pytest.mark.parametrize("method", METHODS)
def test_the_pipeline_goes_through_the_stages_that_the_method_has(
    method: MethodName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone: list[str] = []

    monkeypatch.setattr(pipeline, "check_results", lambda run: None)
    monkeypatch.setattr(pipeline, "run_teachers", lambda run: ReadyTeachers((), {}, {}))
    monkeypatch.setattr(pipeline, "reads_rendered", lambda run, teachers: False)
    monkeypatch.setattr(pipeline, "run_aggregate", lambda *_: (gone.append("aggregate"), Path("A"))[1])
    monkeypatch.setattr(pipeline, "run_distil", lambda run, t, a, c: (gone.append(f"distil with {a}"), Path("S"))[1])
    monkeypatch.setattr(pipeline, "run_evaluate", lambda run, t, a, s: gone.append(f"evaluate {a} and {s}") or [])
    pipeline.run_stages(run_of(tmp_path, config_of(method)))
    if method == "mtkd":
        assert gone == ["aggregate", "distil with A", "evaluate A and S"]
    else:
        assert gone == ["distil with None", "evaluate None and S"]


@pytest.mark.parametrize("outputs", ["live", "cached", "auto"])
def test_no_images_are_rendered_for_a_method_without_teachers(outputs: Any, tmp_path: Path) -> None:
    run = run_of(tmp_path, config_of("scratch", teachers=[], teacher_outputs=outputs, scale=2))
    teachers = run_teachers(run)
    assert teachers.files == ()
    assert not reads_rendered(run, teachers)
    training = distil_training(run, teachers, None, cached=outputs == "cached")
    assert (training.teachers, training.aggregator, training.rendered) == ((), None, None)
    assert not training.inputs(run).keys() & {"wire", "slot_size", "teacher_outputs"}
    assert training.metadata["method"] == "scratch"
    assert training.metadata["teachers"] == "{}"


@pytest.mark.parametrize("method", ["mean", "kd"])
@pytest.mark.parametrize("cached", [False, True])
def test_a_method_without_an_aggregator_reads_or_asks_for_the_image_of_each_teacher(
    method: MethodName, cached: bool, tmp_path: Path
) -> None:
    given = [nearest_teacher(tmp_path, name) for name in "ab"]
    run = run_of(tmp_path, config_of(method, teachers=[str(teacher.path) for teacher in given], student=TINY))
    teachers = run_teachers(run)
    training = distil_training(run, teachers, None, cached)
    assert training.aggregator is None
    assert training.inputs(run)["aggregator"] is None
    assert training.metadata["method"] == method
    assert list(json.loads(training.metadata["teachers"])) == ["a", "b"]
    if cached:
        assert training.rendered is not None
        assert (len(training.rendered.teachers), training.rendered.aggregate) == (2, None)
        # The very files that an aggregator would be trained on.
        of_aggregator = aggregate_training(run, teachers, cached=True).rendered
        assert of_aggregator is not None
        assert [one.outputs.digest for one in training.rendered.teachers] == [
            one.outputs.digest for one in of_aggregator.teachers
        ]
    else:
        assert training.rendered is None


def test_auto_counts_no_aggregator_where_none_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_seconds, "BUDGET_SECONDS", 0.01)
    given = tuple(nearest_teacher(tmp_path, name) for name in "ab")
    run = run_of(tmp_path, config_of("mean", teachers=[str(teacher.path) for teacher in given], teacher_outputs="auto"))
    seconds = teacher_seconds._measure(given, None, run.images, 8, "float32", False)
    assert seconds.keys() == {"a", "b"}
    monkeypatch.setattr(answers_choice, "seconds_per_pixel", lambda teachers, aggregator, *_: seconds)
    assert reads_rendered(run, run_teachers(run))
    chosen = manifest.read(run.output / "answers")
    assert chosen is not None
    assert chosen.inputs["aggregator"] is None
    pixels = sum(height * width for height, width in run.images.lr_sizes)
    assert chosen.summary["cached_seconds"] == pytest.approx(pixels * sum(seconds.values()))
    distil = run.config.distil
    samples = distil.steps * distil.batch_size * distil.patch**2
    assert chosen.summary["live_seconds"] == pytest.approx(samples * sum(seconds.values()))


def test_a_split_that_only_the_aggregate_stage_could_not_use_is_fine_without_it() -> None:
    small = dataclasses.replace(PRESETS["demo"]().aggregate, batch_size=4)
    cluster = dataclasses.replace(PRESETS["demo"]().cluster, student_workers=2)
    resources = Resources(cpus=4, gpus=0, object_store_bytes=1 << 40)
    with pytest.raises(LayoutError):
        check_layouts(config_of("mtkd", aggregate=small, cluster=cluster), resources)
    check_layouts(config_of("mean", aggregate=small, cluster=cluster), resources)


def test_all_devices_are_the_students_where_there_are_no_teachers(tmp_path: Path) -> None:
    run = run_of(tmp_path, config_of("scratch", teachers=[]))
    plan_only.show_plan(run)
    assert "scratch asks no teachers" in printed(run)
    assert not (run.output / "plan.json").exists()


@pytest.mark.parametrize(
    ("method", "roles"),
    [
        ("mtkd", ["bicubic", "teacher", "teacher", "mean", "aggregate", "student"]),
        ("mean", ["bicubic", "teacher", "teacher", "mean", "student"]),
        ("kd", ["bicubic", "teacher", "teacher", "mean", "student"]),
        ("scratch", ["bicubic", "student"]),
    ],
)
def test_scores_have_a_row_for_each_model_that_the_method_has(
    method: MethodName, roles: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "score_photos", lambda jobs, photos, *_: score_photos_here(jobs, photos))
    given = [nearest_teacher(tmp_path, name) for name in "ab"]
    names = [] if method == "scratch" else [str(teacher.path) for teacher in given]
    run = run_of(tmp_path, config_of(method, teachers=names, student=TINY))
    teachers = run_teachers(run)
    aggregator = make_aggregator(tmp_path, given) if method == "mtkd" else None
    # The manifest of an aggregator that another method left in the folder.
    (run.output / "aggregate").mkdir()
    left = Manifest("aggregate", {}, {}, 0, 1.0, scores=[{"model": "aggregate", "psnr_y": 1.0}])
    manifest.write(run.output / "aggregate", left)
    student = student_of(run, teachers, aggregator)
    rows = run_evaluate(run, teachers, aggregator, student)
    assert [row["role"] for row in rows] == roles
    assert read_metadata(student)["method"] == method
    kept = manifest.read(run.output / "aggregate")
    assert kept is not None
    assert (kept.scores == left.scores) == (method != "mtkd")
    assert run_evaluate(run, teachers, aggregator, student) == rows
    assert "evaluate: done before" in printed(run)


def student_of(run: Run, teachers: ReadyTeachers, aggregator: Path | None) -> Path:
    """The file of a student as the distil stage writes it, untrained."""
    path = run.output / "student.safetensors"
    training = distil_training(run, teachers, aggregator)
    save_network(path, build_network(training.network, run.config.scale), dict(training.metadata))
    return path
