"""What is kept to be looked at: details of the photographs on which the models differ most, as files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from mtkd_dist.pools.detail import Detail
from mtkd_dist.pools.evaluate import Scored
from mtkd_dist.report.grid import sample_grid
from mtkd_dist.stages.manifest import write_json

FOLDER = "evaluate/details"
"""In the output folder."""
INDEX = "evaluate/details.json"
STRIPS = "samples"
IN_ALL, OF_SET = 6, 2
"""So many photographs are shown in all, and of each set at least so many."""


def most_different_photos(scored: Iterable[Scored], sets: int) -> list[Scored]:
    """The same, of which only those photographs have their detail on whose windows the models differ most.

    All that go without give it up as soon as that is known. `sets`: how many there are.
    """
    each = max(OF_SET, IN_ALL // sets)
    photos: list[Scored] = []
    kept: dict[str, list[int]] = {}
    for photo in scored:
        photos.append(photo)
        if photo.detail is None:
            continue
        of_set = kept.setdefault(photo.set, [])
        of_set.append(len(photos) - 1)
        if len(of_set) > each:
            least = min(of_set, key=lambda i: (_disagreement(photos[i]), -i))
            of_set.remove(least)
            photos[least] = photos[least]._replace(detail=None)
    return photos


def write_details(output: Path, scored: Iterable[Scored]) -> list[Path]:
    """Each panel as a PNG, an index of them, and a strip of each photograph; returns the files."""
    files: list[Path] = []
    index: list[dict[str, Any]] = []
    for photo in sorted((photo for photo in scored if photo.detail is not None), key=_disagreement, reverse=True):
        assert photo.detail is not None
        name = _free_name(f"{photo.set}-{Path(photo.image).stem}", [entry["name"] for entry in index])
        strip = output / STRIPS / f"{name}.png"
        sample_grid(photo.detail.panels, strip)
        index.append(_entry(name, photo, photo.detail))
        files += [strip, *_write_panels(output, index[-1], photo.detail)]
    if index:
        write_json(output / INDEX, index)
        files.append(output / INDEX)
    return files


def remove_details(output: Path, files: Iterable[str]) -> None:
    """Of `files`, relative to `output`, those that `write_details` wrote: the next ones may be of other photographs."""
    for file in files:
        if file.startswith((f"{STRIPS}/", f"{FOLDER}/")):
            (output / file).unlink(missing_ok=True)


def _entry(name: str, photo: Scored, detail: Detail) -> dict[str, Any]:
    """Of the index: where its files lie, relative to the output folder, and what is to be said of them."""
    return {
        "name": name,
        "set": photo.set,
        "image": photo.image,
        "scale": photo.scale,
        "window": detail.window._asdict(),
        "height": detail.height,
        "width": detail.width,
        "whole": f"{FOLDER}/{name}/whole.png",
        "panels": {label: f"{FOLDER}/{name}/{i:02}.png" for i, label in enumerate(detail.panels)},
        "scores": photo.scores,
    }


def _write_panels(output: Path, entry: dict[str, Any], detail: Detail) -> list[Path]:
    pictures = {entry["panels"][label]: image for label, image in detail.panels.items()}
    pictures[entry["whole"]] = detail.whole
    for file, image in pictures.items():
        (output / file).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(output / file)
    return [output / file for file in pictures]


def _free_name(name: str, taken: list[str]) -> str:
    """`name`, or with a number where two photographs of a set differ only in folder or suffix."""
    names = [name, *(f"{name}-{number}" for number in range(2, len(taken) + 2))]
    return next(one for one in names if one not in taken)


def _disagreement(photo: Scored) -> float:
    return photo.detail.window.disagreement if photo.detail is not None else 0.0
