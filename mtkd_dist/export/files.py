"""Files that appear together, once all of them are written and found to be right, or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def appear_together(folder: Path) -> Iterator[Path]:
    """An empty folder within `folder`; what lies in it at the end of the block is moved to `folder`, if nothing failed.

    It writes over files of the same names.
    """
    with tempfile.TemporaryDirectory(prefix=".mtkd-export-", dir=folder) as fresh:
        yield Path(fresh)
        for file in sorted(Path(fresh).iterdir()):
            os.replace(file, folder / file.name)
