"""Batches of the teacher pool, taken from the links that lead to it."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import ray
import torch
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError

from mtkd_dist.methods import Batch
from mtkd_dist.pools.errors import root_cause
from mtkd_dist.pools.link import LinkError
from mtkd_dist.pools.shards import split_slots
from mtkd_dist.pools.wire import Answer
from mtkd_dist.train.source import Share, batch_of

logger = logging.getLogger(__name__)

NEW_LINK_SECONDS = 60.0
"""So long a student waits for another link in the place of a dead one."""
SILENT_SECONDS = 60.0
"""A link that tells not even its own numbers within this time is given up."""
POLL_SECONDS = 0.2
READ_SECONDS, READ_FACTOR = 2.0, 20.0
"""Answers that take longer to read than this, and than this many times what the slowest of the last reads took, are
made again."""
FIRST_READ_SECONDS, READS_NEEDED = 60.0, 5
"""The same while fewer reads are known."""
MOST_READS = 6
"""Of one step, each with twice the patience of the one before, until it is given up."""
UNREADABLE = (ObjectLostError, RayActorError, GetTimeoutError)


class LinkSource:
    """Takes answers of the teacher pool from the links, as one rank of one attempt of the student group.

    The links are asked for a step as soon as the batch before it is made, so that nobody waits for the question to
    travel. What they say of it, errors too, counts when that step is fetched.

    Args:
        find_links: returns the handles of the `LinkActor`s as they are now. When one of them has died, they are asked
            for again, and attached to at the step that is needed next.
        attempt: fences off students of smaller numbers.

    Errors of `fetch`: LinkError when the links cannot deliver, StaleAttempt when a newer attempt has attached.
    """

    def __init__(
        self,
        find_links: Callable[[], list[Any]],
        attempt: int,
        rank: int,
        world_size: int,
        share: Share,
        device: torch.device,
        channels_last: bool = False,
    ) -> None:
        self.share = share
        self._find_links = find_links
        self._attempt = attempt
        self._rank = rank
        self._world_size = world_size
        self._device = device
        self._channels_last = channels_last
        self._links: list[Any] = []
        self._asked: dict[int, list[Any]] = {}
        self._read_seconds: deque[float] = deque(maxlen=50)

    def fetch(self, step: int) -> Batch:
        batch = batch_of(self._take(step), self._device, self._channels_last)
        # Not earlier: it says that the answers of this step are in the rank's own memory, and may be freed.
        self._asked = {step + 1: self._ask(step + 1)}
        return batch

    def _take(self, step: int) -> list[Answer]:
        dead_since: float | None = None
        patience = self._patience_seconds()
        reads = 0
        while True:
            try:
                if not self._links:
                    self._links = self._attach(step)
                answers, unreadable = self._read(self._references(step), patience)
                if not unreadable:
                    return answers
                # The node that held them is gone, or does not answer: the teachers do it again.
                reads += 1
                if reads == MOST_READS:
                    raise LinkError(
                        f"the answers of step {step}, slots {unreadable}, could not be read {reads} times in a row, "
                        f"the last time within {patience:g} s, although they were made anew each time: is the object "
                        "store of this node full (ray memory says so), or the network between nodes down? The same "
                        "command goes on from the newest checkpoint"
                    )
                logger.warning("step %d: the answers of slots %s cannot be read and are made again", step, unreadable)
                patience *= 2
                dead_since = None
                runs = self._by_link(unreadable)
                lost = [link.lost.remote(self._attempt, step, run) for link, run in runs if run]
                _answers_of(self._links, lost)
            except RayActorError as error:
                self._links, self._asked = [], {}
                dead_since = dead_since or time.monotonic()
                if time.monotonic() - dead_since > NEW_LINK_SECONDS:
                    raise LinkError(
                        f"the link died and no other took its place within {NEW_LINK_SECONDS:g} s (step {step}): is "
                        f"the process that started the run still there? {root_cause(error)}"
                    ) from error
                time.sleep(POLL_SECONDS)

    def _attach(self, step: int) -> list[Any]:
        links = self._find_links()
        plan = self.share.plan.digest
        calls = [link.attach.remote(self._attempt, self._rank, self._world_size, step, plan) for link in links]
        _answers_of(links, calls)
        return links

    def _ask(self, step: int) -> list[Any]:
        """Where the links' answers will be. One that has no slot of this rank is told as well how far it is."""
        runs = self._by_link(self.share.slots)
        return [link.take.remote(self._attempt, self._rank, step, run) for link, run in runs]

    def _references(self, step: int) -> dict[int, Any]:
        """By slot, in order. Those that are left out are noted, and not in it."""
        calls = self._asked.pop(step, None) or self._ask(step)
        taken = [ref for refs in _answers_of(self._links, calls) for ref in refs]
        refs = {slot: ref for slot, ref in zip(self.share.slots, taken, strict=True) if ref is not None}
        if not refs:
            raise LinkError(
                f"all samples of rank {self._rank} at step {step} are skipped (link.on_deadly: skip), so there is "
                "nothing to train it on. Begin the stage anew (--on-change restart) with a smaller link.slot_size, "
                "which skips fewer samples at a time, or take fewer student workers"
            )
        # As of this time: a new link asks the teachers again for what an earlier one had given up.
        self.share.skipped.pop(step, None)
        if len(refs) < len(taken):
            self.share.skipped[step] = [slot for slot in self.share.slots if slot not in refs]
        return refs

    def _by_link(self, slots: list[int]) -> list[tuple[Any, list[int]]]:
        """Each link with those of `slots` that it has."""
        return list(zip(self._links, split_slots(slots, self.share.slots_per_step, len(self._links)), strict=True))

    def _read(self, refs: dict[int, Any], patience: float) -> tuple[list[Answer], list[int]]:
        """The answers, or the slots of those that cannot be read."""
        began = time.monotonic()
        try:
            answers = ray.get(list(refs.values()), timeout=patience)
        except UNREADABLE:
            if unreadable := [slot for slot, ref in refs.items() if not _is_readable(ref)]:
                return [], unreadable
            return self._read(refs, patience)  # the last of them has just come
        self._read_seconds.append(time.monotonic() - began)
        return answers, []

    def _patience_seconds(self) -> float:
        """Ray notices the death of a node after 12 s; who waits for an answer on it should not wait for that."""
        if len(self._read_seconds) < READS_NEEDED:
            return FIRST_READ_SECONDS
        return max(READ_SECONDS, READ_FACTOR * max(self._read_seconds))


def _answers_of(links: list[Any], calls: list[Any]) -> list[Any]:
    """What the links answer, however long the teachers take: only a link that does not speak at all is given up.

    Errors: LinkError then; those of the calls.
    """
    while True:
        with contextlib.suppress(GetTimeoutError):
            answers: list[Any] = ray.get(calls, timeout=SILENT_SECONDS)
            return answers
        try:
            ray.get([link.stats.remote() for link in links], timeout=SILENT_SECONDS)
        except GetTimeoutError as error:
            raise LinkError(
                f"the link lives and has not answered for {SILENT_SECONDS:g} s: its process hangs, or the network to "
                "its node, where the run was started, does; look at its log there and give the same command again"
            ) from error


def _is_readable(ref: Any) -> bool:
    try:
        ray.get(ref, timeout=0.1)
    except UNREADABLE:
        return False
    return True
