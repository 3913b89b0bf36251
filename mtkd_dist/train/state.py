"""Everything that one training carries from step to step, in one place, so that one checkpoint holds it all."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

from mtkd_dist.config.tree import TrainingConfig
from mtkd_dist.methods import shipped
from mtkd_dist.train.students import replaced


class TrainState:
    """Model, EMA, optimizer and the next step of the plan. Of several `Students`, Adam treats every weight by itself.

    Weights and EMA never take a step that is not finite, nor any after it: the device itself decides that, so that
    nobody has to wait for it. Schedule and randomness need no place here: `learning_rate` is a function of
    (configuration, step), and `seed_step` makes randomness one of (seed, step, rank).
    """

    def __init__(self, model: nn.Module, config: TrainingConfig) -> None:
        self.model = model
        self._config = config
        self.ema = copy.deepcopy(model).requires_grad_(False) if config.ema > 0 else None
        # The fused kernels are those that heed `found_inf`.
        self.optimizer = Adam(model.parameters(), lr=learning_rate(config, 0), fused=True)
        self.step = 0
        self._stopped = torch.zeros((), device=next(model.parameters()).device)
        """1 from the first gradient on that was not finite; on the device."""

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return learning_rate(self._config, self.step)

    def update(self, gradient_norm: Tensor) -> None:
        """One step with the gradients that the model holds: weights, EMA, and the plan's next step."""
        self._stopped = torch.maximum(self._stopped, (~gradient_norm.isfinite()).float())
        self.optimizer.found_inf = self._stopped  # type: ignore[attr-defined]
        self.optimizer.param_groups[0]["lr"] = self.learning_rate
        self.optimizer.step()
        if self.ema is not None:
            self._average(self.ema)
        self.step += 1

    @torch.no_grad()
    def _average(self, ema: nn.Module) -> None:
        """The first step is copied, later ones are weighed in. Torch's AveragedModel would wait for the GPU each step,
        and it rounds indices down when it averages them."""
        pairs = [
            (average, value)
            for of_ema, of_model in ((ema.parameters, self.model.parameters), (ema.buffers, self.model.buffers))
            for average, value in zip(of_ema(), of_model(), strict=True)
            if average.is_floating_point()
        ]
        averages, values = [average for average, _ in pairs], [value for _, value in pairs]
        if self.step == 0:
            torch._foreach_copy_(averages, values)
            return
        changes = torch._foreach_sub(values, averages)
        torch._foreach_mul_(changes, (1 - self._config.ema) * (1 - self._stopped))
        torch._foreach_add_(averages, changes)

    def result(self) -> dict[str, Tensor]:
        """The weights that the training is for: the EMA where there is one, without what the method adds.

        Of several students see `mtkd_dist.train.students.weights_of_each`.
        """
        return replaced(self.model if self.ema is None else self.ema, shipped).state_dict()

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Older checkpoints hold a "scheduler" too, which says nothing that the configuration does not."""
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        for parameter, moments in self.optimizer.state.items():
            for name, moment in moments.items():
                if moment.shape == parameter.shape:
                    # The fused kernels read both as they lie in memory, and one may come from a run in channels_last.
                    moments[name] = torch.empty_like(parameter).copy_(moment)


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Adam's rate of a step, counted from 0: of its part where there are `rates`, else halved at `halve_at`."""
    if config.rates:
        return config.rates[min(step * len(config.rates) // config.steps, len(config.rates) - 1)]
    halvings = {max(1, int(share * config.steps)) for share in config.halve_at}
    return config.learning_rate * 0.5 ** sum(at <= step for at in halvings)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Drop-path and the like depend on (seed, step, rank) alone, so a resumed run draws what the first one drew."""
    torch.manual_seed(((seed * 1_000_003 + step) * 4_099 + rank) % (1 << 63))
