"""Places that are no path of this machine: URLs of anything that fsspec reads (s3://, gs://, https://, sftp://, ...).

Images are memory-mapped and weights are hashed, so both are read from files: what a URL holds is fetched once into a
folder of this machine, and again where it has changed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

TRANSFERS = 8
"""Files that are fetched at a time."""
RECORD = "fetched.jsonl"

Tell = Callable[[str], None]


def is_url(place: str) -> bool:
    """`s3://bucket/photos` is one, `runs/x` and `Set5=photos` are none."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", place) is not None


def is_remote(place: str) -> bool:
    """A URL of something else than files of this machine."""
    return is_url(place) and not place.startswith(("file://", "local://"))


def cache_folder() -> Path:
    """Where copies of what URLs hold lie on this machine."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mtkd-dist"


def local_path(place: str, tell: Tell) -> Path:
    """A path as it is; for a URL, the path of an up-to-date copy of the file or folder there.

    The copy keeps the last two names of the URL, by which data sets are recognised. Only what is new or has changed
    (by what the store says: size, ETag, time) is fetched, which `tell` hears of; each file appears whole or not at all.
    Errors: ValueError for a URL that cannot be read, naming it and the reason.
    """
    if not is_url(place):
        return Path(place)
    fs, path = open_url(place)
    if not is_remote(place):
        return Path(path)
    home = folder_of(place, "inputs")
    home.mkdir(parents=True, exist_ok=True)
    with (home / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run that fetches the same is waited for
        return _Copy(fs, path, place, home).refresh(tell)


def open_url(url: str) -> tuple[Any, str]:
    """fsspec's file system and the path in it. Errors: ValueError."""
    try:
        fs, path = fsspec.url_to_fs(url)
    except ImportError as error:
        raise ValueError(f"{url}: {error}; install that package beside mtkd-dist") from None
    except Exception as error:
        raise ValueError(f"{url} cannot be used: {error}") from error
    if type(fs) is MemoryFileSystem:
        raise ValueError(f"{url}: memory:// is seen by one process alone; give a folder, or a URL such as s3://...")
    return fs, path


def folder_of(url: str, kind: str) -> Path:
    """A folder of this machine for what belongs to `url`."""
    return cache_folder() / kind / hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:16]


def files_at(fs: Any, path: str, url: str) -> dict[str, dict[str, Any]]:
    """Path below `path` -> what the store says about the file; "" where `path` is a file itself.

    Errors: ValueError for a name that would leave the folder; whatever the file system raises.
    """
    fs.invalidate_cache()
    root = path.rstrip("/") + "/"
    try:
        if (info := fs.info(path))["type"] == "file":
            return {"": info}
        found = {name.removeprefix(root): info for name, info in fs.find(path, detail=True).items()}
    except FileNotFoundError:
        return {}
    for name in found:
        if ".." in name.split("/") or name.startswith("/"):
            raise ValueError(f"{url} holds the name {name!r}, which leads out of its folder")
    return {name: info for name, info in found.items() if name and not name.endswith("/")}


def get_file(fs: Any, remote: str, local: Path, size: int | None) -> None:
    """Fetch one file; it appears whole or not at all. `size` in bytes, where the store knows it."""
    local.parent.mkdir(parents=True, exist_ok=True)
    with _beside(local) as fresh:
        fs.get_file(remote, str(fresh))
        if size is not None and fresh.stat().st_size != size:
            raise OSError(f"{remote} came with {fresh.stat().st_size} of {size} bytes")
        os.replace(fresh, local)


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Path]:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


class _Copy:
    """What this machine has of one URL."""

    def __init__(self, fs: Any, path: str, url: str, home: Path) -> None:
        self._fs, self._path, self._url, self._home = fs, path.rstrip("/"), url, home
        self._target = home.joinpath(*PurePosixPath(self._path.strip("/")).parts[-2:])

    def refresh(self, tell: Tell) -> Path:
        try:
            there = files_at(self._fs, self._path, self._url)
        except (OSError, RuntimeError) as error:
            raise ValueError(f"{self._url} cannot be read: {type(error).__name__}: {error}") from error
        if not there:
            raise ValueError(f"{self._url} does not exist or holds no files")
        wanted = {name: _identity(info) for name, info in there.items()}
        have = self._have()
        missing = [name for name, identity in wanted.items() if have.get(name) != identity]
        self._leave_only(wanted)
        if missing:
            bytes_ = sum(there[name].get("size") or 0 for name in missing)
            tell(f"fetching {self._url}: {len(missing)} of {len(wanted)} files, {bytes_ / 1e6:.1f} MB")
            self._fetch({name: wanted[name] for name in missing}, there)
        return self._target

    def _local(self, name: str) -> Path:
        return self._target / name if name else self._target

    def _have(self) -> dict[str, str]:
        """Name -> identity of what was fetched before and is still there. A half-written line is no record."""
        have: dict[str, str] = {}
        with contextlib.suppress(FileNotFoundError):
            for line in (self._home / RECORD).read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError):
                    record = json.loads(line)
                    have[record["name"]] = record["identity"]
        return {name: identity for name, identity in have.items() if self._local(name).is_file()}

    def _leave_only(self, wanted: dict[str, str]) -> None:
        """What the URL no longer holds is no longer a part of the data set."""
        if "" in wanted:
            if self._target.is_dir():
                shutil.rmtree(self._target)
            return
        if self._target.is_file():
            self._target.unlink()
        for file in self._target.rglob("*") if self._target.is_dir() else ():
            if file.is_file() and file.relative_to(self._target).as_posix() not in wanted:
                file.unlink()

    def _fetch(self, wanted: dict[str, str], there: dict[str, dict[str, Any]]) -> None:
        def fetch(name: str) -> str:
            remote = f"{self._path}/{name}" if name else self._path
            get_file(self._fs, remote, self._local(name), there[name].get("size"))
            return name

        with (self._home / RECORD).open("a", encoding="utf-8") as record, ThreadPoolExecutor(TRANSFERS) as pool:
            try:
                for name in pool.map(fetch, wanted):
                    record.write("\n" + json.dumps({"name": name, "identity": wanted[name]}))
                    record.flush()
            except (OSError, RuntimeError) as error:
                pool.shutdown(cancel_futures=True)
                raise ValueError(f"{self._url} cannot be read: {type(error).__name__}: {error}") from error


def _identity(info: dict[str, Any]) -> str:
    """Tells a file from what it was before, by all that the store says of it (size, ETag, times)."""
    return hashlib.sha256(json.dumps(info, sort_keys=True, default=str).encode()).hexdigest()
