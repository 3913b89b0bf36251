"""Several students that learn from the same batches, each as it would alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from mtkd_dist.methods import Batch, Losses, Method

T = TypeVar("T")

MAIN = "student"
"""Name of the first student of a training, and of the only one of most."""


class Students(nn.ModuleDict):
    """Networks by name, in one order. It has no forward pass: a loss calls each network by itself."""


def each(network: nn.Module) -> dict[str, nn.Module]:
    """Name -> network, of several `Students`; any other network is the main one."""
    return dict(network.items()) if isinstance(network, Students) else {MAIN: network}


def replaced(network: nn.Module, change: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """What `change` makes of the network; of several `Students`, of each."""
    if isinstance(network, Students):
        return Students({name: change(one) for name, one in network.items()})
    return change(network)


def weights_of_each(weights: Mapping[str, T], names: Sequence[str]) -> dict[str, dict[str, T]]:
    """The resulting weights of a training (a state dict; of several students, that of `Students`), by student.

    `names`: of all its students, in order.
    """
    if len(names) == 1:
        return {names[0]: dict(weights)}
    prefixes = {name: f"{name}." for name in names}
    return {
        name: {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
        for name, prefix in prefixes.items()
    }


def joined_weights(weights: Mapping[str, Mapping[str, T]]) -> dict[str, T]:
    """The inverse of `weights_of_each`."""
    if len(weights) == 1:
        return dict(next(iter(weights.values())))
    return {f"{name}.{key}": value for name, own in weights.items() for key, value in own.items()}


def losses_together(losses: Mapping[str, Losses]) -> Losses:
    """Of one student its own; of several the sum, whose parts are called NAME/loss and NAME/PART."""
    if len(losses) == 1:
        return next(iter(losses.values()))
    parts: dict[str, Tensor] = {}
    for name, (total, own) in losses.items():
        parts |= {f"{name}/loss": total} | {f"{name}/{part}": value for part, value in own.items()}
    return Losses(torch.stack([total for total, _ in losses.values()]).sum(), parts)


def learn(
    students: Mapping[str, nn.Module], method: Method, batch: Batch, weight: float, seed: Callable[[], None]
) -> Losses:
    """Adds to every student the gradient of `weight` x its loss; returns the losses together.

    One after the other, forward and backward: the activations of one student are in memory at a time.

    Args:
        students: name -> network, perhaps wrapped.
        seed: called before each, so that it draws what it would draw alone.
    """
    losses: dict[str, Losses] = {}
    for name, student in students.items():
        seed()
        losses[name] = method.loss(student, batch)
        # The gradient is NaN where the loss is not finite: abs() hides a NaN from the gradient, and it is the gradient
        # by which the other ranks hear of it.
        losses[name].total.backward(weight + 0 * losses[name].total.detach())
    return losses_together(losses)


def clip_gradients(network: nn.Module, most: float) -> Tensor:
    """Scale the gradient of each student down to the norm `most` (0: leave it); returns the norm before, of all
    students together: where it is not finite, no student takes the step."""
    norms: list[Tensor] = []
    for student in each(network).values():
        gradients = [parameter.grad for parameter in student.parameters() if parameter.grad is not None]
        norms.append(nn.utils.get_total_norm(gradients))
        if most:
            nn.utils.clip_grads_with_norm_(student.parameters(), most, norms[-1])
    return norms[0] if len(norms) == 1 else torch.stack(norms).norm()
