"""Images of one frozen network for all photographs of a store: rendered once, read by every training.

They lie in a folder that is named by the hash of its key. ``index.json`` says the key in readable form; ``00000.npy``
and so on hold the image of one photograph each, (H, W, 3), followed by two numbers about its rounding and the CRC-32 of
all that stands before it, which readers of .npy files do not look at. So a file carries its own check, and one rename
makes it valid: two runs may render into one folder at once.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import math
import os
import struct
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mtkd_dist.config.tree import OutputDtype
from mtkd_dist.data.store import ImageStore

# Part of every key: raise it when the rendering, its rounding or the layout of the files changes, and all is rendered
# again. Versions of torch are not part of it: they differ by less than float16 rounds, and a new one would cost days.
_FORMAT = "mtkd-outputs/1"
_INDEX = "index.json"
# Mean squared rounding error, dB of PSNR to the truth lost by it, CRC-32.
_TRAILER = struct.Struct("<ddI")
_CRC_BYTES = 4
_ABANDONED_SECONDS = 3600.0
"""A temporary file that old has no writer any more: to write one image takes seconds."""


class TornOutput(ValueError):
    """A rendered image that is absent or is not what was written; the message names its file."""


class Rounding(NamedTuple):
    """What storing the images cost, as means over them."""

    psnr_db: float
    """PSNR between what the network computed and what is stored; inf where nothing was rounded."""
    lost_db: float
    """By how much the PSNR to the truth (RGB) is lower for what is stored; below 0 where it is higher."""


class TeacherOutputs:
    """The rendered images of one network. It pickles as folder, key and store; files are opened when they are read.

    Args:
        root: folder of the folders of all networks; runs may share it.
        key: all that the images depend on, as JSON; see :func:`outputs_key`.
        images: the store of the photographs.
    """

    def __init__(self, root: Path, key: Mapping[str, Any], images: ImageStore) -> None:
        self.root = root
        self.key = dict(key)
        self.images = images
        self.digest = hashlib.sha256(json.dumps(self.key, sort_keys=True).encode()).hexdigest()
        self.folder = root / self.digest[:32]
        self._dtype = np.dtype(self.key["dtype"])
        self._checked: set[int] = set()

    def __reduce__(self) -> tuple[Callable[..., TeacherOutputs], tuple[Path, dict[str, Any], ImageStore]]:
        return TeacherOutputs, (self.root, self.key, self.images)

    def path(self, index: int) -> Path:
        return self.folder / _name(index)

    def file_bytes(self, index: int) -> int:
        """Size of the file of one image, before it is rendered."""
        height, width, channels = self._shape(index)
        pixels = height * width * channels * self._dtype.itemsize
        return len(_header(self._shape(index), self._dtype)) + pixels + _TRAILER.size

    def create(self) -> None:
        """Make the folder, or make sure that it is the one of this key; clear what dead writers left in it.

        Raises:
            ValueError: where its index says another key.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        index = self.folder / _INDEX
        if not index.exists():
            _write_whole(index, json.dumps(self.key, indent=2, sort_keys=True).encode())
        self.check_key()
        for leftover in self.folder.glob(".*.tmp"):
            with contextlib.suppress(FileNotFoundError):  # another run may replace it
                if time.time() - leftover.stat().st_mtime > _ABANDONED_SECONDS:
                    leftover.unlink()

    def check_key(self) -> None:
        """Refuse a folder whose index does not say this key: its images come from something else.

        Raises:
            ValueError: naming the file and what differs.
        """
        index = self.folder / _INDEX
        try:
            found = json.loads(index.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{index} cannot be read ({error}); delete the folder, and it is rendered again") from None
        if found != self.key:
            names = sorted({*self.key, *found}) if isinstance(found, dict) else []
            differing = [
                f"{name} is {found.get(name)!r}, expected {self.key.get(name)!r}"
                for name in names
                if found.get(name) != self.key.get(name)
            ]
            raise ValueError(
                f"{index} speaks of other images than these: {'; '.join(differing) or repr(found)}. Delete the folder, "
                "and it is rendered again"
            )

    def has(self, index: int) -> bool:
        """Whether the image's file is there in full length; its content is checked when it is read."""
        with contextlib.suppress(FileNotFoundError):  # another run may replace it
            return self.path(index).stat().st_size == self.file_bytes(index)
        return False

    def missing(self) -> list[int]:
        """Images that are still to be rendered. Errors: ValueError as :meth:`check_key`, where there is a folder."""
        sizes: dict[str, int] = {}
        if self.folder.is_dir():
            self.check_key()
            with os.scandir(self.folder) as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):  # another run may replace it
                        sizes[entry.name] = entry.stat().st_size
        return [i for i in range(len(self.images)) if sizes.get(_name(i)) != self.file_bytes(i)]

    def write(self, index: int, image: NDArray[np.float32]) -> None:
        """Store what the network made of photograph ``index``, whole or not at all.

        Args:
            index: its number in the store.
            image: (H, W, 3), as computed; values outside of [0,1] are kept by float16, and clipped by uint8.
        """
        if image.shape != self._shape(index):
            raise ValueError(f"image {index} has the shape {image.shape}, expected {self._shape(index)}")
        stored = _rounded(image, self._dtype)
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, stored, allow_pickle=False)
        rounding = _rounding(image, stored, self.images.hr(index))
        content = buffer.getvalue() + _TRAILER.pack(*rounding, 0)[:-_CRC_BYTES]
        _write_whole(self.path(index), content + struct.pack("<I", zlib.crc32(content)))

    def image(self, index: int) -> NDArray[np.generic]:
        """(H, W, 3) of the stored type: a read-only view of the file, checked at the first touch in this process.

        Raises:
            TornOutput: where the file is absent, or differs from what was written.
        """
        path, shape = self.path(index), self._shape(index)
        try:
            content = np.memmap(path, np.uint8, mode="r")
        except (FileNotFoundError, ValueError) as error:  # ValueError: an empty file cannot be mapped
            raise TornOutput(f"{path} is gone or empty ({error})") from error
        header = _header(shape, self._dtype)
        if index not in self._checked:
            self._check(path, content, header, self.file_bytes(index))
            self._checked.add(index)
        pixels = content[len(header) : len(content) - _TRAILER.size]
        return pixels.view(np.ndarray).view(self._dtype).reshape(shape)

    def rounding(self) -> Rounding:
        """Of all images, whenever they were rendered. Errors: TornOutput where one is absent."""
        squares, lost = [], []
        for index in range(len(self.images)):
            try:
                with self.path(index).open("rb") as file:
                    file.seek(-_TRAILER.size, os.SEEK_END)
                    square, loss, _ = _TRAILER.unpack(file.read())
            except OSError as error:
                raise TornOutput(f"{self.path(index)} is gone or empty ({error})") from error
            squares.append(square)
            lost.append(loss)
        return Rounding(_psnr(float(np.mean(squares))), float(np.mean(lost)))

    def _shape(self, index: int) -> tuple[int, int, int]:
        height, width = self.images.lr_sizes[index]
        return self.images.scale * height, self.images.scale * width, 3

    @staticmethod
    def _check(path: Path, content: NDArray[np.uint8], header: bytes, size: int) -> None:
        if len(content) != size:
            raise TornOutput(f"{path} has {len(content)} bytes, expected {size}")
        said = int.from_bytes(content[-_CRC_BYTES:].tobytes(), "little")
        found = zlib.crc32(content[:-_CRC_BYTES].data)
        if found != said or content[: len(header)].tobytes() != header:
            raise TornOutput(f"{path} has CRC-32 {found:08x}, expected {said:08x}: it is not what was written")


def outputs_key(
    network: Mapping[str, Any], images: ImageStore, dtype: OutputDtype, arithmetic: str, tile: int, overlap: int
) -> dict[str, Any]:
    """All that rendered images depend on.

    Args:
        network: what tells it from others: weights by digest, input range, keys of those whose images it takes.
        images: the photographs.
        dtype: type that is stored.
        arithmetic: type that the network computes in.
        tile, overlap: LR pixels; see :func:`mtkd_dist.models.tiling.enlarge`.
    """
    return {
        "format": _FORMAT,
        "network": dict(network),
        "images": images.digest,
        "scale": images.scale,
        "dtype": dtype,
        "arithmetic": arithmetic,
        "tile": tile,
        "overlap": overlap,
    }


def total_bytes(outputs: Sequence[TeacherOutputs], missing_only: bool = False) -> int:
    """Of all files of all networks, or of those that are still to be rendered."""
    return sum(
        one.file_bytes(index)
        for one in outputs
        for index in (one.missing() if missing_only else range(len(one.images)))
    )


def folder_bytes(root: Path) -> int:
    """What lies in a folder and below it; 0 where there is none."""
    total = 0
    for folder, _, names in os.walk(root):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # another run may replace it
                total += os.lstat(os.path.join(folder, name)).st_size
    return total


def _name(index: int) -> str:
    return f"{index:05}.npy"


@functools.lru_cache(maxsize=1024)
def _header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    buffer = io.BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, described)
    return buffer.getvalue()


def _rounded(image: NDArray[np.float32], dtype: np.dtype[Any]) -> NDArray[np.generic]:
    if dtype == np.uint8:
        return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(image.astype(dtype))


def _rounding(image: NDArray[np.float32], stored: NDArray[np.generic], truth: NDArray[np.uint8]) -> tuple[float, float]:
    """(mean squared error of the rounding, dB of PSNR to the truth that it costs)."""
    back = stored.astype(np.float32) / (255 if stored.dtype == np.uint8 else 1)
    hr = truth.astype(np.float32) / 255

    def square(one: NDArray[Any], other: NDArray[Any]) -> float:
        return float(np.mean((one - other) ** 2, dtype=np.float64))

    # Scores are of clipped images, so clipping is no loss; an error of 0 counts as one that no 8-bit image can show.
    before, after = (max(square(np.clip(one, 0, 1), hr), 1e-12) for one in (image, back))
    return square(image, back), 10 * math.log10(after / before)


def _psnr(mean_square: float) -> float:
    return -10 * math.log10(mean_square) if mean_square else math.inf


def _write_whole(path: Path, content: bytes) -> None:
    """By way of a name of its own. What a loss of power leaves behind, the checksum tells."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        # mkstemp's files are private, and a shared folder is read by others.
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
