"""Batches from rendered images: the crop of the image, turned like the crops of LR and HR."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mtkd_dist.config.tree import TeacherPrecision
from mtkd_dist.data import Plan, Sample
from mtkd_dist.data.store import crop
from mtkd_dist.methods import MTKD, Aggregation, Batch, Crops, FrozenNetworks, NeedsNetworks, Supervised, images_asked
from mtkd_dist.models import digest_file, load_network, save_network
from mtkd_dist.models.tiling import enlarge
from mtkd_dist.pools.evaluate import Merged
from mtkd_dist.pools.render import RenderedTeachers, Renderer, aggregate_rendering, teacher_rendering
from mtkd_dist.pools.teacher_worker import load_networks
from mtkd_dist.train.cached_source import CachedSource
from mtkd_dist.train.source import LocalSource, Share
from tests.nets import TINY, Nearest, make_aggregator, make_plan, make_store, make_teacher, nearest_teacher

CPU = torch.device("cpu")
SYMMETRIES = [(flip, rotate) for flip in (False, True) for rotate in range(4)]


@dataclasses.dataclass(frozen=True)
class Features(Supervised):
    """A method that wants more than images."""

    needs_teachers: bool = True

    def teach(self, crops: Crops, networks: FrozenNetworks) -> dict[str, Tensor]:
        return {name: teacher(crops.lr) for name, teacher in networks.teachers.items()}


class Rendered:
    def __init__(self, folder: Path, side: int = 40) -> None:
        self.store = make_store(folder, count=3, side=side)
        self.teachers = tuple(make_teacher(folder, name, seed=seed) for seed, name in enumerate("ab"))
        self.aggregator = make_aggregator(folder, self.teachers)
        of_teachers = tuple(
            teacher_rendering(teacher, digest_file(teacher.path), self.store, folder / "outputs", "float16", "float32")
            for teacher in self.teachers
        )
        aggregate = aggregate_rendering(Merged("aggregate", self.teachers, self.aggregator), of_teachers)
        self.rendered = RenderedTeachers(of_teachers, aggregate)
        renderer = Renderer(CPU)
        for rendering in (*of_teachers, aggregate):
            rendering.outputs.create()
            for index in range(len(self.store)):
                renderer.render(rendering, index)

    def share(self, plan: Plan | None = None) -> Share:
        plan = plan or make_plan(self.store)
        return Share(self.store.folder, plan, 2, list(range(plan.batch_size // 2)))

    def crops(self, rendering: object, samples: list[Sample], patch: int) -> Tensor:
        """What the source is to deliver, cut by the code that cuts LR and HR."""
        images = [crop(rendering.outputs.image(s.image), s, patch, self.store.scale) for s in samples]  # type: ignore[attr-defined]
        return torch.from_numpy(np.stack(images)).float()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    return Rendered(tmp_path_factory.mktemp("rendered"))


def test_a_teacher_is_rendered_as_the_network_itself_enlarges_the_photograph(made: Rendered) -> None:
    lr = torch.from_numpy(made.store.lr(1).copy()).permute(2, 0, 1)[None] / 255
    images = load_networks(made.teachers, None, 2, CPU).teacher_images(lr)[0]
    for image, rendering in zip(images, made.rendered.teachers, strict=True):
        stored = torch.from_numpy(rendering.outputs.image(1).astype(np.float32)).permute(2, 0, 1)
        torch.testing.assert_close(stored, image, atol=1e-3, rtol=0)


@pytest.mark.parametrize(("flip", "rotate"), SYMMETRIES)
def test_crops_are_those_of_the_rendered_images_in_every_symmetry(
    made: Rendered, monkeypatch: pytest.MonkeyPatch, flip: bool, rotate: int
) -> None:
    samples = [Sample(image, y=3 + image, x=5, flip=flip, rotate=rotate) for image in (0, 2)]
    monkeypatch.setattr(Share, "samples", lambda self, step: samples)
    source = CachedSource(made.share(), Aggregation(), made.rendered, CPU)
    batch, patch = source.fetch(0), source.share.plan.patch
    expected = [made.crops(rendering, samples, patch) for rendering in made.rendered.teachers]
    assert torch.equal(batch.signals["teachers"], torch.stack(expected, 1))
    for row, sample in enumerate(samples):
        lr, hr = made.store.cut(sample, patch)
        assert torch.equal(batch.lr[row] * 255, torch.from_numpy(lr).float())
        assert torch.allclose(batch.hr[row] * 255, torch.from_numpy(hr).float())


def test_samples_and_their_checksums_are_those_of_a_training_without_teachers(made: Rendered) -> None:
    share = made.share()
    for step in range(5):
        cached = CachedSource(share, MTKD(), made.rendered, CPU).fetch(step)
        alone = LocalSource(share, CPU).fetch(step)
        assert torch.equal(cached.lr, alone.lr)
        assert torch.equal(cached.hr, alone.hr)
        assert cached.checks == alone.checks


@pytest.mark.parametrize("method", [MTKD(), Aggregation()])
def test_a_loss_from_files_is_the_loss_of_the_same_images_given_directly(
    made: Rendered, method: MTKD | Aggregation
) -> None:
    source = CachedSource(made.share(), method, made.rendered, CPU)
    batch, samples = source.fetch(1), source.share.samples(1)
    assert made.rendered.aggregate is not None
    patch = source.share.plan.patch
    direct = {
        "aggregate": made.crops(made.rendered.aggregate, samples, patch),
        "teachers": torch.stack([made.crops(one, samples, patch) for one in made.rendered.teachers], 1),
    }
    signals = {name: direct[name] for name in batch.signals}
    student: torch.nn.Module = Nearest(2) if isinstance(method, MTKD) else torch.nn.Module()
    if isinstance(method, Aggregation):
        student.forward = lambda stack: stack.mean(1)  # type: ignore[method-assign]
    assert method.loss(student, batch).total == method.loss(student, Batch(batch.lr, batch.hr, signals)).total


def test_the_aggregate_is_that_of_the_stored_images_of_the_teachers(made: Rendered) -> None:
    assert made.rendered.aggregate is not None
    stack = [torch.from_numpy(one.outputs.image(0).astype(np.float32)) for one in made.rendered.teachers]
    aggregator = Merged("aggregate", made.teachers, made.aggregator).load(2)
    expected = aggregator(torch.stack(stack).permute(0, 3, 1, 2)[None])[0]
    found = torch.from_numpy(made.rendered.aggregate.outputs.image(0).astype(np.float32)).permute(2, 0, 1)
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)


def test_batches_have_the_order_of_memory_that_is_asked_for(made: Rendered) -> None:
    batch = CachedSource(made.share(), MTKD(), made.rendered, CPU, channels_last=True).fetch(0)
    for images in (batch.lr, batch.hr, batch.signals["aggregate"]):
        assert images.is_contiguous(memory_format=torch.channels_last)


def test_a_torn_image_is_named_and_rendered_again_and_never_used(tmp_path: Path) -> None:
    made, notes = Rendered(tmp_path), list[str]()
    expected = CachedSource(made.share(), MTKD(), made.rendered, CPU).fetch(0).signals["aggregate"]
    assert made.rendered.aggregate is not None
    for rendering in (*made.rendered.teachers, made.rendered.aggregate):
        for index in range(len(made.store)):
            content = bytearray(rendering.outputs.path(index).read_bytes())
            content[1000] ^= 0xFF
            rendering.outputs.path(index).write_bytes(content)
    # As in another process: this one has checked the images already.
    rendered = pickle.loads(pickle.dumps(made.rendered))
    source = CachedSource(made.share(), MTKD(), rendered, CPU, tell=notes.append)
    assert torch.equal(source.fetch(0).signals["aggregate"], expected)
    assert any("00000.npy has CRC-32" in note and "aggregate on 00.png is rendered again" in note for note in notes)
    assert any("a on 00.png is rendered again" in note for note in notes)


def test_what_a_method_wants_of_its_teachers_is_known_before_anything_starts() -> None:
    assert images_asked(Supervised(), 2, 2) == frozenset()
    assert images_asked(Aggregation(), 2, 2) == {"teachers"}
    assert images_asked(MTKD(), 2, 2) == {"aggregate"}


def test_a_method_that_wants_the_networks_themselves_needs_live_teachers() -> None:
    with pytest.raises(NeedsNetworks, match=r"Features asks for the teachers themselves.*live teachers"):
        images_asked(Features(), 2, 2)


def test_the_key_says_what_is_computed_and_not_that_it_was_left_open(made: Rendered, tmp_path: Path) -> None:
    teacher = made.teachers[0]
    keys = [
        teacher_rendering(teacher, "digest", made.store, tmp_path, "float16", precision).outputs.key["arithmetic"]
        for precision in ("float32", "bfloat16", "auto")
    ]
    assert keys[:2] == ["float32", "bfloat16"]
    assert keys[2] in keys[:2]


def test_a_teacher_of_another_name_is_the_same_teacher(made: Rendered, tmp_path: Path) -> None:
    renamed = dataclasses.replace(made.teachers[0], name="other")
    folders = {
        teacher_rendering(teacher, "digest", made.store, tmp_path, "float16", "float32").outputs.folder
        for teacher in (made.teachers[0], renamed)
    }
    assert len(folders) == 1


def test_nothing_of_another_file_is_stored_under_the_key_of_the_one_that_it_replaced(tmp_path: Path) -> None:
    made = Rendered(tmp_path)
    teacher = made.rendered.teachers[0]
    teacher.outputs.path(0).unlink()
    before = digest_file(made.teachers[0].path)
    made.teachers[0].path.write_bytes(made.teachers[1].path.read_bytes())
    with pytest.raises(ValueError, match=rf"a on 00\.png: .*a\.safetensors is not the file.*expected {before[:12]}"):
        Renderer(CPU).render(teacher, 0)
    assert teacher.outputs.missing() == [0]


def test_an_aggregate_is_of_the_aggregator_that_its_key_names(tmp_path: Path) -> None:
    made = Rendered(tmp_path)
    assert made.rendered.aggregate is not None
    made.aggregator.write_bytes(made.aggregator.read_bytes() + b" ")
    with pytest.raises(ValueError, match=r"aggregate on 01\.png: .*aggregator\.safetensors is not the file"):
        Renderer(CPU).render(made.rendered.aggregate, 1)


@pytest.mark.parametrize(
    ("precision", "remedy"), [("float16", r"; it was computed in float16.*float32$"), ("float32", "$")]
)
def test_an_image_that_is_not_finite_names_the_remedy_where_it_was_computed_in_half_precision(
    tmp_path: Path, precision: TeacherPrecision, remedy: str
) -> None:
    teacher = nearest_teacher(tmp_path, "loud")
    weights = load_network(teacher.path).module
    for parameter in weights.parameters():
        torch.nn.init.constant_(parameter, 1e4)
    save_network(teacher.path, weights, {"network": TINY, "scale": "2"})
    digest, store = digest_file(teacher.path), make_store(tmp_path)
    rendering = teacher_rendering(teacher, digest, store, tmp_path / "outputs", "float16", precision)
    rendering.outputs.create()
    with pytest.raises(ValueError, match=r"loud on 01\.png: the image is not finite as float16" + remedy):
        Renderer(CPU).render(rendering, 1)


def test_whoever_renders_an_image_does_so_with_one_thread(made: Rendered, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = list[int]()

    def enlarged(network: torch.nn.Module, lr: Tensor, *sizes: int) -> Tensor:
        threads.append(torch.get_num_threads())
        return enlarge(network, lr, *sizes)

    monkeypatch.setattr("mtkd_dist.pools.render.enlarge", enlarged)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        Renderer(CPU).render(made.rendered.teachers[0], 0)
        assert threads == [1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
