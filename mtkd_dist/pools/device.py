"""The one place that decides where a worker's tensors live and how many threads it uses."""

from __future__ import annotations

import torch


def pick_device(reserved_gpu: bool, index: int = 0) -> torch.device:
    """The GPU that the worker reserved, or the CPU: without a reservation, and where Ray's GPUs are only logical."""
    return torch.device("cuda", index) if reserved_gpu and torch.cuda.is_available() else torch.device("cpu")


def use_threads(threads: int) -> None:
    """Give torch as many threads as the worker reserved cores: more of them only fight with the other pool."""
    torch.set_num_threads(threads)
