"""Tracking that training never waits for: calls queue an event, one background thread delivers it."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mtkd_dist.tracking.events import (
    Event,
    RefusedError,
    legal_key,
    merged,
    metric_rows,
    param_texts,
    tag_texts,
    without_credentials,
)
from mtkd_dist.tracking.spool import Spool
from mtkd_dist.tracking.store import Store

FIRST_RETRY_SECONDS = 5.0
LONGEST_RETRY_SECONDS = 300.0
_WAITS_ALONE = ("artifact", "model")
"""What needs more than the tracking store, so that it may fail alone: the store of files, the model registry."""


def retry_delay(failures: int) -> float:
    """Seconds to wait after the n-th failed delivery in a row: 5, 10, 20, ... at most 300."""
    return min(FIRST_RETRY_SECONDS * 2.0 ** (failures - 1), LONGEST_RETRY_SECONDS)


class StageRun:
    """One MLflow run: of a stage, or of the launch as a whole. Every method only queues and returns at once."""

    def __init__(self, put: Callable[[Event], None], name: str | None):
        self._put = put
        self._name = name
        self.finished = False

    def params(self, params: Mapping[str, object]) -> None:
        """Settings; nested mappings become `a.b`. MLflow keeps a parameter's first value: one that differs at a restart
        is warned about and recorded as the tag `changed_param.<name>`."""
        self._put({"kind": "params", "run": self._name, "params": param_texts(params)})

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Numbers, with the time of this call. NaN and infinity become the tag `nonfinite.<name>`, last one wins."""
        rows, tags = metric_rows(values, step, _now_ms())
        if rows:
            self._put({"kind": "metrics", "run": self._name, "rows": rows})
        if tags:
            self._put({"kind": "tags", "run": self._name, "tags": tags})

    def tags(self, tags: Mapping[str, str]) -> None:
        """Words about the run; one that is there already gets the new text."""
        self._put({"kind": "tags", "run": self._name, "tags": tag_texts(tags)})

    def image(self, path: Path, name: str) -> None:
        """An image file as `images/<name>`, with the suffix of `path`. The file is read later: it must stay as it is
        until `Tracker.close`."""
        self._artifact(path, f"images/{name if name.endswith(path.suffix) else name + path.suffix}")

    def artifact(self, path: Path, folder: str = "") -> None:
        """A file or a whole folder under its own name, in `folder` of the run. Read later, as with `image`."""
        self._artifact(path, f"{folder}/{path.name}".lstrip("/"))

    def model(self, path: Path, weights: str, name: str, tags: Mapping[str, str], metrics: Sequence[str] = ()) -> None:
        """The network in a file as a model of this run and a version of the registered model `name`, once a file.

        Args:
            path: a file that `mtkd_dist.models.load_network` reads; read later, as with `image`.
            weights: its SHA-256.
            tags: of model and version; where these are there already, they get the new texts.
            metrics: those of this run that belong to the model.
        """
        event = {"path": str(path.resolve()), "weights": weights, "title": path.stem, "name": name}
        told = {"tags": tag_texts(tags), "metrics": [legal_key(metric) for metric in metrics]}
        self._put({"kind": "model", "run": self._name, **event, **told})

    def finish(self, status: str = "FINISHED") -> None:
        """`status`: FINISHED, FAILED or KILLED."""
        self.finished = True
        self._put({"kind": "finish", "run": self._name, "status": status, "time_ms": _now_ms()})

    def _artifact(self, path: Path, name: str) -> None:
        self._put({"kind": "artifact", "run": self._name, "path": str(path.resolve()), "name": name})


class Tracker:
    """Sends parameters, metrics, images and files to MLflow from a background thread.

    Training never waits for it or fails because of it. While MLflow cannot be reached there is one warning, and events
    line up in `<output>/mlflow_missed.jsonl`; they are sent, in order, when it answers again, now or at the next start
    in the same output folder. What MLflow will never take goes to `mlflow_refused.jsonl` with the reason, and is warned
    about once. An artifact or a model that cannot be stored waits there alone, without holding back metrics.

    A killed process loses what is still in the queue, usually less than a second of events.

    Args:
        output: folder of the launch; also holds `mlflow_runs.json`, by which a restart continues the same runs.
        experiment: MLflow experiment, created when absent.
        run_name: name of the parent run.
        warn: told about trouble, from the background thread.
    """

    def __init__(self, output: Path, experiment: str, run_name: str, warn: Callable[[str], None]):
        self._output = output
        self._experiment = experiment
        self._run_name = run_name
        self._warn = warn
        self._warned: set[str] = set()
        self._store: Store | None = None
        self._spool = Spool(output / "mlflow_missed.jsonl")
        self._refused = Spool(output / "mlflow_refused.jsonl")
        self._queue: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        # Guards the spool and the two flags below it.
        self._lock = threading.Lock()
        self._closed = False
        self._abandoned = False
        self._in_hand: list[Event] = []
        self._failures = 0
        self._retry_at = 0.0
        self._stages: list[StageRun] = []
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self.run = StageRun(self._put, None)

    def start(self, params: Mapping[str, object], tags: Mapping[str, str] = {}) -> None:
        """Begins or continues the parent run. Call once, before anything else."""
        self._output.mkdir(parents=True, exist_ok=True)
        # Events of an earlier start that still wait must go first.
        self._down = self._spool.pending
        self._thread.start()
        self._put({"kind": "run", "run": None, "name": self._run_name, "tags": dict(tags), "time_ms": _now_ms()})
        self.run.params(params)

    def stage(self, name: str) -> StageRun:
        """The child run of a stage, continued if an earlier start began it."""
        stage = StageRun(self._put, name)
        self._stages.append(stage)
        self._put({"kind": "run", "run": name, "name": name, "tags": {}, "time_ms": _now_ms()})
        return stage

    def earlier(self, name: str) -> StageRun:
        """The child run that this start or an earlier one began, as it is: neither continued nor ended by `close`."""
        return StageRun(self._put, name)

    def close(self, status: str = "FINISHED", timeout_seconds: float = 30) -> None:
        """Ends the parent and every unfinished stage with `status` and delivers what waits, for at most
        `timeout_seconds`; the rest stays in the spool for the next start. Later events go to the spool too."""
        if self._closed or not self._thread.is_alive():
            return
        for run in [*self._stages, self.run]:
            if not run.finished:
                run.finish(status)
        with self._lock:
            self._closed = True
            self._queue.put(None)
        self._thread.join(timeout_seconds)
        with self._lock:
            if self._thread.is_alive():
                self._abandoned = True
                self._keep([*self._in_hand, *_events(self._drained())])
                self._warn_once(
                    "outage", f"MLflow did not take everything within {timeout_seconds:g} s. {self._consequence()}"
                )

    def _put(self, event: Event) -> None:
        with self._lock:
            if self._closed:
                self._keep([event])
            else:
                self._queue.put(event)

    def _work(self) -> None:
        closing = False
        while not closing:
            waiting = self._collect()
            closing = None in waiting
            self._take(_events(waiting))
            if self._abandoned:
                return
            if self._spool.pending and (closing or time.monotonic() >= self._retry_at):
                self._replay()

    def _collect(self) -> list[Event | None]:
        """Everything queued; waits for the first event, or until the next replay is due."""
        wait = max(0.0, self._retry_at - time.monotonic()) if self._spool.pending else None
        try:
            return [self._queue.get(timeout=wait), *self._drained()]
        except queue.Empty:
            return []

    def _drained(self) -> list[Event | None]:
        waiting: list[Event | None] = []
        with contextlib.suppress(queue.Empty):
            while True:
                waiting.append(self._queue.get_nowait())
        return waiting

    def _take(self, events: list[Event]) -> None:
        self._in_hand = events
        if self._down:
            kept = events
        else:
            kept = self._send(events)
            if kept:
                self._back_off()
        with self._lock:
            if not self._abandoned:
                self._keep(kept)
                self._in_hand = []

    def _replay(self) -> None:
        try:
            events, broken = self._spool.read()
            for line in broken:
                self._refuse({"line": line}, "not an event; the process was probably killed while writing it")
            kept = self._send(events)
            with self._lock:
                if not self._abandoned:
                    self._spool.replace(kept)
        except OSError as error:
            self._warn_once("spool", f"{self._spool.path} cannot be used: {error}")
            self._back_off()
            return
        if kept:
            self._back_off()
        else:
            self._failures = 0

    def _back_off(self) -> None:
        self._failures += 1
        self._retry_at = time.monotonic() + retry_delay(self._failures)

    def _send(self, events: Sequence[Event]) -> list[Event]:
        """Delivers in order and returns what has to wait; decides whether MLflow is down."""
        self._down = False
        kept: list[Event] = []
        events = merged(events)
        for done, event in enumerate(events):
            try:
                self._deliver(event)
            except RefusedError as error:
                self._refuse(event, str(error))
            except Exception as error:
                kept.append(event)
                self._warn_once("outage", f"MLflow cannot be used ({_short(error)}). {self._consequence()}")
                if event["kind"] not in _WAITS_ALONE or self._store is None or not self._store.answers():
                    self._down = True
                    return kept + events[done + 1 :]
        return kept

    def _deliver(self, event: Event) -> None:
        if self._store is None:
            self._store = Store(self._output, self._experiment, self._warn)
        self._store.deliver(event)

    def _refuse(self, event: Event, reason: str) -> None:
        self._warn_once("refused", f"MLflow refused an event ({_short(reason)}); it is kept in {self._refused.path}")
        try:
            self._refused.append([{**event, "reason": without_credentials(reason)}])
        except OSError as error:
            self._warn_once("spool", f"{self._refused.path} cannot be written: {error}; refused events are lost")

    def _keep(self, events: Sequence[Event]) -> None:
        try:
            self._spool.append(events)
        except OSError as error:
            self._warn_once("spool", f"{self._spool.path} cannot be written: {error}; tracking events are lost")

    def _consequence(self) -> str:
        return f"What it missed is kept in {self._spool.path} and sent when it answers, at the latest at the next start"

    def _warn_once(self, kind: str, text: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            self._warn(text)


class Untracked(Tracker):
    """For a run that somebody else tracks: takes everything, keeps nothing."""

    def __init__(self) -> None:
        self.run = self.stage("")

    def start(self, params: Mapping[str, object], tags: Mapping[str, str] = {}) -> None:
        pass

    def stage(self, name: str) -> StageRun:
        return StageRun(lambda event: None, name)

    def close(self, status: str = "FINISHED", timeout_seconds: float = 30) -> None:
        pass


def _events(waiting: Sequence[Event | None]) -> list[Event]:
    return [event for event in waiting if event is not None]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _short(error: Exception | str) -> str:
    text = without_credentials(str(error)).strip() or repr(error)
    return text.splitlines()[0][:300]
