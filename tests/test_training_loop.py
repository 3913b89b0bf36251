from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mtkd_dist.data import ImageStore
from mtkd_dist.methods import Batch
from mtkd_dist.pools.teacher_worker import cut_slot
from mtkd_dist.pools.wire import checks_of
from mtkd_dist.train.checkpoints import to_cpu
from mtkd_dist.train.nonfinite import NonFiniteLoss
from mtkd_dist.train.source import LocalSource, Prefetcher, slots_of_rank
from mtkd_dist.train.state import TrainState, seed_step
from tests.nets import make_job, make_store, share, train_alone

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    return make_store(tmp_path_factory.mktemp("photos"))


def test_the_loss_falls(store: ImageStore) -> None:
    job = make_job(store, steps=60, learning_rate=5e-3)
    records: list[dict[str, Any]] = []
    train_alone(job, TrainState(job.build(), job.training), post=records.extend)
    losses = [record["loss"] for record in records]
    assert len(losses) == 60
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])


def test_every_step_is_posted_once_with_its_loss_and_learning_rate(store: ImageStore) -> None:
    job = make_job(store, steps=13, halve_at=[0.5])
    records: list[dict[str, Any]] = []
    train_alone(job, TrainState(job.build(), job.training), post=records.extend)
    assert [record["step"] for record in records] == list(range(13))
    assert records[0]["learning_rate"] == 2 * records[12]["learning_rate"]
    assert {"images_per_second", "students"} <= records[12].keys()
    waits = [record["wait_seconds"] for record in records]
    assert records[12]["so_far"]["images"] == 13 * job.training.batch_size
    assert sum(waits) == pytest.approx(records[12]["students"].starved * records[12]["so_far"]["seconds"])


def test_a_training_that_goes_on_from_a_checkpoint_ends_bit_equal_to_one_that_was_never_stopped(
    store: ImageStore,
) -> None:
    job = make_job(store, steps=8, checkpoint_every=3)
    whole = TrainState(job.build(), job.training)
    train_alone(job, whole)

    stopped = TrainState(job.build(), job.training)

    kept: list[dict[str, Any]] = []

    def stop_after_three() -> None:
        kept.append(to_cpu(stopped.state_dict()))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_alone(job, stopped, checkpoint=stop_after_three)
    resumed = TrainState(job.build(), job.training)
    resumed.load_state_dict(kept[0])
    assert resumed.step == 3
    train_alone(job, resumed)
    for name, tensor in whole.result().items():
        assert torch.equal(tensor, resumed.result()[name]), name


def test_checkpoints_come_at_their_interval_and_at_the_end(store: ImageStore) -> None:
    job = make_job(store, steps=7, checkpoint_every=3)
    state = TrainState(job.build(), job.training)
    at: list[int] = []
    train_alone(job, state, checkpoint=lambda: at.append(state.step))
    assert at == [3, 6, 7]


def test_a_loss_that_is_not_finite_stops_the_training_and_names_the_step(store: ImageStore) -> None:
    job = make_job(store, learning_rate=1e30)
    with pytest.raises(NonFiniteLoss, match=r"step \d+.*learning rate"):
        train_alone(job, TrainState(job.build(), job.training))


def test_the_result_is_the_moving_average_where_there_is_one(store: ImageStore) -> None:
    job = make_job(store)
    state = TrainState(job.build(), job.training)
    train_alone(job, state)
    last = state.model.state_dict()
    assert any(not torch.equal(tensor, last[name]) for name, tensor in state.result().items())
    assert TrainState(job.build(), make_job(store, ema=0.0).training).ema is None


def test_randomness_of_a_step_depends_on_seed_step_and_rank_alone() -> None:
    def draw(seed: int, step: int, rank: int) -> float:
        seed_step(seed, step, rank)
        return torch.rand(()).item()

    first = draw(0, 7, 1)
    draw(0, 8, 1)
    assert draw(0, 7, 1) == first
    assert len({draw(0, 7, 1), draw(1, 7, 1), draw(0, 8, 1), draw(0, 7, 0)}) == 4


@given(st.integers(1, 40), st.data())
def test_the_slots_of_all_ranks_are_those_of_the_step_in_order_and_as_even_as_they_can_be(
    slots: int, data: st.DataObject
) -> None:
    world_size = data.draw(st.integers(1, slots))
    shares = [slots_of_rank(slots, rank, world_size) for rank in range(world_size)]
    assert [slot for share in shares for slot in share] == list(range(slots))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_more_ranks_than_slots_are_refused() -> None:
    with pytest.raises(ValueError, match="5 student ranks cannot share 4 slots"):
        slots_of_rank(4, 0, 5)


def test_the_mean_gradient_of_ranks_with_uneven_shares_is_that_of_one_rank(store: ImageStore) -> None:
    job = make_job(store, batch_size=8, steps=1)

    def gradients(rank: int, world_size: int) -> list[torch.Tensor]:
        """What DDP would average over ranks."""
        state = TrainState(job.build(), job.training)
        slots = slots_of_rank(job.slots_per_step, rank, world_size)
        train_alone(job, state, slots=slots, world_size=world_size)
        return [parameter.grad for parameter in state.model.parameters() if parameter.grad is not None]

    uneven = [gradients(rank, 3) for rank in range(3)]
    for alone, *parts in zip(gradients(0, 1), *uneven, strict=True):
        torch.testing.assert_close(sum(parts) / 3, alone, rtol=1e-5, atol=1e-8)


def test_what_is_consumed_is_what_the_plan_says(store: ImageStore) -> None:
    job = make_job(store, steps=3)
    seen: list[tuple[int, Sequence[int], Sequence[int]]] = []
    train_alone(job, TrainState(job.build(), job.training), consumed=lambda *line: seen.append(line))
    cut = [cut_slot(store, job.plan.samples(step), job.plan.patch)[0] for step in range(3)]
    assert seen == [(step, checks_of(lr), ()) for step, lr in enumerate(cut)]


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_the_ranks_together_take_the_same_global_batch_whatever_their_number(
    store: ImageStore, world_size: int
) -> None:
    job = make_job(store, batch_size=8)

    def batch(rank: int) -> torch.Tensor:
        slots = slots_of_rank(job.slots_per_step, rank, world_size)
        return LocalSource(share(job, slots), CPU).fetch(2).hr

    together = torch.cat([batch(rank) for rank in range(world_size)])
    alone = LocalSource(share(job, [0, 1, 2, 3]), CPU).fetch(2).hr
    assert torch.equal(together, alone)


class _Failing:
    def fetch(self, step: int) -> Batch:
        raise RuntimeError(f"no batch {step}")


def test_what_goes_wrong_while_prefetching_reaches_the_training_thread() -> None:
    with pytest.raises(RuntimeError, match="no batch 4"):
        list(Prefetcher(_Failing(), 4, 9))
