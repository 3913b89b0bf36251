"""Precision, memory order, compilation, and steps that are not finite."""

from __future__ import annotations

import dataclasses
import math
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mtkd_dist.config.tree import TrainingConfig
from mtkd_dist.data import ImageStore
from mtkd_dist.methods import Batch, Losses, Supervised
from mtkd_dist.models.precision import Autocast, compute_dtype
from mtkd_dist.train.checkpoints import to_cpu
from mtkd_dist.train.job import StudentJob
from mtkd_dist.train.news import Failure
from mtkd_dist.train.nonfinite import LISTED, NonFiniteLoss, explain
from mtkd_dist.train.state import TrainState
from tests.nets import make_job, make_store, nan_for, train_alone

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    return make_store(tmp_path_factory.mktemp("photos"))


def train_here(job: StudentJob, **given: Any) -> tuple[TrainState, list[float]]:
    """The state at the end, and the loss of each step."""
    model = job.build()
    if job.training.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    state, records = TrainState(model, job.training), []  # type: ignore[var-annotated]
    train_alone(job, state, post=records.extend, **given)
    return state, [record["loss"] for record in records]


@pytest.mark.parametrize(
    ("precision", "device", "dtype"),
    [
        ("auto", CPU, torch.float32),
        ("auto", CUDA, torch.bfloat16),
        ("float32", CUDA, torch.float32),
        ("bfloat16", CPU, torch.bfloat16),
    ],
)
def test_a_gpu_computes_in_bfloat16_and_a_cpu_in_float32_unless_told_otherwise(
    precision: Any, device: torch.device, dtype: torch.dtype
) -> None:
    assert compute_dtype(precision, device) == dtype


def test_an_autocast_network_computes_in_bfloat16_and_answers_in_float32() -> None:
    seen: list[torch.dtype] = []
    layer = nn.Conv2d(3, 3, 1)
    layer.register_forward_hook(lambda module, given, output: seen.append(output.dtype))
    answer = Autocast(layer, torch.bfloat16)(torch.rand(1, 3, 4, 4))
    assert (seen, answer.dtype, layer.weight.dtype) == ([torch.bfloat16], torch.float32, torch.float32)


@pytest.mark.parametrize("clip", [0.0, 1e-3])
def test_gradients_are_clipped_to_the_norm_that_is_asked_for(store: ImageStore, clip: float) -> None:
    state, _ = train_here(make_job(store, steps=1, clip_grad=clip))
    norm = nn.utils.get_total_norm([p.grad for p in state.model.parameters() if p.grad is not None]).item()
    assert norm == pytest.approx(clip, rel=1e-3) if clip else norm > 1e-3


def test_bfloat16_trains_float32_weights_to_nearly_the_same_losses(store: ImageStore) -> None:
    _, exact = train_here(make_job(store, precision="float32"))
    state, rounded = train_here(make_job(store, precision="bfloat16"))
    assert rounded != exact
    assert rounded == pytest.approx(exact, rel=0.02)
    assert state.ema is not None
    moments = [m for moments in state.optimizer.state.values() for m in moments.values()]
    tensors = [*state.model.state_dict().values(), *state.ema.state_dict().values(), *moments]
    assert {tensor.dtype for tensor in tensors} == {torch.float32}


@dataclasses.dataclass(frozen=True)
class _Sees(Supervised):
    """Notes whether images arrive in channels_last order."""

    seen: list[bool] = dataclasses.field(default_factory=list)

    def loss(self, student: nn.Module, batch: Batch) -> Losses:
        self.seen.extend(t.is_contiguous(memory_format=torch.channels_last) for t in (batch.lr, batch.hr))
        return super().loss(student, batch)


def test_channels_last_reaches_the_network_and_changes_rounding_only(store: ImageStore) -> None:
    _, losses = train_here(make_job(store))
    method = _Sees()
    _, reordered = train_here(make_job(store, method=method, channels_last=True))
    assert method.seen == [True] * 16
    assert reordered == pytest.approx(losses, rel=1e-4)


@pytest.mark.parametrize("begins_reordered", [False, True])
def test_a_checkpoint_goes_on_in_the_other_memory_order(store: ImageStore, begins_reordered: bool) -> None:
    whole, _ = train_here(make_job(store, steps=8, halve_at=[]))
    first, _ = train_here(make_job(store, steps=4, halve_at=[], channels_last=begins_reordered))
    saved = to_cpu(first.state_dict())
    job = make_job(store, steps=8, halve_at=[], channels_last=not begins_reordered)
    model = job.build()
    if job.training.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    state = TrainState(model, job.training)
    state.load_state_dict(saved)
    train_alone(job, state)
    for name, tensor in whole.result().items():
        torch.testing.assert_close(state.result()[name], tensor, atol=1e-5, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler")
def test_a_compiled_network_in_ddp_trains_the_same_weights_under_the_same_names(
    store: ImageStore, tmp_path: Path
) -> None:
    job = make_job(store, steps=3)
    plain, losses = train_here(job)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/ranks", rank=0, world_size=1)
    try:
        state, records = TrainState(job.build(), job.training), []  # type: ignore[var-annotated]
        state.model.compile()
        train_alone(job, state, post=records.extend, network=DistributedDataParallel(state.model))
    finally:
        torch.distributed.destroy_process_group()
    assert [record["loss"] for record in records] == pytest.approx(losses, rel=1e-4)
    assert state.result().keys() == plain.result().keys()
    for name, tensor in plain.result().items():
        torch.testing.assert_close(state.result()[name], tensor, atol=1e-5, rtol=1e-3)


def test_a_sample_without_a_finite_loss_is_named_and_no_weight_ever_takes_its_step(store: ImageStore) -> None:
    job = make_job(store, halve_at=[])
    before, _ = train_here(dataclasses.replace(job, training=dataclasses.replace(job.training, steps=5)))
    sample = job.plan.samples(5)[2]
    bad = dataclasses.replace(job, method=nan_for(store, job.plan, 5, 2))
    state, records = TrainState(bad.build(), bad.training), []  # type: ignore[var-annotated]
    with pytest.raises(NonFiniteLoss) as error:
        train_alone(bad, state, post=records.extend)
    for part in (
        "the loss is not finite at step 5",
        "1 of this rank's 4 samples",
        f"{store.names[sample.image]} at y={sample.y} x={sample.x}",
    ):
        assert part in str(error.value)
    assert str(error.value).count(" at y=") == 1
    assert error.value.names_samples
    assert [record["step"] for record in records] == [0, 1, 2, 3, 4]
    assert before.ema is not None
    assert state.ema is not None
    for then, now in ((before.model, state.model), (before.ema, state.ema)):
        for name, tensor in then.state_dict().items():
            assert torch.equal(tensor, now.state_dict()[name]), name


@dataclasses.dataclass(frozen=True)
class _InfiniteGradient(Supervised):
    """The loss is finite, its gradient is not: d sqrt(x)/dx at 0."""

    def loss(self, student: nn.Module, batch: Batch) -> Losses:
        loss = super().loss(student, batch).total
        return Losses((loss * 0).sqrt(), {})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_trains_in_bfloat16_to_nearly_the_losses_of_a_cpu_and_stops_at_the_same_sample(store: ImageStore) -> None:
    _, losses = train_here(make_job(store))
    job = make_job(store, channels_last=True)
    model = job.build().cuda().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    state, records = TrainState(model, job.training), []  # type: ignore[var-annotated]
    train_alone(job, state, post=records.extend)
    assert [record["loss"] for record in records] == pytest.approx(losses, rel=0.02)
    bad = dataclasses.replace(job, method=nan_for(store, job.plan, 5, 2))
    state = TrainState(bad.build().cuda(), bad.training)
    with pytest.raises(NonFiniteLoss, match="1 of this rank's 4 samples"):
        train_alone(bad, state)
    assert all(tensor.isfinite().all() for tensor in state.result().values())


def test_an_error_that_names_samples_survives_the_way_to_the_driver() -> None:
    error = pickle.loads(pickle.dumps(NonFiniteLoss("the loss is not finite", names_samples=True)))
    assert (str(error), error.names_samples) == ("the loss is not finite", True)


def test_a_gradient_that_is_not_finite_stops_the_training_as_well(store: ImageStore) -> None:
    job = make_job(store, method=_InfiniteGradient())
    state = TrainState(job.build(), job.training)
    with pytest.raises(NonFiniteLoss, match=r"the gradient is not finite at step 0 .*samples alone has a finite loss"):
        train_alone(job, state)
    for name, tensor in job.build().state_dict().items():
        assert torch.equal(tensor, state.model.state_dict()[name]), name


def test_samples_that_are_all_bad_mean_divergence_and_only_the_first_are_listed() -> None:
    names = [f"{i}.png" for i in range(LISTED + 3)]
    error = explain(7, {"loss": math.inf, "gradient_norm": math.nan}, 0.1, names, [math.inf] * len(names))
    assert "has diverged" in str(error)
    assert f"{LISTED - 1}.png: inf; and 3 more" in str(error)
    assert "learning rate (0.1)" in str(error)


def test_a_rank_whose_samples_are_fine_does_not_claim_to_know_why() -> None:
    error = explain(7, {"loss": 0.2, "gradient_norm": math.nan}, 0.1, ["a.png", "b.png"], [0.1, 0.3])
    assert not error.names_samples
    assert "at most 0.3 (b.png)" in str(error)


def test_the_words_of_the_rank_that_knows_why_are_told_whoever_speaks_first() -> None:
    failure = Failure(ranks=3)
    assert failure.decide([], now=0) is None
    assert failure.decide([{"fatal": "fine here", "knows_why": False}], now=1) is None
    assert failure.decide([{"fatal": "it is a.png", "knows_why": True}], now=2) == "it is a.png"


def test_without_a_rank_that_knows_why_the_first_words_are_told_in_the_end() -> None:
    unknown = [{"fatal": f"rank {rank}", "knows_why": False} for rank in range(2)]
    assert Failure(ranks=2).decide(unknown, now=0) == "rank 0"
    silent = Failure(ranks=3)
    assert silent.decide(unknown, now=100) is None
    assert silent.decide([], now=200) == "rank 0"


def test_the_average_begins_with_the_first_step_and_weighs_later_ones_in() -> None:
    network = nn.Conv2d(1, 1, 1, bias=False)
    state = TrainState(network, TrainingConfig(steps=10, ema=0.75))
    for value in (1.0, 2.0, 3.0):
        network.weight.data.fill_(value)
        state.update(torch.tensor(1.0))  # without a gradient Adam leaves the weight alone
    assert state.result()["weight"].item() == 0.75 * (0.75 * 1 + 0.25 * 2) + 0.25 * 3


def test_indices_in_a_network_stay_and_are_not_averaged() -> None:
    network = nn.Conv2d(1, 1, 1)
    network.register_buffer("index", torch.arange(4096))
    state = TrainState(network, TrainingConfig(steps=10, ema=0.9))
    for _ in range(3):
        state.update(torch.tensor(1.0))
    # An average that is rounded down would not: in float32, 0.9 x + 0.1 x is less than x for many whole numbers.
    assert torch.equal(state.result()["index"], torch.arange(4096))
