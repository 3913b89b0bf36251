"""Training images, decoded once: uint8 pixels in two flat files, read through the page cache instead of a decoder.

A store is a folder with ``hr.u8`` and ``lr.u8`` (the images back to back, each (height, width, 3) in C order) and
``index.json``, which says what they hold and what they were made from.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from mtkd_dist.data.images import ImageError
from mtkd_dist.data.pairs import Photo, read_pair
from mtkd_dist.data.plan import Sample

Uint8Image = NDArray[np.uint8]
_Pair = tuple[Uint8Image, Uint8Image]  # HR, LR

Pixel = TypeVar("Pixel", bound=np.generic)

# Part of every index: raise it when the layout, the decoding or the shrinking changes, and old stores are built again.
_FORMAT = "mtkd-store/2"
_INDEX = "index.json"


class ImageStore:
    """A folder of decoded images. It pickles as its path, and opens its files on first use.

    A store of the same path that was built anew in the meantime is an error when a pickled one is loaded.
    """

    def __init__(self, folder: Path, index: dict[str, Any]) -> None:
        self.folder = folder
        self._index = index
        self.scale: int = index["scale"]
        self.digest: str = index["digest"]
        """SHA-256 of the scale, the shapes and the pixels: equal wherever these pictures are stored in this order."""
        self.names: list[str] = index["names"]
        """Path of each photograph below the folder that all of them share, with slashes."""
        self.lr_sizes: list[tuple[int, int]] = list(zip(index["lr_heights"], index["lr_widths"], strict=True))
        """(height, width) of each LR image; the HR image is ``scale`` times as high and wide."""
        self.skipped: list[tuple[str, str]] = [(name, reason) for name, reason in index["skipped"]]
        """Photographs that were left out, and why."""
        # Pixels before each image in lr.u8, and in all.
        self._starts = list(itertools.accumulate((h * w for h, w in self.lr_sizes), initial=0))

    @classmethod
    def open(cls, folder: str | Path) -> ImageStore:
        """Open a store that :func:`build_store` made.

        Raises:
            ValueError: if the folder holds no store, one of another format, or one whose files have the wrong size.
        """
        folder = Path(folder)
        try:
            index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"no image store in {folder} ({error}): build it with build_store") from error
        found = index.get("format") if isinstance(index, dict) else None
        if found != _FORMAT:
            raise ValueError(f"the image store in {folder} has format {found!r}, expected {_FORMAT!r}: build it again")
        store = cls(folder, index)
        for name, expected in (("lr.u8", 3 * store._starts[-1]), ("hr.u8", 3 * store._starts[-1] * store.scale**2)):
            size = (folder / name).stat().st_size if (folder / name).is_file() else None
            if size != expected:
                raise ValueError(
                    f"{folder / name} has {size} bytes, expected {expected}: delete the folder and build again"
                )
        return store

    def __reduce__(self) -> tuple[Callable[[Path, str], ImageStore], tuple[Path, str]]:
        return _reopen, (self.folder, self.digest)

    def __len__(self) -> int:
        return len(self.names)

    def lr(self, i: int) -> Uint8Image:
        """LR image ``i``, (h, w, 3) uint8: a read-only view of the file, nothing is copied."""
        return self._view(self._lr_file, i, 1)

    def hr(self, i: int) -> Uint8Image:
        """HR image ``i``, (scale*h, scale*w, 3) uint8: a read-only view of the file, nothing is copied."""
        return self._view(self._hr_file, i, self.scale)

    def cut(self, sample: Sample, patch: int) -> tuple[Uint8Image, Uint8Image]:
        """The LR and the HR crop of a sample, mirrored and rotated alike.

        Args:
            sample: see :class:`mtkd_dist.data.Sample`.
            patch: side of the crop in LR pixels.

        Returns:
            (3, patch, patch) and (3, scale*patch, scale*patch) uint8, contiguous copies.

        Raises:
            ValueError: if the crop reaches over the edge of the image.
        """
        height, width = self.lr_sizes[sample.image]
        if not (0 <= sample.y <= height - patch and 0 <= sample.x <= width - patch):
            raise ValueError(
                f"{sample} with a patch of {patch} reaches over the edge of {self.names[sample.image]}, which has "
                f"{height}x{width} LR pixels: was the plan made for another store?"
            )
        lr = crop(self.lr(sample.image), sample, patch, 1)
        hr = crop(self.hr(sample.image), sample, patch, self.scale)
        return lr, hr

    @cached_property
    def _lr_file(self) -> Uint8Image:
        return np.memmap(self.folder / "lr.u8", np.uint8, mode="r").view(np.ndarray)

    @cached_property
    def _hr_file(self) -> Uint8Image:
        return np.memmap(self.folder / "hr.u8", np.uint8, mode="r").view(np.ndarray)

    def _view(self, pixels: Uint8Image, i: int, scale: int) -> Uint8Image:
        if not 0 <= i < len(self):
            raise IndexError(f"image {i} of a store of {len(self)}")
        height, width = self.lr_sizes[i]
        start, end = (3 * scale**2 * edge for edge in self._starts[i : i + 2])
        return pixels[start:end].reshape(scale * height, scale * width, 3)


def build_store(
    photos: Sequence[Photo],
    scale: int,
    folder: str | Path,
    *,
    on_bad: Literal["error", "skip"] = "error",
    min_size: int = 1,
    workers: int = 1,
) -> ImageStore:
    """Decode photographs and keep them in a folder, in HR and in LR.

    HR images are cropped (top left) to a multiple of ``scale``. LR images are taken from their files as they are, where
    there are some, and made with :func:`~mtkd_dist.data.matlab_downscale` where there are none. A store in ``folder``
    that was made from the same files (by path, size and time of change) with the same settings is opened as it is;
    another store there is replaced. The new one appears whole or not at all; a process that is killed leaves a hidden
    folder ``.NAME-*`` beside it behind.

    Args:
        photos: see :func:`mtkd_dist.data.find_photos`; the store keeps their order.
        scale: whole factor between HR and LR, at least 2.
        folder: where the store goes; new, empty, or a store.
        on_bad: what an unusable photograph does: "error" stops, "skip" lists it in :attr:`ImageStore.skipped`.
        min_size: smallest side in HR pixels, after the crop, that a photograph may have.
        workers: threads that decode and shrink; at most twice as many images are in memory at a time.

    Raises:
        ImageError: for an unusable photograph, with ``on_bad="error"``; one whose LR image has not exactly the size of
            the cropped HR image / ``scale`` is unusable.
        ValueError: if no photograph is given or usable, ``scale`` is below 2, or ``folder`` holds something else.
    """
    folder = Path(folder)
    if not photos:
        raise ValueError("no photographs given: a store needs at least one")
    if scale < 2:
        raise ValueError(f"scale must be a whole number of at least 2, got {scale}")
    made_from = {"format": _FORMAT, "scale": scale, "min_size": min_size, "fingerprint": _fingerprint(photos)}

    def reusable() -> ImageStore | None:
        try:
            store = ImageStore.open(folder)
        except ValueError:
            return None
        same = all(store._index.get(key) == value for key, value in made_from.items())
        return store if same and (on_bad == "skip" or not store.skipped) else None

    if store := reusable():
        return store
    if folder.exists() and not (folder / _INDEX).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} holds something other than an image store: give a new or an empty folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that the rename stays on one file system; inside, because mkdtemp's own folder is private.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        new = Path(scratch, "new")
        new.mkdir()
        contents = _write_pixels(new, photos, scale, on_bad, min_size, workers)
        (new / _INDEX).write_text(json.dumps(made_from | contents), encoding="utf-8")
        try:
            new.rename(folder)
        except OSError:
            # An older store is in the way, or another process was faster; its store is as good as ours.
            if store := reusable():
                return store
            folder.rename(Path(scratch, "old"))
            new.rename(folder)
    return ImageStore.open(folder)


def _write_pixels(
    folder: Path, photos: Sequence[Photo], scale: int, on_bad: str, min_size: int, workers: int
) -> dict[str, Any]:
    """Write hr.u8 and lr.u8; return the part of the index that describes them."""
    photos = [Photo(os.path.abspath(hr), lr) for hr, lr in photos]
    root = os.path.commonpath([os.path.dirname(photo.hr_file) for photo in photos])
    names: list[str] = []
    lr_sizes: list[tuple[int, int]] = []
    skipped: list[tuple[str, str]] = []
    digest = hashlib.sha256(f"scale {scale}".encode())
    with (
        (folder / "hr.u8").open("wb") as hr_file,
        (folder / "lr.u8").open("wb") as lr_file,
        ThreadPoolExecutor(workers) as pool,
    ):
        for photo, pair in _in_order(lambda photo: pool.submit(read_pair, photo, scale, min_size), photos, 2 * workers):
            name = photo.hr.relative_to(root).as_posix()
            try:
                hr, lr = pair.result()
            except ImageError as error:
                if on_bad != "skip":
                    raise
                skipped.append((name, error.found))
                continue
            names.append(name)
            lr_sizes.append((lr.shape[0], lr.shape[1]))
            digest.update(f"\nimage {hr.shape}".encode())
            for file, pixels in ((hr_file, hr.reshape(-1).data), (lr_file, lr.reshape(-1).data)):
                digest.update(pixels)
                file.write(pixels)
    if not names:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped[:3])
        raise ValueError(
            f"none of the {len(photos)} photographs in {root} can be used, the first ones because: {reasons}"
        )
    # Columns: a dictionary for each image would take four times as long to read.
    heights, widths = zip(*lr_sizes, strict=True)
    return {
        "digest": digest.hexdigest(),
        "names": names,
        "lr_heights": heights,
        "lr_widths": widths,
        "skipped": skipped,
    }


def _in_order(
    submit: Callable[[Photo], Future[_Pair]], photos: list[Photo], limit: int
) -> Iterator[tuple[Photo, Future[_Pair]]]:
    """Photos and their work in the given order, with at most ``limit`` submitted and not yet taken."""
    ahead: deque[tuple[Photo, Future[_Pair]]] = deque()
    for photo in photos:
        ahead.append((photo, submit(photo)))
        if len(ahead) == limit:
            yield ahead.popleft()
    yield from ahead


def _fingerprint(photos: Sequence[Photo]) -> str:
    """SHA-256 of what tells a file from another without reading it: resolved folder, name, size, time of change."""
    real: dict[str, str] = {}  # of a folder: to resolve every file by itself takes ten times as long
    facts = []
    for file in itertools.chain.from_iterable(photos):
        if file is None:
            facts.append("")
            continue
        folder, _, name = file.rpartition(os.sep)
        if folder not in real:
            real[folder] = os.path.realpath(folder)
        try:
            state = os.stat(file)
        except OSError:
            facts.append(f"{real[folder]}\0{name}")
        else:
            facts.append(f"{real[folder]}\0{name}\0{state.st_size}\0{state.st_mtime_ns}")
    return hashlib.sha256("\n".join(facts).encode(errors="surrogateescape")).hexdigest()


def crop(image: NDArray[Pixel], sample: Sample, patch: int, scale: int) -> NDArray[Pixel]:
    """(scale*h, scale*w, 3) -> (3, scale*patch, scale*patch), a contiguous copy, mirrored and rotated."""
    return crop_view(image, sample, patch, scale).copy()


def crop_view(image: NDArray[Pixel], sample: Sample, patch: int, scale: int) -> NDArray[Pixel]:
    """The same without a copy."""
    top, left, side = scale * sample.y, scale * sample.x, scale * patch
    crop = image[top : top + side, left : left + side]
    if sample.flip:
        crop = crop[:, ::-1]
    return np.rot90(crop, sample.rotate).transpose(2, 0, 1)


def _reopen(folder: Path, digest: str) -> ImageStore:
    store = ImageStore.open(folder)
    if store.digest != digest:
        raise ValueError(f"the image store in {folder} was built anew with other images: start the run again")
    return store
