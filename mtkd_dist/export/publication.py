"""What is said of a model where it is published: by whom, under which terms, made of what. Pure.

Nothing of it speaks of the machine that the model comes from: of paths only the last part is told.
"""

from __future__ import annotations

import dataclasses
import json
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from mtkd_dist import __version__
from mtkd_dist.config.load import ConfigError
from mtkd_dist.config.tree import Config
from mtkd_dist.export.names import identifier
from mtkd_dist.export.source import Source
from mtkd_dist.models import parse_network
from mtkd_dist.stages.check import named_set

FAMILIES = {
    "edsr": "EDSR",
    "edsr-baseline": "EDSR",
    "rcan": "RCAN",
    "rcan-light": "RCAN",
    "swinir": "SwinIR",
    "swinir-light": "SwinIR",
    "rlfn": "RLFN",
}
"""Network that can be named -> what its architecture is called elsewhere."""
_OF_THE_MACHINE = ("output", "num_gpus", "teacher_gpus", "student_gpus", "plan_only", "on_change", "cluster")


_LICENCE = r"[A-Za-z0-9.\-]+(\s+OR\s+[A-Za-z0-9.\-]+)*"
"""As the catalogue has it."""


@dataclass(frozen=True)
class Publication:
    """What only its user can know.

    Errors: ConfigError for what the catalogue could not take, with the flag that gave it.
    """

    name: str
    author: str | None = None
    licence: str | None = None
    """An SPDX expression, such as CC-BY-NC-4.0."""
    url: str | None = None
    """Where the files will lie."""

    def __post_init__(self) -> None:
        if self.author and not identifier(self.author):
            raise ConfigError(
                f"--author {self.author}: the catalogue calls authors by letters a-z and digits, and this has none; "
                "write it in Latin letters"
            )
        if self.licence and not re.fullmatch(_LICENCE, self.licence):
            raise ConfigError(
                f"--licence {self.licence}: expected an SPDX identifier, such as CC-BY-NC-4.0 or Apache-2.0 "
                "(https://spdx.org/licenses), or several with OR between them"
            )
        if self.url and not _is_web_address(self.url):
            raise ConfigError(f"--url {self.url}: expected a web address, such as https://example.org/models")


def _is_web_address(url: str) -> bool:
    if re.search(r"\s", url):
        return False
    try:
        parts = urlsplit(url)
    except ValueError:  # such as half an IPv6 address
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def architecture(source: Source) -> str:
    """EDSR, RCAN, SwinIR, RLFN, or what spandrel calls it."""
    return FAMILIES.get(source.network.architecture.partition(":")[0], source.network.architecture)


def network_sizes(source: Source) -> dict[str, Any]:
    """Width, blocks and the like of a network of ours or one of its kind; nothing is known of others."""
    name = source.network.architecture
    return dict(parse_network(name).sizes) if name.partition(":")[0] in FAMILIES else {}


def data_sets(config: Config) -> list[str]:
    """Names of what it was trained on."""
    return ["photographs of scikit-image" if entry == "demo" else named_set(entry)[0] for entry in config.data]


def licence_note(source: Source) -> str:
    """A warning that holds whatever licence its author gives the weights."""
    teachers = list(source.teachers)
    made_of = []
    if teachers:
        made_of.append(f"the answers of the teacher{'s' if teachers[1:] else ''} {listed(teachers)}")
    if source.config is not None:
        made_of.append(f"the data {listed(data_sets(source.config))}")
    if "method" in source.metadata and not made_of:
        made_of.append("data that is not known any more")
    if not made_of:
        return "The weights are those of another file; the terms of its authors hold for them."
    return (
        f"The weights derive from {' and '.join(made_of)}, whose terms may restrict what the weights may be used for "
        "and whether they may be passed on."
    )


def configuration(config: Config) -> dict[str, Any]:
    """The settings of the run without those that speak of a machine, and with names in the place of paths."""
    values = {key: value for key, value in dataclasses.asdict(config).items() if key not in _OF_THE_MACHINE}
    values["images"].pop("cache")
    values["answers"].pop("folder")
    for key in ("data", "test", "teachers"):
        values[key] = [_without_folders(entry) for entry in values[key]]
    for key in ("method", "aggregator", "student_weights"):
        values[key] = values[key] and _without_folders(values[key])
    return values


def _without_folders(entry: str) -> str:
    """`a/b.pth:name=B` -> `b.pth:name=B`, `Set5=a/Set5/HR` -> `Set5=HR`."""
    head, colon, options = entry.rpartition(":")
    place, options = (head, f":{options}") if colon and "=" in options and "/" not in options else (entry, "")
    name, equals, folder = place.partition("=")
    if equals and "/" not in name:
        return f"{name}={posixpath.basename(folder.rstrip('/'))}{options}"
    return posixpath.basename(place.rstrip("/")) + options


def metadata(source: Source, publication: Publication) -> dict[str, str]:
    """What every exported file says of itself, beside what the weight file said before. Nothing that is not known."""
    told: Mapping[str, Any] = {
        "name": publication.name,
        "architecture": architecture(source),
        "scale": source.network.scale,
        "author": publication.author,
        "license": publication.licence,
        "license_note": licence_note(source),
        "configuration": source.config and configuration(source.config),
        "scores": source.own_scores or None,
        "photographs": source.photographs,
        "source_sha256": source.digest,
        "software": f"mtkd-dist {__version__}",
    }
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in told.items() if value}
    return {**source.metadata, **texts}


def listed(words: list[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)
