"""Pictures inside a page: as data URIs, and no more of them than a page can carry."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

MOST_BYTES = 3_000_000
"""Of all pictures of a page; details beyond that lie in the run's folder alone."""


def data_uri(file: Path, quality: int | None = None) -> str:
    """A picture as WebP: pixel by pixel as it is or, with a `quality` from 0 to 100, smaller."""
    packed = io.BytesIO()
    with Image.open(file) as image:
        how: dict[str, Any] = {"lossless": True} if quality is None else {"quality": quality}
        image.save(packed, "WEBP", **how)
    return f"data:image/webp;base64,{base64.b64encode(packed.getvalue()).decode()}"


def details_that_fit(
    folder: Path, details: Sequence[Mapping[str, Any]], most_bytes: int = MOST_BYTES
) -> Iterator[tuple[Mapping[str, Any], str, dict[str, str]]]:
    """Entries of the index of details -> (entry, URI of the whole photograph, label -> URI of its panel).

    In their order as long as there is room, the first in any case. What has lost a file is left out.
    """
    used = 0
    for entry in details:
        if not all((folder / file).is_file() for file in (entry["whole"], *entry["panels"].values())):
            continue
        whole = data_uri(folder / entry["whole"], quality=80)
        panels = {label: data_uri(folder / file) for label, file in entry["panels"].items()}
        size = len(whole) + sum(map(len, panels.values()))
        if used and used + size > most_bytes:
            return
        used += size
        yield entry, whole, panels
