"""Distil several super-resolution teachers into one small student, on two pools of workers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtkd_dist.pictures import Upscaler

__version__ = "0.1.0"


def load(path: str | os.PathLike[str], **options: Any) -> Upscaler:
    """A student, or any other network in a weight file, that takes a picture and returns a larger one.

    `path` may be the folder of a finished run, too.

    `student = mtkd_dist.load("student.safetensors"); large = student(Image.open("photo.jpg"))`. Pillow leaves colour
    profile and EXIF out of a JPEG unless they are asked for:
    `large.save("large.jpg", icc_profile=large.info.get("icc_profile"), exif=large.getexif())`. Options and errors are
    those of :func:`mtkd_dist.pictures.load_upscaler`.
    """
    from pathlib import Path  # these are here, so that `import mtkd_dist` loads no torch

    from mtkd_dist.pictures import load_upscaler
    from mtkd_dist.stages.student_file import weights_at

    return load_upscaler(weights_at(Path(path)), **options)
