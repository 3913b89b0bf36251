"""An interrupted training belongs to the settings and data that it began with: with others it does not go on.

Among them are the results of earlier stages, which are therefore not made anew while it waits.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mtkd_dist.stages import manifest
from mtkd_dist.stages.manifest import Manifest, differences, write_json
from mtkd_dist.train.checkpoints import Checkpoints

INPUTS = "inputs.json"
"""In the folder of the checkpoints: all that their weights depend on."""


ORDER = ("aggregate", "distil")
"""Stages that learn from what came before: `teachers/*` first of all, then each of these from all before it."""


class StageChanged(ValueError):
    """A stage is half done with other inputs than those of now; the message shows both, and what mends it."""


def folder_for(folder: Path, inputs: Mapping[str, Any]) -> Path:
    """Where the checkpoints of a stage in `folder` lie that is trained with `inputs`."""
    return folder / f"checkpoints-{manifest.fingerprint(inputs)}"


def history_of(checkpoints: Path) -> Path:
    """The file of the course of the training whose checkpoints lie in this folder, beside it: it outlives them."""
    return checkpoints.with_name(f"{checkpoints.name.replace('checkpoints', 'course')}.jsonl")


def begin(folder: Path, inputs: Mapping[str, Any]) -> Path:
    """Make the folder of the checkpoints and write down what they depend on; returns it."""
    checkpoints = folder_for(folder, inputs)
    checkpoints.mkdir(parents=True, exist_ok=True)
    write_json(checkpoints / INPUTS, dict(inputs))
    return checkpoints


def begun(folder: Path, finished: Manifest | None) -> tuple[Path, dict[str, Any]] | None:
    """Checkpoints and inputs of the training in `folder` that was begun last and is not `finished`; None: all are."""
    found = [(checkpoints, _inputs(checkpoints)) for checkpoints in folder.glob("checkpoints-*")]
    unfinished = [
        (checkpoints, inputs)
        for checkpoints, inputs in found
        if inputs is not None and (finished is None or not _within(inputs, finished.inputs))
    ]
    return max(unfinished, key=lambda one: (one[0] / INPUTS).stat().st_mtime, default=None)


def check_unchanged(
    stage: str, folder: Path, inputs: Mapping[str, Any], finished: Manifest | None, names: Mapping[str, str]
) -> None:
    """Errors: StageChanged where checkpoints of other inputs wait in `folder`, and none of these.

    Those that a finished training left behind do not count: its result is there, and nothing would be lost. `names` are
    what a user calls the inputs.
    """
    if Checkpoints(folder_for(folder, inputs)).steps():
        return
    for other, step, before in _waiting(folder, finished):
        lines = [f"{other / INPUTS} cannot be read"] if before is None else differences(before, inputs, names)
        raise StageChanged(
            f"{stage} is half done (step {step}), and not with what this command says:\n"
            + "".join(f"  {line}\n" for line in lines)
            + "Give what was there before to go on from there, another --output to keep both, or --on-change restart "
            "to begin this stage anew."
        )


def check_later(stage: str, output: Path, finished: Manifest, why: Sequence[str]) -> None:
    """Called before the result of `stage` in the folder `output` is replaced: on a GPU nobody could make it again.

    Errors: StageChanged where a later stage is half done with this result. `why` says what changed.
    """
    for later in ORDER[ORDER.index(stage) + 1 :] if stage in ORDER else ORDER:
        for _, step, inputs in _waiting(output / later, manifest.read(output / later)):
            text = json.dumps(inputs)
            if inputs is not None and not any(digest in text for digest in finished.outputs.values()):
                continue
            raise StageChanged(
                f"{stage} is finished and would be made again, but {later} is half done (step {step}) with its present "
                "result:\n"
                + "".join(f"  {line}\n" for line in why)
                + f"Give what was there before to go on with {later}, another --output to keep both, or --on-change "
                "restart to begin both stages anew."
            )


def _waiting(folder: Path, finished: Manifest | None) -> Iterator[tuple[Path, int, dict[str, Any] | None]]:
    """Folders of checkpoints that no finished training left behind, with the newest step and the inputs."""
    for checkpoints in sorted(folder.glob("checkpoints-*")):
        steps, inputs = Checkpoints(checkpoints).steps(), _inputs(checkpoints)
        if steps and (finished is None or inputs is None or not _within(inputs, finished.inputs)):
            yield checkpoints, steps[-1], inputs


def _within(part: Mapping[str, Any], whole: Mapping[str, Any]) -> bool:
    return all(key in whole and whole[key] == value for key, value in part.items())


def _inputs(checkpoints: Path) -> dict[str, Any] | None:
    try:
        inputs = json.loads((checkpoints / INPUTS).read_text())
    except (OSError, ValueError):
        return None
    return inputs if isinstance(inputs, dict) else None
