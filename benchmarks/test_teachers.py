"""How fast frozen teachers answer, against a plain float32 loop, and what that costs in PSNR.

    pytest benchmarks/test_teachers.py --write

Needs the real weights and Set5 of a folder `shared/` beside the checkout. Speed: patches as training asks for them, all
variants in turns, images/s of the fastest round; PSNR-Y: mean of Set5. On a GPU the variants are captured graphs. On a
CPU a second table of the same file tells what threads of one worker are worth.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.results_table import Table
from mtkd_dist.data import ImageStore, build_store, find_photos
from mtkd_dist.metrics import from_uint8, score, to_uint8
from mtkd_dist.models import load_network
from mtkd_dist.pools.device import pick_device, use_threads
from mtkd_dist.pools.inference import Frozen

SCALE, PATCH = 4, 48
TEACHERS = {"DCTLSA": "DCTLSA_x4.pt", "CRAFT": "CRAFT_x4_ntire2024_team34.pth", "RLFN": "rlfn_x4.pth"}
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
ROUNDS, WARM_UP = 8, 2


@pytest.fixture(scope="module")
def table() -> Table:
    table = Table("teachers", ["teacher", "how", "threads", "images/s", "x plain", "PSNR-Y, dB", "difference, dB"])
    if not torch.cuda.is_available():
        table.left_out["GPU"] = "no CUDA device: captured graphs and float16 not yet measured"
    table.notes.append(
        f"{PATCH}x{PATCH} LR pixels, x{SCALE}. plain: the network as it is loaded, under no_grad. The others: "
        "as workers run them (channels_last; on a GPU captured). x plain: with the same number of threads."
    )
    return table


@pytest.fixture(scope="module")
def shared() -> Path:
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("real weights are not at hand: shared/ beside the checkout is absent")
    return folder


@pytest.fixture(scope="module")
def photographs(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    photos = find_photos(shared / "data/test/Set5", SCALE).photos
    return build_store(photos, SCALE, tmp_path_factory.mktemp("set5") / "store")


def images_per_second(calls: dict[str, Callable[[], Tensor]], images: int, device: torch.device) -> dict[str, float]:
    """The fastest of several rounds in turns."""
    best = dict.fromkeys(calls, 0.0)
    for round_ in range(WARM_UP + ROUNDS):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if round_ >= WARM_UP:
                best[name] = max(best[name], images / (time.perf_counter() - began))
    return best


def psnr(network: Callable[[Tensor], Tensor], store: ImageStore, device: torch.device) -> float:
    answers = (to_uint8(network(from_uint8(store.lr(i), device))[0]) for i in range(len(store)))
    return float(np.mean([score(sr, store.hr(i), SCALE)[0] for i, sr in enumerate(answers)]))


@pytest.mark.parametrize("teacher", TEACHERS)
def test_speed_and_loss_of_a_teacher(teacher: str, shared: Path, photographs: ImageStore, table: Table) -> None:
    device = pick_device(reserved_gpu=True)
    plain: nn.Module = load_network(shared / "weights" / TEACHERS[teacher], scale=SCALE).module.to(device).eval()
    variants: dict[str, nn.Module] = {"plain": plain} | {
        name: Frozen(teacher, copy.deepcopy(plain), SCALE, device, dtype) for name, dtype in DTYPES.items()
    }
    batch = 16 if device.type == "cuda" else 4
    images = torch.rand(batch, 3, PATCH, PATCH, device=device)

    def answer(network: nn.Module) -> Tensor:
        with torch.no_grad():
            return network(images)

    with torch.no_grad():
        scores = {name: psnr(network, photographs, device) for name, network in variants.items()}
    threads = [0] if device.type == "cuda" else [1, 2]
    for count in threads:
        if count:
            use_threads(count)
        calls = {name: (lambda network=network: answer(network)) for name, network in variants.items()}
        rates = images_per_second(calls, batch, device)
        for name, rate in rates.items():
            table.add(
                teacher,
                name,
                str(count or "–"),
                f"{rate:.1f}",
                f"{rate / rates['plain']:.2f}",
                f"{scores[name]:.3f}",
                f"{scores[name] - scores['plain']:+.4f}",
            )
    assert all(abs(value - scores["plain"]) <= 0.01 for name, value in scores.items() if name != "bfloat16")
