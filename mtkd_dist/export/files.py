"""A file that appears once it is written and found to be right, or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def appears(path: Path) -> Iterator[Path]:
    """A place beside `path`, with the same ending; what lies there at the end of the block is moved to `path`."""
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
