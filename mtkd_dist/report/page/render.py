"""From facts to one self-contained HTML page: no script, no request, everything within. Pure but for the pictures."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from mtkd_dist.report.page import scores, trainings
from mtkd_dist.report.page.facts import Facts, Row, Stage
from mtkd_dist.report.page.palette import looks
from mtkd_dist.report.page.pictures import details_that_fit
from mtkd_dist.report.progress import duration
from mtkd_dist.report.tables import parameters_text

SETTINGS = {
    "steps": "steps",
    "batch_size": "batch size",
    "patch": "patch (LR pixels)",
    "learning_rate": "learning rate",
    "ema": "moving average",
    "precision": "precision",
    "result": "result",
}
"""Of a training -> as it is called in the table of settings; all the others are in the YAML below it."""
TRAININGS = {"teacher_training": "teachers", "aggregate": "aggregate", "distil": "distil"}


def render(facts: Facts, folder: Path, beside: str = "") -> str:
    """The page. `folder`: where the pictures lie; `beside`: way from the page's folder to it, for its links."""
    look_of = looks(_roles(facts))
    return _template().render(
        facts=facts,
        title=facts.name,
        subtitle=_subtitle(facts),
        unfinished=_unfinished(facts.stages),
        headlines=[said for key in scores.sets(facts.rows) if (said := scores.headline(facts.rows, *key))],
        tiles=list(_tiles(facts)),
        scores=scores.table(facts.rows),
        sizes=scores.sizes(facts.rows, look_of),
        looks=look_of,
        details=[_detail(*found) for found in details_that_fit(folder, facts.details)],
        spectra=scores.spectra(facts.bands, look_of),
        stages=trainings.stage_lines(facts.stages),
        blocks=trainings.blocks(facts.stages, look_of),
        settings=_settings(facts.settings),
        link=functools.partial(_link, beside),
        params=parameters_text,
    )


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mtkd_dist.report.page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html")


def _link(beside: str, place: str) -> str:
    return jinja2.filters.do_urlencode(f"{beside}/{place}" if beside else place)


def _roles(facts: Facts) -> dict[str, str]:
    """Model -> role: of the scores or, before there are any, of the trainings."""
    found = scores.roles(facts.rows)
    for stage in facts.stages:
        role = "teacher" if trainings.is_teacher(stage) else "aggregate" if stage.name == "aggregate" else "student"
        for model in trainings.learners(stage) if stage.name != "evaluate" else ():
            found.setdefault(model, role)
    return found


def _subtitle(facts: Facts) -> str:
    """`×2, method mtkd: edsr-baseline:width=16,blocks=3 learned from edsr-baseline, rcan and swinir-light`"""
    settings = facts.settings
    if not settings:
        return ""
    students = [str(settings.get("student")), *map(str, settings.get("more_students", ()))]
    teachers = [stage.name.removeprefix("teachers/") for stage in facts.stages if trainings.is_teacher(stage)]
    learned = f" learned from {_listed(teachers)}" if teachers else ""
    return f"×{settings.get('scale')}, method {settings.get('method')}: {_listed(students)}{learned}"


def _listed(names: Sequence[str]) -> str:
    """`a, b and c`"""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _unfinished(stages: Sequence[Stage]) -> str:
    """What is still to be done; empty for a finished run."""
    if stages and stages[-1].name == "evaluate" and all(stage.finished for stage in stages):
        return ""
    half = [stage for stage in stages if not stage.finished]
    if not half:
        return "This run is not finished."
    done = ", ".join(f"{s.name} ({s.past.done:,} of {s.steps:,} steps)" if s.steps else s.name for s in half)
    return f"This run is not finished: half done is {done}."


def _tiles(facts: Facts) -> Iterator[tuple[str, str]]:
    """(value, what it is): the numbers that one looks for first."""
    rows, sets = facts.rows, scores.sets(facts.rows)
    student = next((row["model"] for row in rows if row["role"] == "student"), None)
    of_student = {(row["set"], row["scale"]): row for row in rows if row["model"] == student}
    for name, scale in sets[:2] if of_student else ():
        yield f"{of_student[name, scale]['psnr_y']:.2f} dB", f"PSNR-Y of the student on {name} ×{scale}"
    bicubic = [row["psnr_y"] for row in rows if row["role"] == "bicubic"]
    if of_student and bicubic and len(sets) == 1:
        gain = of_student[sets[0]]["psnr_y"] - bicubic[0]
        yield f"{'+' if gain >= 0 else '−'}{abs(gain):.2f} dB", "against bicubic"
    if of_student:
        yield parameters_text(of_student[sets[0]]["params"]), "parameters of the student"
    seconds = sum(max(stage.seconds or 0.0, stage.past.seconds) for stage in facts.stages)
    if seconds:
        yield duration(seconds), "for all stages"


def _detail(entry: Row, whole: str, panels: Mapping[str, str]) -> dict[str, Any]:
    window, height, width = entry["window"], entry["height"], entry["width"]
    rows, columns = min(window["side"], height), min(window["side"], width)
    return {
        "title": f"{entry['set']} ×{entry['scale']}, {entry['image']}",
        "entry": entry,
        "whole": whole,
        "panels": panels,
        "models": {label for label in panels if label in entry["scores"]},
        "rows": rows,
        "columns": columns,
        "place": {
            "left": 100 * window["left"] / width,
            "top": 100 * window["top"] / height,
            "width": 100 * columns / width,
            "height": 100 * rows / height,
        },
    }


def _settings(settings: Mapping[str, Any]) -> list[list[str]]:
    """Lines of the table of trainings: a name, then a value for each of `TRAININGS`; the first line is its header."""
    found = [settings[name] for name in TRAININGS if name in settings]
    if not found:
        return []
    header = ["", *(title for name, title in TRAININGS.items() if name in settings)]
    lines = [[title, *(str(one.get(key, "–")) for one in found)] for key, title in SETTINGS.items()]
    return [header, *lines]
