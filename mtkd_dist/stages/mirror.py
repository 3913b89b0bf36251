"""An output folder that is a URL: a working folder of this machine, brought down at the start and up while it changes.

Checkpoints, manifests and MLflow's data base need a file system, and object stores are none. So a launch works in a
folder of its own, and a thread brings what has changed to the URL. On another machine, the same command goes on there.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import sqlite3
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mtkd_dist.data.remote import Tell, files_at, folder_of, get_file, is_remote, local_path, open_url

PASS_SECONDS = 20.0
"""Between two looks at what has changed, and between two signs of life."""
SILENT_SECONDS = 90.0
"""A launch elsewhere that gives no sign of life for so long is taken for dead."""
LEFT_HERE = ("images", "teacher-outputs")
"""Can be made again from the photographs and the weights, and may be larger than all the rest."""
WRITER = ".mtkd-launch.json"
"""At the URL: which working folder was brought up last, and whether its launch is still at work."""
RECORD = ".mirror.json"
"""In the working folder: its id, and what the URL has of it. Without it, the folder is no copy of anything."""
LOG = "launch.log"

Stat = tuple[int, int]  # bytes, time of change in ns


class MirrorError(ValueError):
    """An output URL cannot be used; the message says why, and where the work is."""


def working_folder(output: str) -> Path:
    """Where a launch writes: `output` itself, or a folder of this machine where that is a URL.

    Errors: MirrorError for a URL of no known kind; whether it answers is not asked here.
    """
    if not is_remote(output):
        return local_path(output, print).resolve()
    try:
        open_url(output)
    except ValueError as error:
        raise MirrorError(f"output: {error}") from error
    return folder_of(output, "outputs") / output.rstrip("/").rpartition("/")[2]


@contextlib.contextmanager
def mirrored(output: str, folder: Path, tell: Tell) -> Iterator[None]:
    """Keeps the URL `output` as `folder` is, for as long as the block lasts; does nothing where `output` is a path.

    The caller makes sure that no other process of this machine works in `folder`.
    Errors: MirrorError when the URL cannot be used, a launch elsewhere is at work there, or the end could not be
    brought up. An outage in between is told once, and made up for.
    """
    if not is_remote(output):
        yield
        return
    mirror = Mirror(output, folder, tell)
    mirror.claim()
    ended = threading.Event()
    threads = [threading.Thread(target=_every, args=(ended, f), daemon=True) for f in (mirror.beat, mirror.pass_on)]
    for thread in threads:
        thread.start()

    def end() -> None:
        ended.set()
        for thread in threads:
            thread.join()
        mirror.finish()

    try:
        yield
    except BaseException:
        try:
            end()
        except MirrorError as error:  # the run's own error is the one to end with
            tell(f"warning: {error}")
        raise
    end()


def _every(ended: threading.Event, call: Callable[[], None]) -> None:
    while not ended.wait(PASS_SECONDS):
        call()


class Mirror:
    """One working folder and its URL."""

    def __init__(self, url: str, folder: Path, tell: Tell) -> None:
        self._url, self._folder, self._tell = url.rstrip("/"), folder, tell
        self._fs, path = open_url(url)
        self._root = path.rstrip("/")
        self._id = uuid.uuid4().hex
        self._sent: dict[str, Stat] = {}
        self._beats = 0
        self._told = False
        self._lost = False

    def claim(self) -> None:
        """Make sure that nobody else is at work there, and that the working folder is what the URL holds."""
        with self._reachable():
            last = self._wait_for_silence()
            if last is not None and last["folder"] == self._record().get("id"):
                # This folder is what was brought up last; at most it knows more.
                self._id = last["folder"]
                self._sent = {name: (size, time_ns) for name, (size, time_ns) in self._record()["sent"].items()}
            else:
                self._down(last)
            self._sign(at_work=True)

    def beat(self) -> None:
        """A sign of life; and a look whether somebody else has taken over."""
        with contextlib.suppress(Exception):  # an outage: passing files on will tell it
            last = self._writer()
            if last is not None and last["folder"] != self._id:
                self._lost = True
            elif not self._lost:
                self._beats += 1
                self._sign(at_work=True)

    def pass_on(self) -> None:
        """Bring up what has changed; an outage is told once, and the next call tries again."""
        try:
            self.up()
        except Exception as error:
            if not self._told:
                self._tell(f"warning: {self._url} cannot be written ({_words(error)}); what it misses is sent later")
            self._told = True
        else:
            self._told = False

    def up(self) -> None:
        """Bring up what has changed: a result before the manifest that names it, deletions last."""
        if self._lost:
            return
        # Listed first: whatever a log says by then about a checkpoint of the list, it says when it is sent.
        files = self._files()
        for name in sorted((name for name, stat in files.items() if self._sent.get(name) != stat), key=_rank):
            with contextlib.suppress(FileNotFoundError):  # gone since; the next pass deletes it there
                self._send(name)
                self._sent[name] = files[name]
                self._keep_record()
        for name in sorted(self._sent.keys() - files.keys()):
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(f"{self._root}/{name}")
            del self._sent[name]
            self._keep_record()

    def finish(self) -> None:
        """Bring up the rest and step back. Errors: MirrorError."""
        self.beat()
        if self._lost:
            raise MirrorError(
                f"output: another launch has taken over {self._url}, because this one gave no sign of life for "
                f"{SILENT_SECONDS:.0f} s; what this one made since lies in {self._folder}"
            )
        try:
            self.up()
            self._sign(at_work=False)
        except Exception as error:
            raise MirrorError(
                f"output: the end of this run is in {self._folder}, and could not be brought to {self._url} "
                f"({_words(error)}); the same command on this machine brings it up"
            ) from error

    def _wait_for_silence(self) -> dict[str, Any] | None:
        """What the last writer left, once it is sure that it is at work no more."""
        last = self._writer()
        if last is None or not last["at_work"] or last["folder"] == self._record().get("id"):
            return last
        self._tell(f"output  a launch on {last['host']} may be at work in {self._url}; watching for a sign of life")
        until = time.monotonic() + SILENT_SECONDS
        while time.monotonic() < until:
            time.sleep(min(PASS_SECONDS, SILENT_SECONDS) / 4)
            now = self._writer()
            if now != last and now is not None and now["at_work"]:
                raise MirrorError(
                    f"output: another launch is at work in {self._url}, on {now['host']} (process {now['process']}); "
                    "wait for it, or give --output"
                )
            if now != last:
                return now
        return last

    def _down(self, last: dict[str, Any] | None) -> None:
        """Replace the working folder by what the URL holds."""
        (self._folder / RECORD).unlink(missing_ok=True)
        for entry in self._folder.iterdir():
            if entry.name in (*LEFT_HERE, LOG) or entry.name.startswith("."):
                continue
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        there = {name: info for name, info in files_at(self._fs, self._root, self._url).items() if name != WRITER}
        if "" in there:
            raise MirrorError(f"output: {self._url} is a file; expected a folder, or nothing yet")
        if there:
            self._tell(f"output  bringing down {len(there)} files from {self._url}")
        for name, info in there.items():
            # This launch writes its own log already.
            local = self._folder / (name if name != LOG else f"launch-{last['folder'][:8] if last else 'before'}.log")
            get_file(self._fs, f"{self._root}/{name}", local, info.get("size"))
            if name != LOG:
                self._sent[name] = _stat(local)
        self._keep_record()

    def _send(self, name: str) -> None:
        local = self._folder / name
        remote = f"{self._root}/{name}"
        self._fs.makedirs(remote.rpartition("/")[0], exist_ok=True)
        if local.suffix != ".db":
            self._fs.put_file(str(local), remote)
            return
        # A data base that is being written to is no file that can be copied.
        with tempfile.TemporaryDirectory() as scratch:
            copy = Path(scratch, local.name)
            with contextlib.closing(sqlite3.connect(local)) as source, contextlib.closing(sqlite3.connect(copy)) as to:
                source.backup(to)
            self._fs.put_file(str(copy), remote)

    def _files(self) -> dict[str, Stat]:
        files: dict[str, Stat] = {}
        for path in self._folder.rglob("*"):
            name = path.relative_to(self._folder)
            hidden = any(part.startswith(".") for part in name.parts)
            passing = path.name.endswith((".tmp", ".new", "-journal", "-wal", "-shm"))
            if hidden or passing or name.parts[0] in LEFT_HERE:
                continue
            with contextlib.suppress(FileNotFoundError):
                if path.is_file():
                    files[name.as_posix()] = _stat(path)
        return files

    def _record(self) -> dict[str, Any]:
        try:
            return json.loads((self._folder / RECORD).read_text())
        except (OSError, ValueError):
            return {}

    def _keep_record(self) -> None:
        fresh = self._folder / f"{RECORD}.new"
        fresh.write_text(json.dumps({"url": self._url, "id": self._id, "sent": self._sent}))
        os.replace(fresh, self._folder / RECORD)

    def _writer(self) -> dict[str, Any] | None:
        self._fs.invalidate_cache()
        try:
            return json.loads(self._fs.cat_file(f"{self._root}/{WRITER}"))
        except FileNotFoundError:
            return None

    def _sign(self, at_work: bool) -> None:
        who = {"folder": self._id, "host": socket.gethostname(), "process": os.getpid(), "beat": self._beats}
        self._fs.makedirs(self._root, exist_ok=True)
        self._fs.pipe_file(f"{self._root}/{WRITER}", json.dumps(who | {"at_work": at_work}).encode())

    @contextlib.contextmanager
    def _reachable(self) -> Iterator[None]:
        try:
            yield
        except MirrorError:
            raise
        except Exception as error:
            raise MirrorError(f"output: {self._url} cannot be used ({_words(error)})") from error


def _rank(name: str) -> tuple[int, str]:
    """Logs and the like, then weights and checkpoints, then what says that those are whole or done."""
    if name.endswith((".pt", ".safetensors", ".png")):
        return 1, name
    return (2 if name.endswith(("manifest.json", "scores.json")) else 0), name


def _stat(path: Path) -> Stat:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
