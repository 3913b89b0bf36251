from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtkd_dist.data import Plan, Sample

SETTINGS = settings(max_examples=40, deadline=None)
STEPS = st.integers(0, 10**9)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    patch = draw(st.integers(1, 8))
    sizes = draw(st.lists(st.tuples(st.integers(patch, 20), st.integers(patch, 20)), min_size=1, max_size=12))
    return Plan(
        seed=draw(st.integers(-(2**40), 2**80)),
        dataset_digest=draw(st.text(max_size=8)),
        lr_sizes=tuple(sizes),
        batch_size=draw(st.integers(1, 17)),
        patch=patch,
        augment=draw(st.booleans()),
    )


def large_plan(**fields: Any) -> Plan:
    return replace(Plan(0, "photos", ((40, 50),) * 20, batch_size=8, patch=4), **fields)


def stream(plan: Plan, steps: range) -> list[Sample]:
    return [sample for step in steps for sample in plan.samples(step)]


@SETTINGS
@given(plans(), STEPS)
def test_an_equal_plan_gives_the_same_samples(plan: Plan, step: int) -> None:
    assert replace(plan).samples(step) == plan.samples(step)


@SETTINGS
@given(plans(), st.integers(0, 6))
def test_every_epoch_draws_every_image_once(plan: Plan, epoch: int) -> None:
    images = len(plan.lr_sizes)
    first, last = epoch * images, (epoch + 1) * images
    steps = range(first // plan.batch_size, -(-last // plan.batch_size))
    start = first - steps.start * plan.batch_size
    drawn = [sample.image for sample in stream(plan, steps)][start : start + images]
    assert sorted(drawn) == list(range(images))


@SETTINGS
@given(plans(), STEPS)
def test_crops_lie_inside_their_images(plan: Plan, step: int) -> None:
    samples = plan.samples(step)
    assert len(samples) == plan.batch_size
    for sample in samples:
        height, width = plan.lr_sizes[sample.image]
        assert 0 <= sample.y <= height - plan.patch
        assert 0 <= sample.x <= width - plan.patch


@SETTINGS
@given(plans(), st.integers(0, 20), st.integers(1, 5))
def test_a_run_that_starts_later_sees_the_rest_of_the_same_samples(plan: Plan, step: int, parts: int) -> None:
    assert stream(plan, range(step, step + parts)) == stream(plan, range(step + parts))[step * plan.batch_size :]


@SETTINGS
@given(plans(), STEPS, st.integers(1, 20))
def test_slots_are_the_step_in_pieces(plan: Plan, step: int, slot_size: int) -> None:
    slots = plan.slots(step, slot_size)
    assert [sample for slot in slots for sample in slot] == plan.samples(step)
    assert all(len(slot) == slot_size for slot in slots[:-1])
    assert all(slot == plan.samples(step)[i * slot_size : (i + 1) * slot_size] for i, slot in enumerate(slots))


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": 1},
        {"dataset_digest": "other photos"},
        {"lr_sizes": ((40, 51),) * 20},
        {"batch_size": 9},
        {"patch": 5},
        {"augment": False},
    ],
)
def test_every_field_changes_the_digest_and_the_samples(fields: dict[str, Any]) -> None:
    plan, other = large_plan(), large_plan(**fields)
    assert other.digest != plan.digest
    assert stream(other, range(3)) != stream(plan, range(3))


def test_epochs_differ_in_order() -> None:
    plan = large_plan(batch_size=20)
    assert [sample.image for sample in plan.samples(0)] != [sample.image for sample in plan.samples(1)]


def test_positions_and_symmetries_are_drawn_equally_often() -> None:
    samples = stream(large_plan(lr_sizes=((7, 9),) * 20), range(3000))
    for values, kinds in (
        ([sample.y for sample in samples], 4),
        ([sample.x for sample in samples], 6),
        ([4 * sample.flip + sample.rotate for sample in samples], 8),
    ):
        expected = len(samples) / kinds
        # Five standard deviations of a binomial count; the draws are fixed by the seed, so this never flickers.
        tolerance = 5 * (expected * (1 - 1 / kinds)) ** 0.5
        assert sorted(set(values)) == list(range(kinds))
        assert all(abs(values.count(kind) - expected) < tolerance for kind in range(kinds))


def test_without_augmentation_nothing_is_mirrored_or_rotated() -> None:
    samples = stream(large_plan(augment=False), range(20))
    assert {(sample.flip, sample.rotate) for sample in samples} == {(False, 0)}


def test_the_samples_of_a_known_plan_never_change() -> None:
    # A run that is resumed after an update must go on with the samples that it would have had.
    plan = Plan(seed=7, dataset_digest="abc", lr_sizes=((10, 20), (30, 40), (50, 60)), batch_size=4, patch=8)
    assert plan.digest == "882b18686a60bdb777ef0be58c719aa2cf8a58353d8bc6a88c6a884a540c6356"
    assert plan.samples(1_000_000) == [
        Sample(image=0, y=1, x=11, flip=True, rotate=1),
        Sample(image=2, y=16, x=38, flip=True, rotate=1),
        Sample(image=0, y=1, x=12, flip=True, rotate=1),
        Sample(image=1, y=1, x=19, flip=False, rotate=1),
    ]


def test_steps_per_epoch_counts_parts_of_steps() -> None:
    assert large_plan(batch_size=8).steps_per_epoch == 2.5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"patch": 0}, "patch must be at least 1 LR pixel, got 0"),
        ({"lr_sizes": ()}, "lr_sizes is empty"),
        (
            {"lr_sizes": ((9, 9), (9, 3))},
            "image 1 has 9x3 LR pixels, too few for crops of 4x4: take a patch of at most 3",
        ),
    ],
)
def test_impossible_plans_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        large_plan(**fields)


def test_a_negative_step_is_refused() -> None:
    with pytest.raises(ValueError, match="counted from 0, got -1"):
        large_plan().samples(-1)


def test_an_empty_slot_is_refused() -> None:
    with pytest.raises(ValueError, match="slot_size must be at least 1, got 0"):
        large_plan().slots(0, 0)
