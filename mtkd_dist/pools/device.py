"""The one place that decides where a worker's tensors live and how many threads it uses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


def pick_device(reserved_gpu: bool, index: int = 0) -> torch.device:
    """The GPU that the worker reserved, or the CPU: without a reservation, and where Ray's GPUs are only logical."""
    # float32 is to mean float32: by default cuDNN's convolutions round what goes in to 10 bits.
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda", index) if reserved_gpu and torch.cuda.is_available() else torch.device("cpu")


def use_threads(threads: int) -> None:
    """Give torch as many threads as the worker reserved cores: more of them only fight with the other pool.

    To be called before anything is computed: the threads take over how numbers below 1e-38 are treated.
    """
    # As zeros. A CPU is a hundred times slower on them, and where attention is sure of itself, its weights and
    # gradients are full of them: in the aggregator they more than doubled the time of a training step.
    torch.set_flush_denormal(True)
    torch.set_num_threads(threads)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """For what must come out the same whoever computes it: two threads add numbers in another order than one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
