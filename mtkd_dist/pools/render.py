"""Rendering: the images of frozen networks for whole photographs, by a pool of workers that leave them in files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mtkd_dist.config.tree import OutputDtype, TeacherPrecision
from mtkd_dist.data import ImageStore
from mtkd_dist.data.teacher_outputs import TeacherOutputs, TornOutput, outputs_key
from mtkd_dist.metrics import from_uint8
from mtkd_dist.models import digest_file
from mtkd_dist.models.precision import inference_dtype
from mtkd_dist.models.tiling import OVERLAP, TILE, enlarge
from mtkd_dist.pools.cluster import has_real_gpus
from mtkd_dist.pools.device import one_thread, pick_device, use_threads
from mtkd_dist.pools.evaluate import Merged
from mtkd_dist.pools.inference import Frozen, remedy
from mtkd_dist.pools.photo_workers import hand_out, photo_workers
from mtkd_dist.pools.placement import Resources
from mtkd_dist.pools.teacher_worker import TeacherFile, load_networks
from mtkd_dist.pools.wire import unpack

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rendering:
    """One frozen network and where its images lie; files instead of tensors, so that it travels."""

    network: TeacherFile | Merged
    outputs: TeacherOutputs
    precision: TeacherPrecision
    """Never "auto": what the key says is what is computed, on whatever device."""
    sources: tuple[Rendering, ...] = ()
    """Of an aggregator: whose images it makes one of, in its order."""


@dataclass(frozen=True)
class RenderedTeachers:
    """All that a training may read instead of asking teachers."""

    teachers: tuple[Rendering, ...]
    aggregate: Rendering | None
    """None while the aggregator is still to be trained."""


def teacher_rendering(
    teacher: TeacherFile, digest: str, images: ImageStore, root: Path, dtype: OutputDtype, precision: TeacherPrecision
) -> Rendering:
    """`digest`: SHA-256 of the teacher's file. Its name plays no part: runs may call it differently."""
    network = {"weights": digest, "input_range": teacher.input_range}
    arithmetic = arithmetic_here(precision)
    key = outputs_key(network, images, dtype, arithmetic, TILE, OVERLAP)
    return Rendering(replace(teacher, digest=digest), TeacherOutputs(root, key, images), arithmetic)


def aggregate_rendering(aggregator: Merged, sources: tuple[Rendering, ...]) -> Rendering:
    """The aggregator on what is stored of its teachers; stored as they are."""
    assert aggregator.aggregator is not None
    of_teachers = sources[0].outputs
    digest = aggregator.digest or digest_file(aggregator.aggregator)
    network = {
        "weights": digest,
        "teachers": [source.outputs.digest for source in sources],
    }
    key = of_teachers.key | {"network": network}
    outputs = TeacherOutputs(of_teachers.root, key, of_teachers.images)
    return Rendering(replace(aggregator, digest=digest), outputs, sources[0].precision, sources)


def render(
    renderings: Sequence[Rendering], resources: Resources, num_gpus: int | None = None, workers: int | None = None
) -> Iterator[tuple[str, int]]:
    """Render what is missing: (name of the network, number of the photograph), as each of them is done.

    Largest photographs first, network by network, over workers as :func:`photo_workers` counts them. Each computes with
    one thread, so that no byte depends on their number; what is there is not rendered again, so that an interrupted
    rendering goes on.

    Errors: ValueError naming network and photograph whose image is not finite or could not be made; TrainingFailed
    naming those of which workers die or over which they hang.
    """
    tasks: list[tuple[int, int]] = []
    for which, rendering in enumerate(renderings):
        rendering.outputs.create()
        largest_first = sorted(rendering.outputs.missing(), key=rendering.outputs.file_bytes, reverse=True)
        tasks += [(which, index) for index in largest_first]
    if not tasks:
        return

    def say(task: tuple[int, int]) -> str:
        return describe(renderings[task[0]], task[1])

    # A worker that dies is started again: rendering leaves files, and to do an image twice changes nothing.
    with photo_workers(
        RenderWorker, [tuple(renderings)], len(tasks), resources, num_gpus, workers, max_restarts=-1
    ) as started:
        done = hand_out(
            started, tasks, lambda worker, task: worker.render.remote(*task), say, kind=lambda task: task[0]
        )
        for (which, index), _ in done:
            yield renderings[which].network.name, index


def describe(rendering: Rendering, index: int) -> str:
    return f"{rendering.network.name} on {rendering.outputs.images.names[index]}"


class Renderer:
    """Renders single images, and reads rendered ones. Holds the network of the last image that it rendered."""

    def __init__(self, device: torch.device, tell: Callable[[str], None] = logger.warning) -> None:
        self._device = device
        self._tell = tell
        self._loaded: tuple[str, nn.Module] | None = None

    def image(self, rendering: Rendering, index: int) -> NDArray[np.generic]:
        """(H,W,3) as stored. One that is absent or torn is named and rendered again. Errors: as `render`."""
        try:
            return rendering.outputs.image(index)
        except TornOutput as error:
            self._tell(f"{error}; {describe(rendering, index)} is rendered again")
            self.render(rendering, index)
            return rendering.outputs.image(index)

    @torch.inference_mode()
    def render(self, rendering: Rendering, index: int) -> None:
        """With one thread, as all rendering, so that no byte depends on who does it.

        Errors: ValueError that names network and photograph.
        """
        outputs = rendering.outputs
        try:
            with one_thread():
                image = self._compute(rendering, index)[0]
            # What float16 cannot hold is no image, whatever it is stored as.
            if not image.half().isfinite().all():
                dtype = inference_dtype(rendering.precision, self._device)
                raise ValueError(f"the image is not finite as float16{remedy(dtype)}")
            outputs.write(index, image.permute(1, 2, 0).contiguous().cpu().numpy())
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{describe(rendering, index)}: {error}") from error

    def _compute(self, rendering: Rendering, index: int) -> Tensor:
        """(1,3,H,W), float32."""
        images = rendering.outputs.images
        if not rendering.sources:
            lr = from_uint8(images.lr(index), self._device)
            return enlarge(self._network(rendering), lr, images.scale)
        of_teachers = [self.image(source, index).transpose(2, 0, 1)[None] for source in rendering.sources]
        # Only now: a source that had to be rendered again took the place of the aggregator.
        network = self._network(rendering)
        stack = unpack(of_teachers, self._device)[None]
        return enlarge(network, stack, 1, images.scale * TILE, images.scale * OVERLAP)

    def _network(self, rendering: Rendering) -> nn.Module:
        outputs, network = rendering.outputs, rendering.network
        if self._loaded is None or self._loaded[0] != outputs.digest:
            self._loaded = None  # before the next one: two may not fit
            dtype = inference_dtype(rendering.precision, self._device)
            scale = outputs.images.scale
            if isinstance(network, TeacherFile):
                networks = load_networks((network,), None, scale, self._device, dtype, capture=False)
                module = networks.teachers[network.name]
            else:
                module = Frozen(network.name, network.load(scale), 1, self._device, dtype, capture=False)
            self._loaded = outputs.digest, module
        return self._loaded[1]


class RenderWorker:
    """Ray's actor around a `Renderer`."""

    def __init__(self, renderings: Sequence[Rendering], reserved_gpu: bool) -> None:
        use_threads(1)
        self._renderings = renderings
        self._renderer = Renderer(pick_device(reserved_gpu))

    def ready(self) -> None:
        """Returns once the process is up."""

    def render(self, which: int, index: int) -> None:
        rendering = self._renderings[which]
        if not rendering.outputs.has(index):  # another run may have been faster
            self._renderer.render(rendering, index)


def arithmetic_here(precision: TeacherPrecision) -> TeacherPrecision:
    """What "auto" means on this cluster: the driver's machine may have no GPU."""
    if precision != "auto":
        return precision
    return "float16" if ray.is_initialized() and has_real_gpus() else "float32"
