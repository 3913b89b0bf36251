from __future__ import annotations

import dataclasses
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtkd_dist.config.load import ConfigError, flatten, keys_of
from mtkd_dist.config.presets import PRESETS
from mtkd_dist.config.tree import ATConfig, Config, MethodName, TrainingConfig
from mtkd_dist.models import parse_aggregator, parse_network
from mtkd_dist.stages.training import WEIGHTLESS
from mtkd_tune.space import Space, why_not
from mtkd_tune.tree import SweepConfig

BASE = PRESETS["demo-sweep"]()

SEARCHES: list[tuple[str, dict[str, list[Any]]]] = [
    ("loss.levels", {"int": [1, 3]}),
    ("loss.l1_weight", {"uniform": [0, 1]}),
    ("loss.wavelet", {"choice": ["haar", "db2", "sym4"]}),
    ("loss.band_weights", {"choice": [[], [1, 1, 1, 1], [0.5, 1, 1, 2]]}),
    ("aggregate.learning_rate", {"loguniform": [1e-5, 1e-2]}),
    ("aggregate.steps", {"choice": [100, 200]}),
    ("distil.batch_size", {"int": [8, 16, 4]}),
    ("distil.halve_at", {"choice": [[], [0.5], [0.5, 0.8]]}),
    ("distil.clip_grad", {"choice": [0, 1]}),
    ("aggregator.width", {"int": [12, 36, 12]}),
    ("aggregator.heads", {"choice": [2, 3]}),
    ("aggregator.dct_norm", {"choice": ["none", "ortho"]}),
    ("aggregator.mean_skip", {"choice": [True, False]}),
    ("student", {"choice": ["edsr-baseline:width=16", "rlfn:width=16"]}),
    ("student.blocks", {"int": [1, 4]}),
]


def draw(space: Space, seed: int) -> dict[str, Any]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return space.values(study.ask(space.distributions()).params)


def leaves(config: Config) -> dict[str, Any]:
    return flatten(dataclasses.asdict(config))


@settings(max_examples=40)
@given(st.lists(st.sampled_from(SEARCHES), min_size=1, unique_by=lambda entry: entry[0]), st.integers(0, 2**32 - 1))
def test_a_drawn_configuration_holds_the_drawn_values_and_is_the_shared_one_in_all_else(
    chosen: list[tuple[str, dict[str, list[Any]]]], seed: int
) -> None:
    space = Space.parse(dict(chosen), BASE)
    values = draw(space, seed)
    assert list(values) == [name for name, _ in chosen]
    config = space.config(BASE, values)
    kinds, before, after = keys_of(Config), leaves(BASE), leaves(config)
    changed = set()
    for name, value in values.items():
        role, _, option = name.partition(".")
        if name in kinds:
            changed.add(name)
            if name != "student":  # its options are in its text too
                assert after[name] == value
                assert type(after[name]) is type(before[name])
        else:
            changed.add(role)
            parse = {"aggregator": parse_aggregator, "student": parse_network}[role]
            was, now = parse(values.get(role, before[role])), parse(after[role])
            assert now.architecture == was.architecture
            assert now.sizes[option] == value
            others = {key for key in now.sizes if f"{role}.{key}" not in values}
            assert {key: now.sizes[key] for key in others} == {key: was.sizes[key] for key in others}
    assert {key for key in after if after[key] != before[key]} <= changed


def test_the_default_sweep_is_a_space_of_its_five_names() -> None:
    space = Space.parse(SweepConfig().search, BASE)
    assert list(space.distributions()) == list(SweepConfig().search)
    assert why_not(space.config(BASE, draw(space, 0))) is None


def test_lists_are_drawn_as_they_are_written_although_optuna_chooses_among_scalars() -> None:
    written = [[], [1, 1, 1, 1], [0.5, 1, 1, 2]]
    space = Space.parse({"loss.band_weights": {"choice": written}}, BASE)
    drawn = [draw(space, seed)["loss.band_weights"] for seed in range(30)]
    assert all(weights in written for weights in drawn)
    assert len({str(weights) for weights in drawn}) == 3


def test_whole_numbers_pass_for_numbers_and_become_them() -> None:
    space = Space.parse({"loss.l1_weight": {"choice": [0, 1]}}, BASE)
    assert type(draw(space, 0)["loss.l1_weight"]) is float


def test_both_ends_of_a_range_are_drawn_and_nothing_beyond_them() -> None:
    space = Space.parse({"distil.batch_size": {"int": [8, 16, 4]}}, BASE)
    assert {draw(space, seed)["distil.batch_size"] for seed in range(40)} == {8, 12, 16}


@pytest.mark.parametrize(
    ("search", "words"),
    [
        ({}, ["nothing to search", "loss.levels"]),
        ({"loss.levles": {"choice": [1]}}, ["loss.levles", "Did you mean 'loss.levels'"]),
        ({"aggregator.widht": {"choice": [24]}}, ["aggregator.widht", "Did you mean 'aggregator.width'"]),
        ({1: {"choice": [1]}}, ["unknown name '1'", "loss.levels"]),
        ({"student.heads": {"choice": [1]}}, ["student.heads", "student.blocks"]),
        ({"loss": {"levels": {"choice": [1]}}}, ["loss is a group", "loss.levels", "loss.wavelet"]),
        ({"loss.levels": [1, 2]}, ["loss.levels", "[1, 2]", "choice: [...]"]),
        ({"loss.levels": {"choise": [1, 2]}}, ["loss.levels", "Did you mean 'choice'"]),
        ({"loss.levels": {"choice": [1], "int": [1, 2]}}, ["loss.levels", "expected one of"]),
        ({"loss.levels": {"choice": []}}, ["loss.levels", "[]", "choice: [...]"]),
        ({"loss.levels": {"choice": [1, 1]}}, ["loss.levels", "twice"]),
        ({"loss.levels": {"choice": [1, 1.5]}}, ["loss.levels", "1.5", "a whole number"]),
        ({"loss.levels": {"choice": [True]}}, ["loss.levels", "True", "a whole number"]),
        ({"loss.levels": {"uniform": [1, 3]}}, ["loss.levels", "fractions", "use int or choice"]),
        ({"loss.l1_weight": {"int": [1, 3]}}, ["loss.l1_weight", "whole numbers", "a number"]),
        ({"loss.l1_weight": {"uniform": [1, 0]}}, ["loss.l1_weight", "low below high"]),
        ({"loss.l1_weight": {"uniform": [0, 1, 2]}}, ["loss.l1_weight", "uniform: [low, high]"]),
        ({"loss.l1_weight": {"loguniform": [0, 1]}}, ["loss.l1_weight", "low above 0"]),
        ({"loss.l1_weight": {"choice": ["big"]}}, ["loss.l1_weight", "'big'", "a number"]),
        ({"loss.l1_weight": {"choice": [float("nan")]}}, ["loss.l1_weight", "nan", "a number"]),
        ({"loss.band_weights": {"choice": [1]}}, ["loss.band_weights", "1", "a list of numbers"]),
        ({"distil.batch_size": {"int": [8, 15, 4]}}, ["distil.batch_size", "[8, 12, 4]"]),
        ({"distil.precision": {"choice": ["float23"]}}, ["distil.precision", "float23", "Did you mean 'float32'"]),
        ({"aggregator.mean_skip": {"choice": ["yes"]}}, ["aggregator.mean_skip", "yes", "true or false"]),
        ({"aggregator.mask": {"choice": ["sepparate"]}}, ["aggregator.mask", "Did you mean 'separate'"]),
        ({"student": {"choice": ["edrs"]}}, ["student", "edrs", "Did you mean"]),
        ({"aggregator": {"choice": ["a.safetensors"]}}, ["aggregator", "a.safetensors", "networks to train"]),
    ],
)
def test_a_mistake_names_the_name_the_value_and_what_is_expected(search: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        Space.parse(search, BASE)
    for word in ["search", *words]:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("search", "words"),
    [
        ({"loss.levels": {"choice": [1, 9]}}, ["loss.levels: 9 cannot work", "divisible by 2^levels"]),
        ({"loss.wavelet": {"choice": ["haar", "harr"]}}, ["loss.wavelet: 'harr' cannot work", "such as 'db2'"]),
        ({"loss.band_weights": {"choice": [[1, 2]]}}, ["[1.0, 2.0] cannot work", "LL, LH, HL, HH"]),
        ({"distil.learning_rate": {"uniform": [-1, 1]}}, ["distil.learning_rate: -1.0 cannot work", "above 0"]),
        ({"aggregator.width": {"int": [16, 64]}}, ["aggregator.width: 16 cannot work", "multiple of heads=3"]),
        ({"distil.batch_size": {"int": [6, 8]}}, ["distil.batch_size: 6 cannot work", "link.slot_size"]),
        ({"student.blocks": {"int": [0, 2]}}, ["student.blocks: 0 cannot work", "above 0"]),
    ],
)
def test_a_value_that_cannot_work_is_refused_with_the_reason(search: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        Space.parse(search, BASE)
    for word in words:
        assert word in str(error.value)


def test_a_value_that_works_only_with_another_searched_one_is_accepted() -> None:
    with pytest.raises(ConfigError, match="multiple of heads=3"):
        Space.parse({"aggregator.width": {"choice": [24, 32]}}, BASE)
    Space.parse({"aggregator.width": {"choice": [24, 32]}, "aggregator.heads": {"choice": [3, 4]}}, BASE)


def test_photographs_must_be_large_enough_for_the_largest_patch_of_any_trial() -> None:
    largest = Space.parse({"distil.patch": {"int": [16, 32, 8]}, "aggregate.patch": {"choice": [40, 24]}}, BASE)
    asked = largest.with_largest_patches(BASE)
    assert (asked.distil.patch, asked.aggregate.patch) == (32, 40)
    assert Space.parse({"loss.levels": {"choice": [1]}}, BASE).with_largest_patches(BASE) == BASE


def test_every_key_of_the_configuration_may_be_searched_or_is_refused_with_a_reason() -> None:
    searched, refused = set(), set()
    for key, kind in keys_of(Config).items():
        if dataclasses.is_dataclass(kind):
            continue
        with pytest.raises(ConfigError) as error:
            Space.parse({key: {"choice": [object()]}}, BASE)
        (refused if "is not to be searched: " in str(error.value) else searched).add(key)
    assert searched == {
        *("aggregator", "student", "loss.levels", "loss.l1_weight", "loss.wavelet", "loss.band_weights"),
        "loss.each_teacher",
        *(
            f"{training}.{field.name}"
            for training in ("aggregate", "distil")
            for field in dataclasses.fields(TrainingConfig)
            if field.name not in WEIGHTLESS
        ),
    }
    assert {"output", "data", "teachers", "scale", "seed", "distil.validate_every", "link.wire"} <= refused


def test_an_aggregator_that_is_given_as_a_file_has_nothing_to_search() -> None:
    base = dataclasses.replace(BASE, aggregator="runs/a/aggregator.safetensors")
    for name in ("aggregator.width", "aggregate.steps", "aggregator"):
        with pytest.raises(ConfigError, match=rf"{name} is not to be searched: .*runs/a/aggregator\.safetensors"):
            Space.parse({name: {"choice": [1]}}, base)


def test_a_student_that_starts_from_given_weights_has_the_sizes_of_these() -> None:
    base = dataclasses.replace(BASE, student_weights="start.pth")
    for name in ("student", "student.width"):
        with pytest.raises(ConfigError, match=rf"{name} is not to be searched: .*start\.pth\) fit edsr-baseline"):
            Space.parse({name: {"choice": [8, 16]}}, base)
    Space.parse({"distil.learning_rate": {"choice": [1e-3]}}, base)


@pytest.mark.parametrize(
    ("method", "searched", "refused"),
    [
        ("mean", ["loss.levels", "loss.teacher_weights"], ["aggregator.width", "aggregate.steps", "kd.hr_weight"]),
        ("kd", ["kd.hr_weight", "kd.teacher_weight", "loss.teacher_weights"], ["loss.levels", "loss.l1_weight"]),
        ("at", ["at.attention_weight", "at.hr_weight"], ["loss.l1_weight", "aggregator", "fakd.affinity_weight"]),
        ("fakd", ["fakd.affinity_weight", "student.width"], ["loss.teacher_weights", "at.attention_weight"]),
        ("dukd", ["dukd.alter", "dukd.hr_weight", "student"], ["aggregate.steps", "kd.hr_weight"]),
        ("crosskd", ["crosskd.cross_weight", "student"], ["loss.levels", "dukd.alter"]),
        ("scratch", ["distil.learning_rate"], ["loss.l1_weight", "aggregator", "kd.teacher_weight"]),
    ],
)
def test_a_sweep_of_a_method_searches_the_settings_that_it_has(
    method: MethodName, searched: list[str], refused: list[str]
) -> None:
    base = dataclasses.replace(BASE, method=method)
    for name in [*searched, *refused]:
        said = "is not to be searched: the method" if name in refused else "not of|not a|expected"
        with pytest.raises(ConfigError, match=said) as error:
            Space.parse({name: {"choice": [object()]}}, base)
        assert ("is not to be searched" in str(error.value)) == (name in refused)


@pytest.mark.parametrize(
    ("method", "names"),
    [("at", ("taps", "teacher_taps")), ("fakd", ("taps", "teacher_taps")), ("crosskd", ("tap", "teacher_tap"))],
)
def test_taps_are_the_same_for_all_trials_because_only_networks_can_tell_which_there_are(
    method: MethodName, names: tuple[str, str]
) -> None:
    base = dataclasses.replace(BASE, method=method)
    for name in names:
        with pytest.raises(ConfigError, match=rf"{method}\.{name} is not to be searched: .*asked of the networks"):
            Space.parse({f"{method}.{name}": {"choice": ["body.0"]}}, base)


def test_students_are_searched_with_taps_that_every_student_has() -> None:
    search = {"student": {"choice": [BASE.student, "rlfn:width=16"]}}
    for config in (ATConfig(), ATConfig(taps=["late"], teacher_taps=["body.0"])):
        Space.parse(search, dataclasses.replace(BASE, method="at", at=config, teacher_outputs="live"))
    base = dataclasses.replace(BASE, method="at", at=ATConfig(taps=["body.2"]), teacher_outputs="live")
    for name in ("student", "student.blocks"):
        with pytest.raises(ConfigError, match=rf"{name} is not to be searched: body.2 are modules of edsr-base.*early"):
            Space.parse({name: search["student"]}, base)


def test_methods_and_distances_are_compared_by_sweeps_of_their_own() -> None:
    for name in ("method", "loss.distance"):
        with pytest.raises(ConfigError, match=f"{name} is not to be searched: "):
            Space.parse({name: {"choice": ["kd", "l1"]}}, BASE)


def test_why_not_is_none_or_a_sentence_and_reads_no_weights() -> None:
    base = dataclasses.replace(BASE, teachers=["absent.pth"], data=["absent"])
    assert why_not(base) is None
    wrong = dataclasses.replace(base, aggregator="dctswin:width=25,heads=3")
    assert "width=25 must be a multiple of heads=3" in (why_not(wrong) or "")
