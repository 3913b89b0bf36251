"""The entry of a model in the catalogue OpenModelDB, with the fields of its `src/lib/schema.ts`. Pure.

What only a person can know is left empty, and its validator says so: the author, the links to the files, pictures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mtkd_dist.export.names import identifier
from mtkd_dist.export.publication import Publication, architecture, data_sets, licence_note, listed, network_sizes
from mtkd_dist.export.source import Source

TAGS = ["general-upscaler", "photo"]
"""What every student is: trained on photographs, and on shrinking alone."""
# fmt: off
ARCHITECTURES = [
    "atd", "cain", "cain-yuv", "compact", "craft", "cugan", "dat", "dctlsa", "ditn", "drct", "edsr", "esrgan",
    "esrgan+", "grl", "hat", "hma", "ludvae", "mosr", "omnisr", "rcan", "real-cugan", "realplksr",
    "realplksr-dysample", "rgt", "rife", "sofvsr", "span", "spsr", "sr-res-net", "srformer", "swift-srgan", "swinir",
    "tscunet",
]
# fmt: on
"""Those of the catalogue as of August 2026."""


@dataclass(frozen=True)
class Resource:
    """A written file."""

    name: str
    kind: str
    """The word of `--formats`."""
    size: int
    """Bytes."""
    digest: str
    """SHA-256."""


_KINDS = {"safetensors": ("pytorch", "safetensors"), "onnx": ("onnx", "onnx")}
"""Word of `--formats` -> platform and type in the catalogue, which has no others for what is written here."""


def entry(source: Source, publication: Publication, resources: Sequence[Resource], date: str) -> dict[str, Any]:
    """`date`: of publication, yyyy-mm-dd. The keys are in the order of the entries that are there."""
    kept = [resource for resource in resources if resource.kind in _KINDS]
    return {
        "name": publication.name,
        "author": identifier(publication.author) if publication.author else [],
        "license": publication.licence,
        "tags": TAGS,
        "description": description(source),
        "date": date,
        "architecture": identifier(architecture(source)),
        "size": _size(source) or None,
        "scale": source.network.scale,
        "inputChannels": 3,
        "outputChannels": 3,
        "resources": [_resource(resource, publication.url) for resource in kept],
        **_training(source),
        "images": [],
    }


def to_text(model: Mapping[str, Any]) -> str:
    """As the catalogue's validator wants its files to be laid out, to the byte."""
    return json.dumps(model, indent=4, ensure_ascii=False)


def description(source: Source) -> str:
    """What it is, in a few sentences of Markdown."""
    what = f"Enlarges images {source.network.scale} times ({architecture(source)})"
    method = source.metadata.get("method")
    if method:
        teachers = f"distilled from {listed(list(source.teachers))}" if source.teachers else "trained without teachers"
        what += f"; {teachers} by the method `{method}` of mtkd-dist"
    sentences = [f"{what}.", licence_note(source)]
    if source.own_scores:
        scored = [f"{row['psnr_y']:.2f} dB / {row['ssim_y']:.4f} on {row['set']}" for row in source.own_scores]
        sentences.insert(1, f"PSNR and SSIM on Y: {listed(scored)}.")
    return " ".join(sentences)


def _training(source: Source) -> dict[str, Any]:
    if source.config is None:
        return {}
    training = source.config.distil
    known: dict[str, Any] = {
        "trainingIterations": training.steps,
        "trainingBatchSize": training.batch_size,
        "trainingHRSize": training.patch * source.network.scale,
        "trainingOTF": False,
        "dataset": listed(data_sets(source.config)),
    }
    if source.photographs:
        known["datasetSize"] = source.photographs
        epochs = training.steps * training.batch_size // source.photographs
        known |= {"trainingEpochs": epochs} if epochs else {}
    return known


def _resource(resource: Resource, url: str | None) -> dict[str, Any]:
    platform, kind = _KINDS[resource.kind]
    urls = [f"{url.rstrip('/')}/{resource.name}"] if url else []
    return {"platform": platform, "type": kind, "size": resource.size, "sha256": resource.digest, "urls": urls}


def _size(source: Source) -> list[str]:
    """As spandrel calls the sizes of networks: channels (nf), blocks (nb), groups (nrg) and their blocks (nrb)."""
    sizes = network_sizes(source)
    match architecture(source):
        case "EDSR" | "RLFN":
            return [f"{sizes['width']}nf", f"{sizes['blocks']}nb"]
        case "RCAN" if sizes:
            return [f"{sizes['width']}nf", f"{sizes['groups']}nrg", f"{sizes['blocks']}nrb"]
        case "SwinIR" if sizes:
            return [f"s{8 * sizes['window']}w{sizes['window']}", f"{sizes['width']}dim"]
    return []
