"""The model card: what the model is, how it is used, what it was made of, in Markdown. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from mtkd_dist import __version__
from mtkd_dist.export.catalogue import Resource
from mtkd_dist.export.publication import Publication, architecture, data_sets, licence_note, listed
from mtkd_dist.export.source import Source
from mtkd_dist.report.tables import markdown_table, parameters_text

_USE = {
    "safetensors": """import mtkd_dist
from PIL import Image

student = mtkd_dist.load("{file}")
student(Image.open("small.png")).save("large.png")""",
    "onnx": """import numpy as np, onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession("{file}")
lr = np.asarray(Image.open("small.png").convert("RGB"), np.float32).transpose(2, 0, 1)[None] / 255
(sr,) = session.run(None, {{"input": lr}})
Image.fromarray((sr[0].clip(0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0)).save("large.png")""",
    "program": """import torch

network = torch.export.load("{file}").module()
sr = network(torch.rand(1, 3, 64, 64))  # (B,3,h,w) RGB in [0,1] -> (B,3,{scale}*h,{scale}*w)""",
}


def card(
    source: Source, publication: Publication, resources: Sequence[Resource], notes: Mapping[str, str], date: str
) -> str:
    """`notes`: kind of a file -> what reads it, in a phrase. `date`: yyyy-mm-dd."""
    parts = [
        _front_matter(publication),
        f"# {publication.name}",
        _about(source, publication, date),
        "Values are RGB in [0,1], in and out; what comes out may lie a little outside and is to be clamped. Any "
        "height, width and batch size.",
        _scores(source),
        _files(resources, notes),
        *(_use(resource, source.network.scale) for resource in resources if resource.kind in _USE),
        _training(source),
        f"## Terms\n\nLicence: {publication.licence or 'none was given'}. {licence_note(source)}",
        _unknown(source),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(publication: Publication) -> str:
    """What model hubs read."""
    told: dict[str, Any] = {"license": publication.licence.lower()} if publication.licence else {}
    told |= {"pipeline_tag": "image-to-image", "tags": ["super-resolution", "knowledge-distillation"]}
    return f"---\n{yaml.safe_dump(told, sort_keys=False)}---"


def _about(source: Source, publication: Publication, date: str) -> str:
    network = source.network
    rows = {
        "architecture": architecture(source),
        "network": f"`{network.architecture}`" if source.is_ours else None,
        "scale": f"×{network.scale}",
        "parameters": parameters_text(network.params),
        "method": source.metadata.get("method"),
        "author": publication.author,
        "date": date,
        "made with": f"mtkd-dist {__version__}",
    }
    return _table(("", ""), [(key, value) for key, value in rows.items() if value])


def _scores(source: Source) -> str:
    if not source.scores:
        return ""
    return (
        f"## Scores\n\n{markdown_table(source.scores)}\n\nPSNR on Y in dB and SSIM on Y of 8-bit images, without a "
        f"border of as many pixels as the scale. This model is `{source.title}`."
    )


def _files(resources: Sequence[Resource], notes: Mapping[str, str]) -> str:
    if not resources:
        return ""
    rows = [(f"`{r.name}`", f"{r.size:,}", f"`{r.digest}`", notes.get(r.kind, "")) for r in resources]
    return "## Files\n\n" + _table(("file", "bytes", "SHA-256", "as tried"), rows)


def _use(resource: Resource, scale: int) -> str:
    return f"```python\n{_USE[resource.kind].format(file=resource.name, scale=scale)}\n```"


def _training(source: Source) -> str:
    lines = []
    if source.teachers:
        rows = [(name, f"`{digest}`") for name, digest in source.teachers.items()]
        lines.append(_table(("teacher", "SHA-256 of its file"), rows))
    if source.config is not None:
        training = source.config.distil
        of = f"{source.photographs} images of " if source.photographs else ""
        lines.append(
            f"{training.steps:,} steps of {training.batch_size} crops of {training.patch}×{training.patch} LR pixels, "
            f"from {of}{listed(data_sets(source.config))}; learning rate {training.learning_rate:g}, seed "
            f"{source.config.seed}. The metadata of the weight file hold every setting."
        )
    return "## Training\n\n" + "\n\n".join(lines) if lines else ""


def _unknown(source: Source) -> str:
    if not source.unknown:
        return ""
    return "## Not known\n\n" + "\n".join(f"- {what}: {why}" for what, why in source.unknown.items())


def _table(header: Sequence[str], rows: Sequence[Sequence[str | None]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell or '' for cell in line)} |" for line in lines)
