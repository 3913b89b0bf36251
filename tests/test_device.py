from __future__ import annotations

import threading

import torch

from mtkd_dist.pools.device import use_threads


def test_a_worker_takes_numbers_that_are_slow_to_compute_with_for_zeros() -> None:
    products: list[float] = []

    def work() -> None:
        torch.set_flush_denormal(False)
        products.append((torch.tensor(1e-30) * torch.tensor(1e-10)).item())
        use_threads(torch.get_num_threads())
        products.append((torch.tensor(1e-30) * torch.tensor(1e-10)).item())

    # In a thread of its own: the other tests keep their arithmetic.
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert products[0] > 0
    assert products[1] == 0
