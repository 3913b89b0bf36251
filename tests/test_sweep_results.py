from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections import Counter
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from mtkd_dist.config.load import load_config
from mtkd_dist.config.presets import PRESETS
from mtkd_dist.config.tree import Config
from mtkd_dist.stages import manifest
from mtkd_dist.stages.check import check
from mtkd_dist.stages.manifest import Manifest
from mtkd_tune import plots
from mtkd_tune.best_config import best_yaml, launch_config
from mtkd_tune.cost import Cost, aggregators_work, cost, sentences, teachers_work
from mtkd_tune.ranking import Best, best, contenders, ranked
from mtkd_tune.results import hand_back
from mtkd_tune.rows import TrialRow
from mtkd_tune.table import csv_text, markdown, screen
from mtkd_tune.tree import PbtConfig, SweepConfig
from tests.nets import TINY, make_teacher, write_photos
from tests.trial_rows import SPACE, row, sweeps

# The best


def test_the_best_trial_has_the_highest_score_of_those_that_are_done() -> None:
    rows = [row(0, 30.0), row(1, 31.0), row(2, 33.0, "stopped"), row(3, 34.0, "failed"), row(4, 35.0, "running")]
    assert best(rows) == Best(rows[1])


def test_a_stopped_trial_is_the_best_only_where_none_is_done_and_that_is_said() -> None:
    rows = [row(0, 30.0, "stopped", step=10), row(1, 31.0, "failed"), row(2, None)]
    chosen = best(rows)
    assert chosen is not None
    assert chosen.row is rows[0]
    assert chosen.note == (
        "No trial was trained to the end: trial-0000 is the best of those that were stopped, as scored at step 10."
    )


def test_of_equal_scores_the_smaller_network_wins_where_size_is_an_objective() -> None:
    rows = [row(0, 30.0, params=20), row(1, 30.0, params=10)]
    assert best(rows, ["psnr_y", "params"]) == Best(rows[1])
    assert best(rows, ["psnr_y"]) == Best(rows[0])


@given(sweeps())
def test_the_best_trial_is_done_or_stopped_and_none_that_counts_scores_higher(rows: list[TrialRow]) -> None:
    chosen = best(rows)
    rivals = contenders(rows, ["psnr_y"])
    if chosen is None:
        assert rivals == []
    else:
        assert chosen.row.status in ("done", "stopped")
        assert all((one.psnr_y or 0) <= (chosen.row.psnr_y or 0) for one in rivals)


@given(sweeps())
def test_done_and_stopped_trials_are_never_compared(rows: list[TrialRow]) -> None:
    assert len({one.status for one in contenders(rows, ["psnr_y"])}) <= 1


@given(sweeps(), st.randoms())
def test_no_trial_is_lost_by_ranking(rows: list[TrialRow], random) -> None:  # type: ignore[no-untyped-def]
    shuffled = ranked(random.sample(rows, len(rows)))
    assert sorted(one.name for one in shuffled) == [one.name for one in rows]


# Tables


def _shown(rows: list[TrialRow], width: int = 100) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(screen(rows, ["psnr_y"]))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_screen_shows_the_best_first_and_why_trials_failed() -> None:
    text = _shown([row(0, 30.0), row(1, 31.0), row(2, None, "failed", error="ValueError: boom")])
    names = [line.split()[0] for line in text.splitlines() if "trial-" in line]
    assert names[:3] == ["trial-0001", "trial-0000", "trial-0002"]
    assert "best, in bold: trial-0001." in text
    assert "trial-0002 failed: ValueError: boom" in text


def test_the_best_row_is_bold_on_a_terminal() -> None:
    console = Console(width=100, file=io.StringIO(), force_terminal=True, color_system="standard")
    console.print(screen([row(0, 30.0), row(1, 31.0)], ["psnr_y"]))
    assert isinstance(console.file, io.StringIO)
    assert "\x1b[1mtrial-0001" in console.file.getvalue()
    assert "\x1b[1mtrial-0000" not in console.file.getvalue()


def test_a_sweep_of_five_values_fits_a_terminal_of_80_columns() -> None:
    names = ["aggregator.layers", "aggregator.dct_norm", "loss.levels", "loss.l1_weight", "distil.learning_rate"]
    values = dict(zip(names, [2, "ortho", 3, 0.0312345, 0.00123456], strict=True))
    line = next(line for line in _shown([row(0, values=values, seconds=92)], 80).splitlines() if "trial-0000" in line)
    assert " ".join(line.split()) == "trial-0000 done 2 ortho 3 0.0312 0.00123 30 30.000 0:01:32"


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(20, 50))
def test_the_csv_gives_back_every_number_exactly(rate: float, score: float) -> None:
    (read,) = csv.DictReader(io.StringIO(csv_text([row(0, score, values={"distil.learning_rate": rate})])))
    assert float(read["distil.learning_rate"]) == rate
    assert float(read["psnr_y_db"]) == score


def test_the_csv_has_all_that_is_known_by_name_of_trial() -> None:
    failed = row(
        2, None, "failed", values={"loss.levels": 2, "loss.bands": [1, 2]}, error='ValueError: "a", b', starts=2
    )
    done = row(1, 30.0, params=7, latency_ms=1.5, seconds=9.25, aggregator="ab12", aggregator_trained=True, rates=[0.1])
    first, second = csv.DictReader(io.StringIO(csv_text([failed, done])))
    assert first == {
        "trial": "trial-0001",
        "status": "done",
        "loss.levels": "2",
        "loss.bands": "",
        "distil.learning_rate": "0.001",
        "step": "30",
        "psnr_y_db": "30.0",
        "params": "7",
        "latency_ms": "1.5",
        "seconds": "9.25",
        "starts": "1",
        "aggregator_folder": "ab12",
        "aggregator_trained": "true",
        "rates": "[0.1]",
        "error": "",
    }
    assert json.loads(second["loss.bands"]) == [1, 2]
    assert second["error"] == 'ValueError: "a", b'
    assert second["psnr_y_db"] == ""


def test_a_searched_key_and_what_is_known_of_a_trial_are_different_columns() -> None:
    header = csv_text(
        [row(0, values={"aggregator": "dctswin", "student": "edsr", "seed": 1, "scale": 2})]
    ).splitlines()[0]
    assert len(set(header.split(","))) == len(header.split(","))


@given(sweeps(), st.randoms())
def test_files_do_not_depend_on_the_order_in_which_trials_ended(rows: list[TrialRow], random) -> None:  # type: ignore[no-untyped-def]
    shuffled = random.sample(rows, len(rows))
    columns = ["loss.levels", "distil.learning_rate"] if rows else []
    assert csv_text(shuffled) == csv_text(rows)
    assert markdown(shuffled, ["psnr_y"]) == markdown(rows, ["psnr_y"])
    assert csv_text(rows).splitlines()[0].split(",")[2:4] == (columns or ["step", "psnr_y_db"])


def test_markdown_marks_the_best_and_breaks_no_table() -> None:
    text = markdown([row(0, 30.0), row(1, 31.0), row(2, None, "failed", error="a | b")], ["psnr_y"])
    lines = text.splitlines()
    assert lines[3].startswith("| **trial-0001** | **done** |")
    assert "a \\| b" in lines[4]
    assert len({line.replace("\\|", "").count("|") for line in lines[:5]}) == 1
    assert "Best, in bold: trial-0001." in text


# best.yaml


@pytest.fixture
def sweep(tmp_path: Path) -> tuple[SweepConfig, Config]:
    """A sweep that trained one teacher and was given another, and the configuration of one of its trials."""
    folder = tmp_path / "my sweep"
    (folder / "teachers" / "small").mkdir(parents=True)
    make_teacher(folder / "teachers" / "small", "weights")
    given = make_teacher(tmp_path, "given")
    write_photos(tmp_path / "photos", 2)
    config = dataclasses.replace(
        PRESETS["demo"](),
        output=str(folder),
        data=[str(tmp_path / "photos")],
        test=[],
        teachers=[f"{TINY},name=small", f"{given.path}:input_range=1"],
        student="edsr-baseline:width=8,blocks=2",
        teacher_outputs="cached",
    )
    config = dataclasses.replace(config, distil=dataclasses.replace(config.distil, learning_rate=1.2345678901234567e-3))
    return SweepConfig(output=str(folder)), config


def _read(text: str, folder: Path) -> Config:
    (folder / "best.yaml").write_text(text)
    return load_config(["--config", str(folder / "best.yaml")])


def test_best_yaml_is_a_launch_of_the_trial_that_trains_and_renders_nothing_twice(
    sweep: tuple[SweepConfig, Config], tmp_path: Path
) -> None:
    settings, config = sweep
    folder = Path(settings.output)
    read = _read(best_yaml(config, Best(row(3, 30.12346)), settings, "2026-01-02"), tmp_path)
    assert read == dataclasses.replace(
        config,
        output=f"{folder}-best",
        teachers=[f"{folder}/teachers/small/weights.safetensors:name=small", config.teachers[1]],
        images=dataclasses.replace(config.images, cache=str(folder / "images")),
        answers=dataclasses.replace(config.answers, folder=str(folder / "teacher-outputs")),
    )


def test_a_launch_accepts_best_yaml(sweep: tuple[SweepConfig, Config], tmp_path: Path) -> None:
    settings, config = sweep
    check(_read(best_yaml(config, Best(row(3)), settings, "2026-01-02"), tmp_path))


@pytest.mark.parametrize(("asked", "launched"), [("auto", "cached"), ("cached", "cached"), ("live", "live")])
def test_best_yaml_takes_its_answers_from_where_the_trials_took_them(
    sweep: tuple[SweepConfig, Config], asked: Literal["auto", "cached", "live"], launched: str
) -> None:
    settings, config = sweep
    launch = launch_config(dataclasses.replace(config, teacher_outputs=asked), [], settings)
    assert launch.teacher_outputs == launched


def test_folders_that_the_sweep_was_given_stay(sweep: tuple[SweepConfig, Config]) -> None:
    settings, config = sweep
    given = dataclasses.replace(
        config,
        images=dataclasses.replace(config.images, cache="decoded"),
        answers=dataclasses.replace(config.answers, folder="rendered"),
    )
    launch = launch_config(given, [], settings)
    assert (launch.images.cache, launch.answers.folder) == ("decoded", "rendered")


def test_best_yaml_says_where_it_comes_from(sweep: tuple[SweepConfig, Config]) -> None:
    settings, config = sweep
    chosen = Best(row(3, 30.12346, aggregator="ab12", step=20), "No trial was trained to the end.")
    head = [line for line in best_yaml(config, chosen, settings, "2026-01-02").splitlines() if line.startswith("#")]
    assert head == [
        f"# The best of the sweep {settings.output} (2026-01-02): trial-0003, PSNR-Y 30.1235 dB on the held-out "
        "photographs after 20 of 600 steps of distil.",
        "# No trial was trained to the end.",
        "#   loss.levels: 1",
        "#   distil.learning_rate: 0.002",
        f"# python -m mtkd_dist.launch --config {settings.output}/best.yaml",
        "# It trains the aggregator again; the trial's own is taken as it is by --aggregator "
        f"{settings.output}/aggregators/ab12/aggregator.safetensors",
    ]


@pytest.mark.parametrize(("done", "rates"), [([1e-3, 5e-4, 1e-4], [1e-3, 5e-4, 1e-4]), ([1e-3], [1e-3, 2e-3, 2e-3])])
def test_best_yaml_repeats_the_rates_that_pbt_found(
    sweep: tuple[SweepConfig, Config], tmp_path: Path, done: list[float], rates: list[float]
) -> None:
    settings, config = sweep
    settings = dataclasses.replace(settings, scheduler="pbt", pbt=PbtConfig(parts=3))
    config = dataclasses.replace(config, distil=dataclasses.replace(config.distil, learning_rate=2e-3))
    read = _read(best_yaml(config, Best(row(3, rates=done)), settings, "2026-01-02"), tmp_path)
    assert read.distil == dataclasses.replace(config.distil, rates=rates)
    check(read)


# Cost


def _cost(rows: list[TrialRow]) -> Cost:
    seconds = {"teachers/edsr": 20.0, "answers/teachers": 10.0}
    return cost(rows, 120.0, seconds, 5_000_000, {"ab": 7.0, "cd": 5.0}, Counter({"heads do not divide width": 3}))


def test_the_cost_counts_what_reuse_saved() -> None:
    rows = [
        row(0, seconds=30.0, aggregator="ab", aggregator_trained=True),
        row(1, seconds=20.0, aggregator="ab"),
        row(2, status="stopped", seconds=10.0, aggregator="ab"),
        row(3, status="stopped", seconds=10.0, aggregator="cd", aggregator_trained=True),
        row(6, status="stopped", seconds=0.0, aggregator="half trained", aggregator_trained=True),
        row(4, None, "failed", seconds=5.0, starts=2),
        row(5, None, "waiting", starts=0),
    ]
    assert _cost(rows) == Cost(
        wall_seconds=120.0,
        trial_seconds=75.0,
        trials={"done": 2, "stopped": 3, "failed": 1, "waiting": 1},
        trials_per_hour=150.0,
        starts=7,
        teacher_seconds={"teachers/edsr": 20.0, "answers/teachers": 10.0},
        teacher_bytes=5_000_000,
        aggregators_trained=2,
        aggregators_reused=2,
        aggregator_last_start_seconds=12.0,
        saved_at_least_seconds=14.0,
        refused={"heads do not divide width": 3},
    )


def test_the_cost_is_said_in_sentences() -> None:
    first = row(0, seconds=90.0, aggregator="ab", aggregator_trained=True)
    assert sentences(_cost([first, row(1, status="stopped", aggregator="ab")])) == [
        "2 trials (1 done, 1 stopped) in 2 min 00 s, 60.0 an hour; 1 min 30 s of trials' own time",
        "teachers, once for all trials: 30 s, 5.0 MB of images",
        "aggregators: 2 trained in 12 s, taken again by 1 trials, which saved at least 7 s",
        "combinations that cannot work, not tried: 3: heads do not divide width (3x)",
    ]


@given(sweeps())
def test_every_trial_is_in_the_cost_once(rows: list[TrialRow]) -> None:
    assert sum(_cost(rows).trials.values()) == len(rows)


def test_a_resumed_sweep_knows_what_its_teachers_cost(tmp_path: Path) -> None:
    for stage, summary in (("teachers/edsr", {}), ("teachers/rcan", {}), ("answers/teachers", {"bytes": 300})):
        (tmp_path / stage).mkdir(parents=True)
        manifest.write(tmp_path / stage, Manifest(stage, {}, {}, 0, 2.5, summary))
    assert teachers_work(tmp_path) == ({"teachers/edsr": 2.5, "teachers/rcan": 2.5, "answers/teachers": 2.5}, 300)


def test_seconds_of_aggregators_are_read_where_trials_left_them(tmp_path: Path) -> None:
    (tmp_path / "aggregators" / "ab" / "aggregate").mkdir(parents=True)
    (tmp_path / "aggregators" / "half-done").mkdir()
    manifest.write(tmp_path / "aggregators" / "ab" / "aggregate", Manifest("aggregate", {}, {}, 0, 7.5))
    assert aggregators_work(tmp_path) == {"ab": 7.5}


# All together


def test_a_sweep_hands_back_all_its_files(sweep: tuple[SweepConfig, Config]) -> None:
    settings, config = sweep
    settings = dataclasses.replace(settings, objectives=["psnr_y", "params"])
    rows = [row(i, 29.0 + i % 4, params=1000 + i % 3) for i in range(6)]
    back = hand_back(Path(settings.output), rows, settings, lambda _: config, SPACE, _cost(rows), "2026-01-02")
    names = ["trials.csv", "trials.md", "cost.json", "best.yaml", "front.md", "front.png"]
    assert [file.name for file in back.files] == [*names, plots.IMPORTANCE, plots.PARALLEL]
    assert all(file.stat().st_size for file in back.files)
    assert json.loads((Path(settings.output) / "cost.json").read_text())["saved_at_least_seconds"] == 0
    assert back.notes == []
    assert list(Path(settings.output).glob("*.tmp")) == []


def test_a_sweep_without_a_score_hands_back_its_table_and_says_what_is_missing(tmp_path: Path) -> None:
    rows = [row(0, None, "failed", error="ValueError: boom")]
    settings = SweepConfig(objectives=["psnr_y", "params"])
    back = hand_back(tmp_path, rows, settings, lambda _: Config(), SPACE, _cost(rows), "2026-01-02")
    assert [file.name for file in back.files] == ["trials.csv", "trials.md", "cost.json"]
    assert [note.split(" ")[0] for note in back.notes] == ["best.yaml", "The", "importance.png"]


def test_a_picture_that_fails_costs_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> list[Path]:
        raise RuntimeError("no font")

    monkeypatch.setattr(plots, "draw", broken)
    rows = [row(0, 30.0), row(1, 31.0)]
    back = hand_back(tmp_path, rows, SweepConfig(), lambda _: Config(), SPACE, _cost(rows), "2026-01-02")
    assert [file.name for file in back.files] == ["trials.csv", "trials.md", "cost.json", "best.yaml"]
    assert back.notes == ["importance.png and parallel_coordinates.png could not be drawn: RuntimeError: no font"]
