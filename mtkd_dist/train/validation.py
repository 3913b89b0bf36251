"""Scores of a training on photographs that it never sees, and the best weights so far. Plain torch, on one CPU core."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from mtkd_dist.data import ImageStore
from mtkd_dist.metrics import from_uint8, psnr_y, to_uint8
from mtkd_dist.models import load_strict, read_metadata, read_state_dict, save_network
from mtkd_dist.pools.errors import TrainingFailed
from mtkd_dist.pools.teacher_worker import TeacherFile, digests_of, load_networks
from mtkd_dist.train.job import StudentJob, StudentNet
from mtkd_dist.train.students import MAIN, each, joined_weights, weights_of_each

PHOTOS = 8
"""At most so many photographs are scored: those whose names hash smallest."""
CROP = 128
"""Side in LR pixels of the part around the centre that is scored, at most."""

Weights = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True)
class ValidationJob:
    student: StudentJob
    images: Path
    """Folder of an `ImageStore` of photographs that are not trained on."""
    teachers: tuple[TeacherFile, ...]
    """Whose images an aggregator takes; empty for a network that takes LR."""
    best: Path
    """File of the best weights so far; that of a further student NAME is called `best-NAME` instead of `best`."""
    metadata: Mapping[str, str]
    """Of the file that the stage ends with, so that this one loads like it."""
    kept: Path | None = None
    """Folder where the teachers' images of the photographs are kept for the next aggregator; None: nowhere."""

    def best_of(self, name: str) -> Path:
        """File of the best weights of a student."""
        return self.best if name == MAIN else self.best.with_stem(f"{self.best.stem}-{name}")


def best_weights(job: ValidationJob | None, folder: Path) -> dict[str, Tensor]:
    """Of the training in `folder`, for `result: best`: as `TrainState.result`, each student at its own best step.

    Errors: TrainingFailed where there are none.
    """
    files = {} if job is None else {net.name: job.best_of(net.name) for net in job.student.students}
    if not files or not all(file.exists() for file in files.values()):
        raise TrainingFailed(f"result=best, but no validation in {folder} came to a score; the log has the reason")
    return joined_weights({name: read_state_dict(file) for name, file in files.items()})


class Validation:
    """Scores weights and keeps the best.

    An earlier attempt's best in `job.best` counts, if it was measured on the same photographs at a step that this one
    scores too. Always in float32.
    """

    def __init__(self, job: ValidationJob) -> None:
        self._job = job
        self._networks = each(job.student.build_shipped().eval())
        store = ImageStore.open(job.images)
        order = sorted(range(len(store)), key=lambda i: hashlib.sha256(store.names[i].encode()).digest())
        crops = [_crop(store, i) for i in order[:PHOTOS]]
        self._truths = [hr for _, hr in crops]
        self._photos = hashlib.sha256(f"{store.digest} {PHOTOS} {CROP}".encode()).hexdigest()
        self._inputs = self._render([lr for lr, _ in crops])
        self._best = {net.name: self._read_best(job.best_of(net.name)) for net in job.student.students}

    @torch.inference_mode()
    def score(self, weights: Weights) -> dict[str, float]:
        """Student -> mean PSNR-Y in dB. Errors: ValueError where a network answers NaN or infinity."""
        scale, scores = self._job.student.scale, {}
        for name, own in weights_of_each(weights, list(self._networks)).items():
            network = self._networks[name]
            load_strict(network, {key: torch.tensor(array) for key, array in own.items()}, "validation")
            answers = (to_uint8(network(images.float())[0]) for images in self._inputs)
            psnrs = [psnr_y(sr, hr, scale) for sr, hr in zip(answers, self._truths, strict=True)]
            scores[name] = float(np.mean(psnrs))
        return scores

    def run(self, step: int, weights: Weights) -> dict[str, Any]:
        """Score the weights after `step` steps (`TrainState.result`), and keep those of each student that are its best.

        Returns "step" and "photos", "validation_psnr_y" of this score, "best_step" and "best_psnr_y" so far; the last
        three of a further student as "NAME/validation_psnr_y" and so on.
        """
        record: dict[str, Any] = {"step": step, "photos": len(self._truths)}
        scores = self.score(weights)
        for net in self._job.student.students:
            score, best = scores[net.name], self._best[net.name]
            if best is None or score > best[1]:
                best = self._best[net.name] = step, score
                save_network(self._job.best_of(net.name), self._networks[net.name], self._metadata(net, step, score))
            values = {"validation_psnr_y": score, "best_step": best[0], "best_psnr_y": best[1]}
            record |= {key if net.name == MAIN else f"{net.name}/{key}": value for key, value in values.items()}
        return record

    @torch.inference_mode()
    def _render(self, crops: list[Tensor]) -> list[Tensor]:
        """What the network takes for each crop: itself, or the images of all teachers, (1,N,3,H,W) float16."""
        if not self._job.teachers:
            return crops
        file = self._kept_file()
        if file is not None and file.exists():
            found = load_file(file)
            return [found[str(i)] for i in range(len(crops))]
        networks = load_networks(self._job.teachers, None, self._job.student.scale, torch.device("cpu"))
        # In one order of memory, however they come by: a convolution may round by it.
        images = [networks.teacher_images(lr).half().contiguous() for lr in crops]
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary = file.with_suffix(f".{uuid.uuid4().hex}.tmp")
            save_file({str(i): image for i, image in enumerate(images)}, temporary)
            os.replace(temporary, file)
        return images

    def _kept_file(self) -> Path | None:
        if self._job.kept is None:
            return None
        digests = digests_of(self._job.teachers)
        key = [[digests[teacher.name], teacher.input_range] for teacher in self._job.teachers]
        digest = hashlib.sha256(f"{key} {self._job.student.scale} {self._photos}".encode()).hexdigest()
        return self._job.kept / f"validation-{digest[:32]}.safetensors"

    def _metadata(self, net: StudentNet, step: int, score: float) -> dict[str, str]:
        return {
            **net.metadata(self._job.metadata),
            "step": str(step),
            "validation_psnr_y": repr(score),
            "validation_photos": self._photos,
        }

    def _read_best(self, file: Path) -> tuple[int, float] | None:
        if not file.exists():
            return None
        metadata = read_metadata(file)
        if metadata.get("validation_photos") != self._photos:
            return None
        step, training = int(metadata["step"]), self._job.student.training
        if step % training.validate_every and step != training.steps:
            return None  # scored in an earlier rhythm: a run that was not interrupted would not know it
        return step, float(metadata["validation_psnr_y"])


def _crop(store: ImageStore, index: int) -> tuple[Tensor, NDArray[np.uint8]]:
    """The centre of a photograph: LR (1,3,h,w) float32 in [0,1] and HR (H,W,3) uint8."""
    lr, hr, scale = store.lr(index), store.hr(index), store.scale
    (top, height), (left, width) = ((max(0, side - CROP) // 2, min(side, CROP)) for side in lr.shape[:2])
    part = lr[top : top + height, left : left + width]
    truth = hr[scale * top : scale * (top + height), scale * left : scale * (left + width)]
    return from_uint8(part), np.ascontiguousarray(truth)
