"""How much of a GPU's memory a trial may take. Pure."""

from __future__ import annotations

CONTEXT_BYTES = 640 << 20
"""What a process takes of a card beside its tensors: the CUDA context with its kernels, about half a gigabyte."""


def memory_fraction(share: float, card_bytes: int) -> float:
    """The part of a card for the tensors of one process, so that with its context it takes no more than `share`.

    Args:
        share: part of the card that the process reserved, above 0 and at most 1.
        card_bytes: memory of the card.

    Errors: ValueError where the share is not more than a context.
    """
    fraction = share - CONTEXT_BYTES / card_bytes
    if fraction <= 0:
        raise ValueError(
            f"trial.gpus: {share:g} of a card with {card_bytes / 2**30:.1f} GiB is no more than the "
            f"{CONTEXT_BYTES / 2**30:.2f} GiB that CUDA takes in every process; give trials a larger part"
        )
    return fraction
