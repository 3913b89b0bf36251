"""Upscaling of files, one at a time, in this process or over a pool of workers."""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mtkd_dist.data import ImageError
from mtkd_dist.pictures import check_fits, load_upscaler, read_picture, write_picture
from mtkd_dist.pictures.memory import SHARE
from mtkd_dist.pictures.upscaler import Progress
from mtkd_dist.pools.device import pick_device, use_threads
from mtkd_dist.pools.photo_workers import Watch, hand_out, photo_workers, worker_count
from mtkd_dist.pools.placement import Resources
from mtkd_dist.pools.teacher_worker import TeacherFile

PATIENCE_SECONDS = 24 * 3600.0
"""So long a worker may be at one picture: a large one, on one core, is the work of hours."""


@dataclass(frozen=True)
class UpscaleJob:
    """With what, and how."""

    model: TeacherFile
    self_ensemble: bool = False
    tile: int | None = None
    quality: int = 95
    overwrite: bool = False


@dataclass(frozen=True)
class PictureFile:
    """A file and what it is to become."""

    source: Path
    target: Path
    format: str


@dataclass(frozen=True)
class Failure:
    """What went wrong with a file: a sentence that names it, and the traceback, which a worker cannot show."""

    text: str
    traceback: str = ""


def upscale_here(job: UpscaleJob, files: Sequence[PictureFile], progress: Progress) -> Iterator[Failure | None]:
    """What went wrong with each file, or None, in their order. `progress` hears what share of a picture is done.

    Errors: as `load_upscaler`.
    """
    use_threads(torch.get_num_threads())
    upscale = _Upscaling(job, pick_device(True), SHARE)
    for file in files:
        yield upscale(file, progress)


def upscale_on_workers(
    job: UpscaleJob, files: Sequence[PictureFile], resources: Resources, workers: int | None = None
) -> Iterator[tuple[PictureFile, Failure | None]]:
    """Each file with what went wrong with it, or None, as soon as it is done: over workers as `photo_workers` counts.

    A file of which workers die is one that went wrong. Errors: TrainingFailed where no worker can be started.
    """
    count = worker_count(len(files), resources.gpus or resources.cpus, workers)
    sharers = -(-count // resources.gpus) if resources.gpus else count
    with photo_workers(
        UpscaleWorker, [job, SHARE / sharers], len(files), resources, None, workers, max_restarts=-1
    ) as started:
        yield from hand_out(
            started,
            files,
            lambda worker, file: worker.upscale.remote(file),
            lambda file: str(file.source),
            watch=Watch[Any](PATIENCE_SECONDS, PATIENCE_SECONDS),
            give_up=lambda error: Failure(str(error)),
        )


class UpscaleWorker:
    """Ray's actor around one upscaler; computes with one thread."""

    def __init__(self, job: UpscaleJob, memory_share: float, reserved_gpu: bool) -> None:
        use_threads(1)
        self._upscale = _Upscaling(job, pick_device(reserved_gpu), memory_share)

    def ready(self) -> None:
        """Returns once the process is up."""

    def upscale(self, file: PictureFile) -> Failure | None:
        """What went wrong, or None."""
        return self._upscale(file, lambda share: None)


class _Upscaling:
    def __init__(self, job: UpscaleJob, device: torch.device, memory_share: float) -> None:
        self._job = job
        self._upscaler = load_upscaler(
            job.model.path,
            input_range=job.model.input_range,
            device=device,
            self_ensemble=job.self_ensemble,
            tile=job.tile,
            memory_share=memory_share,
        )

    def __call__(self, file: PictureFile, progress: Progress) -> Failure | None:
        try:
            self._upscale(file, progress)
        except Exception as error:  # whatever is wrong with one file, the others are to be done
            return Failure(f"{file.source}: {_in_words(error)}", traceback.format_exc())
        return None

    def _upscale(self, file: PictureFile, progress: Progress) -> None:
        picture = read_picture(file.source)
        check_fits(file.target, picture, file.format, self._upscaler.scale)  # before hours of work, not after
        larger = dataclasses.replace(picture, pixels=self._upscaler(picture.pixels, progress))
        if not self._job.overwrite and file.target.exists():
            raise FileExistsError(f"{file.target} was written by somebody else meanwhile; it was left as it is")
        file.target.parent.mkdir(parents=True, exist_ok=True)
        write_picture(file.target, larger, file.format, self._job.quality)


def _in_words(error: Exception) -> str:
    if isinstance(error, ImageError):  # of what was read, or of what was to be written
        return f"{error.found}; {error.mend}"
    for_people = isinstance(error, (ValueError, OSError, MemoryError))
    return str(error) if for_people else f"{type(error).__name__}: {error}"
