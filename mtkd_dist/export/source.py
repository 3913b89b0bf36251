"""What is exported: a weight file, and all that its run still knows of it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from mtkd_dist.config.load import ConfigError, config_of
from mtkd_dist.config.tree import Config
from mtkd_dist.data import ImageStore
from mtkd_dist.export.names import without_accents
from mtkd_dist.models import (
    LoadedNetwork,
    digest_file,
    is_aggregator,
    is_network_name,
    load_network,
    parse_network,
    read_metadata,
    read_state_dict,
)
from mtkd_dist.pools.teacher_worker import TeacherFile
from mtkd_dist.stages import manifest
from mtkd_dist.stages.distil import STAGE
from mtkd_dist.stages.manifest import Manifest
from mtkd_dist.stages.models_to_score import weight_file
from mtkd_dist.stages.students import title_of
from mtkd_dist.train.students import MAIN


@dataclass(frozen=True)
class Source:
    """A network with weights; of what nobody knows any more, `unknown` says what and why."""

    file: Path
    digest: str
    """SHA-256 of the file."""
    name: str
    """What its user calls it: the folder of its run, or the file."""
    network: LoadedNetwork
    tensors: Mapping[str, Tensor]
    """As they lie in the file."""
    metadata: Mapping[str, str]
    """What the file says of itself."""
    config: Config | None = None
    """Of the run."""
    photographs: int | None = None
    """So many it was trained on."""
    scores: tuple[Mapping[str, Any], ...] = ()
    """Rows of scores.json, of all models of the run."""
    title: str = ""
    """Name of its own rows in `scores`."""
    unknown: Mapping[str, str] = field(default_factory=dict)
    """What is not known -> why."""

    @property
    def is_ours(self) -> bool:
        """Whether its architecture is one of those that are named (`edsr-baseline:width=32`) and rebuilt from it."""
        return is_network_name(self.metadata.get("network", ""))

    @property
    def teachers(self) -> dict[str, str]:
        """Name -> SHA-256 of its file."""
        return dict(json.loads(self.metadata.get("teachers", "{}")))

    @property
    def own_scores(self) -> list[Mapping[str, Any]]:
        return [row for row in self.scores if row["model"] == self.title]


def read_source(word: str) -> Source:
    """What `weight_file` takes: `FILE[:name=X,input_range=255]`, or `RUN`, the output folder of a launch.

    A file in the folder of the run that made it has that run's knowledge as well.
    Errors: ConfigError for what is no such thing, cannot be read, or is of no network that enlarges an image.
    """
    given = weight_file(word)
    try:
        return _with_its_run(_alone(given))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _alone(given: TeacherFile) -> Source:
    """What the file itself tells. Errors: ValueError."""
    path, metadata = given.path, read_metadata(given.path)
    if is_aggregator(path):
        raise ValueError(
            f"{path}: {metadata['network']!r} is an aggregator, which makes one image of several and cannot be used "
            "without its teachers; give a student or a teacher"
        )
    return Source(
        path,
        digest_file(path),
        given.name,
        load_network(path, input_range=given.input_range),
        read_state_dict(path),
        metadata,
        title=path.stem,
    )


def _with_its_run(source: Source) -> Source:
    run, here = source.file.parent, source.file.name
    made = manifest.read(run / STAGE)
    why = None
    if made is None or here not in made.outputs:
        why = _why_alone(source.file.parent)
    elif made.outputs[here] != source.digest:
        why = f"{here} is not the file any more that the run in {run} made"
    if made is None or why is not None:
        return replace(source, unknown=dict.fromkeys(("configuration", "scores", "photographs"), why or ""))
    unknown: dict[str, str] = {}
    config = _config(run, made)
    if config is None:
        unknown["configuration"] = f"{run / 'config.yaml'} is not there, or of another training than {here}"
    photographs = None if config is None else _count(run, config, made)
    if photographs is None:
        unknown["photographs"] = "the decoded photographs are not at hand"
    scores = _scores(run, source)
    if not scores:
        unknown["scores"] = f"{here} has not been scored in {run}"
    name = source.name
    if name == source.title:  # nobody gave it one
        name = f"{run.resolve().name}{source.title.removeprefix(title_of(MAIN))}"
    return replace(source, name=name, config=config, photographs=photographs, scores=scores, unknown=unknown)


def _why_alone(folder: Path) -> str:
    """`folder`: where a file lies that is no student of a run there."""
    made = manifest.read(folder)
    if made is not None and made.stage.startswith("teachers/"):
        return "the file is a teacher of its run, and these are told of students only"
    return "the file does not lie in the folder of a run that made it"


def _config(run: Path, made: Manifest) -> Config | None:
    """None where it is not that of the training: a later launch may have been stopped after it wrote its own."""
    try:
        config = config_of(yaml.safe_load((run / "config.yaml").read_text()), "config.yaml", "demo")
    except (OSError, ValueError, yaml.YAMLError):
        return None
    trained: Mapping[str, Any] = made.inputs.get("training", {})
    says = {"network": parse_network(config.student).text, "scale": config.scale, "seed": config.seed}
    same = all(made.inputs.get(key) == value for key, value in says.items())
    same &= all(getattr(config.distil, key, value) == value for key, value in trained.items())
    return config if same else None


def _count(run: Path, config: Config, made: Manifest) -> int | None:
    cache = Path(config.images.cache) if config.images.cache else run / "images"
    try:
        store = ImageStore.open(cache / f"train-x{config.scale}")
    except (OSError, ValueError):
        return None
    return len(store) if store.digest == made.inputs.get("images") else None


def _scores(run: Path, source: Source) -> tuple[Mapping[str, Any], ...]:
    """Empty where the scores are of another file."""
    scored = manifest.read(run / "evaluate")
    if scored is None:
        return ()
    files = {title_of(MAIN): scored.inputs.get("student"), **scored.inputs.get("more_students", {})}
    return tuple(scored.scores) if files.get(source.title) == source.digest else ()


def file_stem(name: str, scale: int) -> str:
    """`4x-NAME`, as the catalogue OpenModelDB wants its models to be called: letters, digits and hyphens."""
    words = re.sub(r"[^A-Za-z0-9]+", "-", without_accents(name)).strip("-")
    for said in (rf"^(?:{scale}x|x{scale})(?:-|$)", rf"(?:^|-)(?:{scale}x|x{scale})$"):
        words = re.sub(said, "", words)
    return f"{scale}x-{words or 'model'}"
