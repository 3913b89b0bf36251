from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from mtkd_dist.config.load import ConfigError
from mtkd_dist.config.presets import PRESETS
from mtkd_dist.stages.check import check
from mtkd_tune.check import check_sweep
from mtkd_tune.load import base_config, load_sweep
from mtkd_tune.space import Space
from mtkd_tune.tree import SweepConfig

SWEEP = """
launch:
  preset: demo
  data: [photos]
  distil: {steps: 120, learning_rate: 1e-3}
  aggregate.steps: 60
search:
  distil.learning_rate: {loguniform: [5e-4, 5e-3]}
  loss.band_weights: {choice: [[], [1, 1, 1, 2]]}
objectives: [psnr_y, params]
asha: {grace_steps: 20}
"""


def test_no_arguments_give_the_default_sweep_and_its_launch_passes() -> None:
    sweep = load_sweep([])
    assert sweep == SweepConfig()
    base = base_config(sweep)
    assert base == dataclasses.replace(PRESETS["demo-sweep"](), output=sweep.output)
    check(base)


@pytest.mark.parametrize("page", ["README.md", "docs/sweeps.md"])
def test_the_sweeps_of_the_documentation_are_accepted(page: str, tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / page).read_text()
    examples = re.findall(r"^```yaml\n(# sweep.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert examples
    for example in examples:
        (tmp_path / "sweep.yaml").write_text(example)
        sweep = load_sweep(["--config", str(tmp_path / "sweep.yaml")])
        base = base_config(sweep)
        check_sweep(sweep, base, Space.parse(sweep.search, base))


@pytest.mark.parametrize(("asked", "taken"), [("live", "live"), ("auto", "cached"), ("cached", "cached")])
def test_answers_are_rendered_unless_they_are_asked_for_live(asked: str, taken: str) -> None:
    assert base_config(SweepConfig(launch={"preset": "demo", "teacher_outputs": asked})).teacher_outputs == taken


def test_a_file_and_flags_with_dashes_make_a_sweep_and_flags_win(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(SWEEP)
    flags = ["--num-samples", "20", "--num-gpus=8", "--resume", "--address", "head:6379", "--pbt.factors", "0.5", "2"]
    sweep = load_sweep(["--config", str(file), *flags, "--asha.grace-steps", "30"])
    assert (sweep.num_samples, sweep.num_gpus, sweep.resume, sweep.cluster.address) == (20, 8, True, "head:6379")
    assert (sweep.pbt.factors, sweep.asha.grace_steps, sweep.objectives) == ([0.5, 2.0], 30, ["psnr_y", "params"])
    assert sweep.search == {
        "distil.learning_rate": {"loguniform": [5e-4, 5e-3]},
        "loss.band_weights": {"choice": [[], [1, 1, 1, 2]]},
    }


def test_lists_of_choices_are_typed_without_brackets() -> None:
    assert load_sweep(["--objectives", "psnr_y", "latency_ms"]).objectives == ["psnr_y", "latency_ms"]


def test_the_launch_is_its_presets_defaults_changed_by_nested_and_by_dotted_keys(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(SWEEP)
    base, demo = base_config(load_sweep(["--config", str(file)])), PRESETS["demo"]()
    assert base == dataclasses.replace(
        demo,
        output="runs/sweep",
        teacher_outputs="cached",
        data=["photos"],
        distil=dataclasses.replace(demo.distil, steps=120, learning_rate=1e-3),
        aggregate=dataclasses.replace(demo.aggregate, steps=60),
    )


def test_flags_reach_into_the_launch_and_leave_the_rest_of_it(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(SWEEP)
    flags = ["--launch.distil.steps", "90", "--launch.data", "a", "b", "--launch.distil.compile", "--launch.seed=3"]
    base = base_config(load_sweep(["--config", str(file), *flags]))
    assert (base.distil.steps, base.distil.learning_rate, base.distil.compile) == (90, 1e-3, True)
    assert (base.data, base.seed, base.preset) == (["a", "b"], 3, "demo")


def test_output_cluster_and_gpus_of_the_launch_are_the_sweeps() -> None:
    base = base_config(load_sweep(["--output", "runs/x", "--address", "head:6379", "--num-gpus", "2"]))
    assert (base.output, base.cluster.address, base.num_gpus) == ("runs/x", "head:6379", 2)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--num-smaples", "4"], ["--num_smaples", "--num_samples"]),
        (["--sampler", "tpa"], ["sampler", "tpa", "tpe, random", "Did you mean 'tpe'"]),
        (["--objectives", "psnr"], ["objectives", "psnr", "psnr_y, params, latency_ms"]),
        (["--pbt.factors", "big"], ["pbt.factors", "big", "number"]),
        (["--trial.cpus", "many"], ["trial.cpus", "many", "float"]),
        (["--launch.stesp", "3"], ["--launch.stesp", "Did you mean"]),
        (["--search", "3"], ["search", "3", "mapping"]),
    ],
)
def test_a_mistake_among_the_flags_names_the_key_the_value_and_what_is_allowed(
    argv: list[str], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as error:
        load_sweep(argv)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lauch: {seed: 1}", ["sweep.yaml", "lauch", "Did you mean 'launch'"]),
        ("launch: {distil: {stesp: 1}}", ["sweep.yaml", "launch.distil.stesp", "Did you mean 'launch.distil.steps'"]),
        ("launch: {distil: 5}", ["sweep.yaml", "launch.distil", "5", "group of keys"]),
        ("launch:", ["sweep.yaml", "launch", "None", "group of keys"]),
        ("search: {seed: {choice: [1]}, seed: {choice: [2]}}", ["sweep.yaml", "seed is there twice", "line 1"]),
        ("asha: {grace_steps: null}", ["sweep.yaml", "asha.grace_steps", "int"]),
        ("search:", ["sweep.yaml", "search", "no value", "mapping"]),
        ("trial: {gpus: much}", ["trial.gpus", "much", "float"]),
    ],
)
def test_a_mistake_in_the_file_names_file_key_and_what_is_allowed(text: str, words: list[str], tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_sweep(["--config", str(file)])
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("launch", "words"),
    [
        ({"distil": {"steps": "many"}}, ["launch", "distil.steps", "many", "int"]),
        ({"distil.steps": 1.5}, ["launch", "distil.steps", "1.5", "int"]),
        ({"scale": 5}, ["launch", "scale", "5", "2, 3, 4"]),
        ({"distl": {}}, ["launch", "distl", "Did you mean 'distil'"]),
        ({"preset": "demo-sweap"}, ["preset", "demo-sweap", "Did you mean 'demo-sweep'"]),
        ({"output": "runs/x"}, ["launch.output", "the sweep", "`output`", "leave it out"]),
        ({"cluster": {"address": "auto"}}, ["launch.cluster.address", "`cluster`", "leave it out"]),
        ({"num_gpus": 2}, ["launch.num_gpus", "`num_gpus`", "leave it out"]),
    ],
)
def test_a_launch_that_cannot_be_is_refused_naming_the_key(launch: dict[str, object], words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        base_config(SweepConfig(launch=launch))
    for word in words:
        assert word in str(error.value)


def test_help_and_print_config_say_what_a_sweep_takes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load_sweep(["--help"])
    help_text = " ".join(capsys.readouterr().out.split())
    for words in ("usage: mtkd_tune", "--num_samples", "Early stopping (asha)", "uniform: [low, high]", "--resume"):
        assert words in help_text
    with pytest.raises(SystemExit):
        load_sweep(["--seed", "3", "--print-config"])
    assert yaml.safe_load(capsys.readouterr().out)["seed"] == 3
