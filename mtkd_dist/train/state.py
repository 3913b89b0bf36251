"""Everything that one training carries from step to step, in one place, so that one checkpoint holds it all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import MultiStepLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mtkd_dist.config.tree import TrainingConfig

CHECKPOINT_FILE = "state.pt"


class TrainState:
    """Model, EMA, optimizer, schedule and the next step of the plan.

    Randomness needs no place here: `seed_step` makes it a function of (seed, step, rank).
    """

    def __init__(self, model: nn.Module, config: TrainingConfig) -> None:
        self.model = model
        self.ema = (
            AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema), use_buffers=True)
            if config.ema > 0
            else None
        )
        self.optimizer = Adam(model.parameters(), lr=config.learning_rate)
        self.scheduler = MultiStepLR(
            self.optimizer, sorted({max(1, int(share * config.steps)) for share in config.halve_at}), gamma=0.5
        )
        self.step = 0

    @property
    def learning_rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def advance(self) -> None:
        """After the optimizer step: schedule, EMA, and the plan's next step."""
        self.scheduler.step()
        if self.ema is not None:
            self.ema.update_parameters(self.model)
        self.step += 1

    def result(self) -> dict[str, Tensor]:
        """The weights that the training is for: the EMA where there is one."""
        network = self.model if self.ema is None else self.ema.module
        return network.state_dict()

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])

    def save(self, folder: Path) -> None:
        torch.save(self.state_dict(), folder / CHECKPOINT_FILE)

    def load(self, folder: Path, device: torch.device) -> None:
        self.load_state_dict(torch.load(folder / CHECKPOINT_FILE, map_location=device, weights_only=True))


def seed_step(seed: int, step: int, rank: int) -> None:
    """Drop-path and the like depend on (seed, step, rank) alone, so a resumed run draws what the first one drew."""
    torch.manual_seed(((seed * 1_000_003 + step) * 4_099 + rank) % (1 << 63))
