"""A PostgreSQL of its own for a test: an empty data base that ends with it."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """The URI of the data base; the test is skipped, with the reason, where there is no PostgreSQL.

    Only a socket leads to it, so that no port is taken. It never runs as root, because it refuses to.
    """
    programs = _programs()
    psycopg2 = pytest.importorskip("psycopg2", reason="no psycopg2 (pip install psycopg2-binary)")
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # the path of a socket has a hundred characters at most
    how: dict[str, Any] = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    if os.getuid() == 0:
        user = _unprivileged()
        os.chown(folder, user.pw_uid, user.pw_gid)
        how |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    try:
        made = [programs / "initdb", "-D", folder / "data", "-U", "mlflow", "--auth=trust", "--no-sync", "-E", "UTF8"]
        done = subprocess.run(made, check=False, **how)
        assert done.returncode == 0, done.stderr.decode()
        settings = ["-c", "listen_addresses=", "-c", "fsync=off", "-c", f"unix_socket_directories={folder}"]
        log = (folder / "log").open("wb")
        server = subprocess.Popen([programs / "postgres", "-D", folder / "data", *settings], **how | {"stderr": log})
        try:
            deadline = time.monotonic() + 120
            while True:
                assert server.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, (folder / "log").read_text()
                with contextlib.suppress(psycopg2.OperationalError):
                    psycopg2.connect(host=str(folder), user="mlflow", dbname="postgres").close()
                    break
                time.sleep(0.2)
            yield f"postgresql+psycopg2://mlflow@/postgres?host={folder}"
        finally:
            server.send_signal(signal.SIGQUIT)
            server.wait()
            log.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _programs() -> Path:
    """The folder of PostgreSQL's programs: Debian has those of a server outside of the path."""
    on_path = shutil.which("initdb")
    folders = [Path(on_path).parent] if on_path else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not folders or not (folders[-1] / "postgres").exists():
        pytest.skip("no PostgreSQL (Debian: apt-get install postgresql)")
    return folders[-1]


def _unprivileged() -> pwd.struct_passwd:
    with contextlib.suppress(KeyError):
        return pwd.getpwnam("postgres")
    return pwd.getpwnam("nobody")
