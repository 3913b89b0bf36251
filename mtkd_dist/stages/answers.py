"""Teacher answers that are rendered once: what a run renders, whether there is room for it, and what it cost."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.filesize import decimal as bytes_text

from mtkd_dist.data.teacher_outputs import TeacherOutputs, folder_bytes, total_bytes
from mtkd_dist.pools.evaluate import AGGREGATE, Merged
from mtkd_dist.pools.render import RenderedTeachers, Rendering, aggregate_rendering, render, teacher_rendering
from mtkd_dist.pools.teacher_worker import TeacherFile
from mtkd_dist.report.counter import counter
from mtkd_dist.stages import manifest
from mtkd_dist.stages.distil_method import needs_aggregator
from mtkd_dist.stages.manifest import Manifest
from mtkd_dist.stages.run import Run

SPARE_BYTES = 1 << 30
"""Of the disk, left for checkpoints and all else that a run writes."""


def outputs_folder(run: Run) -> Path:
    folder = run.config.answers.folder
    return Path(folder).resolve() if folder else run.output / "teacher-outputs"


def rendered_teachers(
    run: Run, teachers: Sequence[TeacherFile], digests: Mapping[str, str], aggregator: Path | None = None
) -> RenderedTeachers:
    """Where the images of all teachers, and those of the aggregator where there is one, lie or will lie.

    `digests`: name of each teacher -> SHA-256 of its file.
    """
    # One arithmetic for all that is rendered, so that both stages share the teachers' images.
    precision = run.config.teacher_precision
    root, dtype = outputs_folder(run), run.config.answers.dtype
    of_teachers = tuple(
        teacher_rendering(file, digests[file.name], run.images, root, dtype, precision) for file in teachers
    )
    if aggregator is None:
        return RenderedTeachers(of_teachers, None)
    merged = Merged(AGGREGATE, tuple(teachers), aggregator)
    aggregate = aggregate_rendering(merged, of_teachers)
    if run.aggregate_outputs is not None:
        outputs = TeacherOutputs(run.aggregate_outputs, aggregate.outputs.key, run.images)
        aggregate = dataclasses.replace(aggregate, outputs=outputs)
    return RenderedTeachers(of_teachers, aggregate)


def facts(rendered: RenderedTeachers) -> dict[str, Any]:
    """What tells the weights of a training with rendered images from those of another, beside the networks."""
    key = rendered.teachers[0].outputs.key
    return {name: key[name] for name in ("format", "dtype", "arithmetic", "tile", "overlap")}


def prepare(run: Run, rendered: RenderedTeachers, each: bool = False) -> None:
    """Render what a training will read: the aggregate where there is one, or the image of every teacher.

    `each`: the latter in any case. What is there is not rendered again.
    Errors: ValueError where there is no room, or as `render`.
    """
    if rendered.aggregate is None:
        _render(run, "answers/teachers", rendered.teachers)
    else:
        # The teachers' images are wanted only for aggregates that are still to be made.
        if each or rendered.aggregate.outputs.missing():
            _render(run, "answers/teachers", rendered.teachers)
        _render(run, "answers/aggregate", [rendered.aggregate])


class Room(NamedTuple):
    """Bytes that rendering needs and what there is for them."""

    needed: int
    present: int
    """In the folder, of this run and of others."""
    allowed: int
    free: int
    """On the disk."""

    def refusal(self, folder: Path) -> str | None:
        """Why there is too little, and what mends it; None where there is enough."""
        if not self.needed or (self.present + self.needed <= self.allowed and self.needed + SPARE_BYTES <= self.free):
            return None
        return (
            f"answers: rendering needs {bytes_text(self.needed)} more in {folder}, where {bytes_text(self.present)} "
            f"are; answers.max_bytes allows {bytes_text(self.allowed)}, and {bytes_text(self.free)} of the disk are "
            f"free, of which {bytes_text(SPARE_BYTES)} are left for the rest of the run. Take answers.dtype uint8 "
            "(half of float16), raise answers.max_bytes, give another answers.folder, delete folders in it that no "
            "run needs any more, or take --teacher-outputs live"
        )


def room_for(run: Run, renderings: Sequence[Rendering], ahead: int = 0) -> Room:
    """`ahead`: bytes that come on top, if anything of `renderings` is missing at all."""
    folder = renderings[0].outputs.root
    folder.mkdir(parents=True, exist_ok=True)
    needed = total_bytes([rendering.outputs for rendering in renderings], missing_only=True)
    return Room(
        needed + (ahead if needed else 0),
        folder_bytes(folder),
        run.config.answers.max_bytes,
        shutil.disk_usage(folder).free,
    )


def _render(run: Run, stage: str, renderings: Sequence[Rendering]) -> None:
    outputs = [rendering.outputs for rendering in renderings]
    # The aggregate will take as much as one teacher.
    ahead = total_bytes(outputs[:1]) if needs_aggregator(run.config) and not renderings[0].sources else 0
    if refusal := room_for(run, renderings, ahead).refusal(outputs[0].root):
        raise ValueError(refusal)
    missing = sum(len(one.missing()) for one in outputs)
    names = ", ".join(rendering.network.name for rendering in renderings)
    if run.engine is None:
        rendered = render(renderings, run.resources, run.config.num_gpus)
    else:
        rendered = run.engine.render(renderings)
    began = time.monotonic()
    with counter(run.console, f"{stage}: {names}, images", max(1, missing)) as advance:
        for _ in rendered:
            advance()
    seconds = time.monotonic() - began
    size, rate = total_bytes(outputs), missing / seconds
    roundings = {rendering.network.name: rendering.outputs.rounding() for rendering in renderings}
    if missing:
        run.say(f"{stage}: {missing} images in {seconds:.1f} s ({rate:.2f} images/s), {bytes_text(size)} in all")
        run.seconds[stage] = run.seconds.get(stage, 0.0) + seconds
    else:
        run.say(f"{stage}: all {len(renderings) * len(run.images)} images are there ({bytes_text(size)})")
    for name, rounding in roundings.items():
        if run.config.answers.dtype == "uint8":
            run.say(
                f"{stage}: uint8 costs {name} {rounding.lost_db:.4f} dB of PSNR to the truth (stored against computed: "
                f"{rounding.psnr_db:.2f} dB)"
            )
    numbers = {"images": missing, "seconds": seconds, "bytes": size} | ({"images_per_second": rate} if missing else {})
    rounded = {name: rounding._asdict() for name, rounding in roundings.items()}
    inputs = {rendering.network.name: rendering.outputs.key for rendering in renderings}
    old = manifest.read(run.output / stage)
    if missing or old is None or manifest.changed(old, inputs, {}):
        _leave(run, stage, inputs, seconds, numbers | {"rounding": rounded})
        tracked = run.tracker.stage(stage)
        tracked.params({"folder": outputs[0].root, "dtype": run.config.answers.dtype, "networks": names})
        tracked.metrics(numbers | {f"{what}/{name}": value for name, r in rounded.items() for what, value in r.items()})
        tracked.finish()


def _leave(run: Run, stage: str, inputs: dict[str, Any], seconds: float, summary: dict[str, Any]) -> None:
    folder = run.output / stage
    folder.mkdir(parents=True, exist_ok=True)
    # No outputs: the files of a shared folder are not the run's own, and each carries its checksum.
    manifest.write(
        folder, Manifest(stage=stage, inputs=inputs, outputs={}, seed=run.config.seed, seconds=seconds, summary=summary)
    )
