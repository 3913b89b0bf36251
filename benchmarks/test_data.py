"""How soon a second start has its photographs, what a crop costs, and how fast photographs are decoded into a store.

    pytest benchmarks/test_data.py

Prints one Markdown table; `--write` of this folder's conftest puts it into `benchmarks/results/data.md`. Compare rows
of one table only: the machine may be shared. The synthetic data sets have as many files as the real ones, of 8x8
pixels: a second start reads names, sizes and times of files, never pixels.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.results_table import Table
from mtkd_dist.data import (
    ImageStore,
    Photo,
    Plan,
    bicubic_downscale,
    build_store,
    demo_photos,
    find_photos,
    matlab_downscale,
    read_image,
)

SCALE, PATCH = 4, 48
WORKERS = min(8, os.cpu_count() or 1)


@pytest.fixture(scope="module")
def table() -> Table:
    return Table("data", ["what", "measured"])


@pytest.fixture(scope="module")
def photos() -> list[Photo]:
    """The PNG photographs of the demo, 512x512 to 1000x872."""
    return [Photo(str(path)) for path in demo_photos().train if path.suffix == ".png"]


@pytest.fixture(scope="module")
def store(photos: list[Photo], tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    return build_store(photos, SCALE, tmp_path_factory.mktemp("store"), workers=WORKERS)


def seconds(call: Callable[[], object], times: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """The fastest of some calls: what else runs on the machine only adds."""
    taken = []
    for _ in range(times):
        began = clock()
        call()
        taken.append(clock() - began)
    return min(taken)


def png(side: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((side, side, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def write_files(folder: Path, count: int, digits: int, after: str, content: bytes, sharded: bool = False) -> None:
    for i in range(1, count + 1):
        place = folder / f"{(i + 999) // 1000 * 1000:07}" if sharded else folder
        if i == 1 or (sharded and i % 1000 == 1):
            place.mkdir(parents=True)
        (place / f"{i:0{digits}}{after}.png").write_bytes(content)


@pytest.mark.parametrize("data_set", ["DF2K", "LSDIR", "LSDIR with LR"])
def test_second_start(table: Table, tmp_path: Path, data_set: str) -> None:
    """From the name of a folder to a store that is open, when the photographs were decoded before."""
    root = tmp_path / "data"
    if data_set == "DF2K":
        write_files(root / "DIV2K_train_HR", 800, 4, "", png(8))
        write_files(root / "Flickr2K_HR", 2650, 6, "", png(8))
    else:
        write_files(root / "HR" / "train", 85_000, 7, "", png(8), sharded=True)
        if data_set == "LSDIR with LR":
            write_files(root / "X4" / "train", 85_000, 7, "x4", png(2), sharded=True)

    def start() -> ImageStore:
        return build_store(find_photos(root, SCALE).photos, SCALE, tmp_path / "store", workers=WORKERS)

    first = seconds(start, 1)
    again = seconds(start, 10)
    of_a_core = seconds(start, 5, time.process_time)
    files = len(start()) * (2 if "LR" in data_set.split() else 1)
    table.add(
        f"second start, {data_set}, {files:,} files (the first: {first:.0f} s)",
        f"{again:.2f} s ({of_a_core:.2f} s of a core)",
    )


def test_crops(table: Table, store: ImageStore, photos: list[Photo]) -> None:
    plan = Plan(0, store.digest, tuple(store.lr_sizes), batch_size=16, patch=PATCH)
    samples = [sample for step in range(40) for sample in plan.samples(step)]
    one = seconds(lambda: [store.cut(sample, PATCH) for sample in samples], 5) / len(samples)
    decoded = seconds(lambda: [read_image(photo.hr) for photo in photos], 5) / len(photos)
    side = PATCH * SCALE
    table.add(f"crop of {PATCH}x{PATCH} LR and {side}x{side} HR pixels from the store", f"{1e3 * one:.3f} ms")
    table.add("decoding the PNG that it comes from (mean of the demo's)", f"{1e3 * decoded:.1f} ms")


def test_building(table: Table, photos: list[Photo], tmp_path: Path) -> None:
    folders = iter(range(100))
    taken = seconds(lambda: build_store(photos, SCALE, tmp_path / str(next(folders)), workers=WORKERS), 3)
    size = (tmp_path / "0" / "hr.u8").stat().st_size
    table.add(f"building a store: PNG decoded and shrunk x{SCALE}, {WORKERS} threads", f"{size / taken / 1e6:.0f} MB/s")


def test_shrinking(table: Table, store: ImageStore) -> None:
    side = PATCH * SCALE
    crop = np.ascontiguousarray(store.hr(0)[:side, :side])
    batch = torch.rand(16, 3, side, side)
    exact = seconds(lambda: matlab_downscale(crop, SCALE), 50)
    fast = seconds(lambda: bicubic_downscale(batch, SCALE), 50) / len(batch)
    table.add(f"a crop of {side}x{side} shrunk x{SCALE}, value for value", f"{1e3 * exact:.2f} ms")
    table.add(f"the same in floating point, in batches of {len(batch)}", f"{1e3 * fast:.2f} ms")
