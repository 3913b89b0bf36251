"""A comparison as tables: the Markdown file, and the screen of a terminal. Pure; the words of both are here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mtkd_dist.report.comparison import Comparison, Spread, Summary, reference_means, summaries
from mtkd_dist.report.comparison_differences import Difference, Interval, against, baseline, difference
from mtkd_dist.report.progress import duration
from mtkd_dist.report.tables import LUMA, METRICS, Pieces, markdown_lines, parameters_text, rich_text

NONE = "–"
TITLE = " / ".join(METRICS[metric].title for metric in LUMA)

_INTERVALS = """\
A difference is taken between students of the same network, seed and image, and averaged over both. Three \
intervals of 95 % (Student's t) say how far chance goes:

- **95 %**: would another training, scored on other photographs of this kind, agree? The half-widths of the two below \
are added as squares, which makes it rather too wide than too narrow. Bold where it excludes zero.
- **images alone**: would other photographs agree, for these trained networks? Seeds are averaged for each image \
first, because scores of one image are not independent.
- **seeds alone**: would another training agree, on these photographs? With few seeds it is wide.

"–" stands where an interval needs a second seed or image, or where there is nothing to compare."""


def markdown(comparison: Comparison, plot: str | None = None) -> str:
    """The whole file: set-up, means, references, differences, notes.

    Args:
        plot: address of the picture, relative to the file; None: there is none.
    """
    parts = ["# Comparison of methods", _setup(comparison), *_warnings(comparison), "## Scores"]
    parts.append(
        f"{TITLE}: mean over the images of a set, ± standard deviation over seeds. The best of a column is bold, "
        "without a word on chance: for that see the differences. Time is that of a training at the median rate of its "
        "course (of several students that learn from one stream, a share of it), mean over seeds; rendering, and the "
        "training of an aggregator, are not in it. Bytes are what the student's side reads for one sample."
    )
    for student, of_student in groupby(summaries(comparison), key=lambda line: line.student):
        parts.append(f"### {student}{_params(comparison, student)}")
        parts.append(markdown_lines(*_means(comparison, list(of_student)), left=1))
    if comparison.references:
        parts += ["### References", "Networks that are not compared, on the same images."]
        parts.append(markdown_lines(*_references(comparison), left=1))
    tables = against(comparison.methods)
    if tables:
        parts += ["## Differences", _INTERVALS]
    if plot is not None:
        parts.append(f"![Difference to {baseline(comparison.methods)} of every method]({plot})")
    for title, pairs in tables.items():
        shown = 0
        parts.append(f"### {title}")
        for student in comparison.students:
            differences = _differences(comparison, student, pairs)
            shown += sum(one.intervals.joint is not None for one in differences)
            parts += [f"#### {student}", markdown_lines(*_difference_lines(differences), left=2)]
        if shown:
            parts.append(
                f"The tables of this section have {shown} joint intervals. Where no method differs from another, up "
                "to one of twenty still excludes zero."
            )
    return "\n\n".join(parts) + "\n"


def screen(comparison: Comparison) -> RenderableType:
    """For a terminal: PSNR-Y of every method and set, and its difference to the baseline with the joint interval."""
    parts: list[RenderableType] = []
    for student, of_student in groupby(summaries(comparison), key=lambda line: line.student):
        table = Table(
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            collapse_padding=True,
            title=Text(student + _params(comparison, student), style="bold"),
            title_justify="left",
        )
        header, lines = _screen_lines(comparison, list(of_student))
        table.add_column(header[0], no_wrap=True)
        for name in header[1:]:
            # Where the screen is narrow, mean and spread, difference and interval break at their spaces.
            table.add_column(name, justify="right")
        for line in lines:
            table.add_row(*map(rich_text, line))
        parts += [table, ""]
    caption = f"{METRICS['psnr_y'].title}, mean ± standard deviation over seeds, best in bold"
    if len(comparison.methods) > 1:
        caption += (
            f"; difference to {baseline(comparison.methods)} with its 95 % interval over seeds and images, bold where "
            "it excludes zero"
        )
    return Group(*parts, Text(caption, style="italic"), *map(Text, _warnings(comparison)))


def _setup(comparison: Comparison) -> str:
    seeds = ", ".join(map(str, comparison.seeds))
    steps = f", {comparison.cells[0].steps:,} steps each" if comparison.cells else ""
    sentences = [
        f"Set-up: {_count(comparison.methods, 'method')} × {_count(comparison.students, 'student')} × "
        f"{_count(comparison.seeds, 'seed')} ({seeds}){steps}, all on the same plan of crops."
    ]
    if comparison.settings:
        sentences.append("; ".join(f"{name}: {value}" for name, value in comparison.settings.items()) + ".")
    return " ".join(sentences)


def _warnings(comparison: Comparison) -> list[str]:
    """What a reader must know before the numbers."""
    lines = []
    if comparison.missing:
        names = "; ".join(
            f"{method} of {student}, {'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"
            for (method, student), group in groupby(comparison.missing, key=lambda one: one[:2])
            for seeds in [[seed for *_, seed in group]]
        )
        planned = len(comparison.methods) * len(comparison.students) * len(comparison.seeds)
        lines.append(
            f"Missing (failed, or not done yet) are {len(comparison.missing)} of {planned} students: {names}. Means "
            "are over the seeds that are there, and differences over the seeds that both have."
        )
    for name, images in comparison.left_out.items():
        lines.append(f"Left out of {name}, because not every student was scored on them: {', '.join(images)}.")
    broken = [
        f"{cell.method} of {cell.student}, seed {cell.seed}, on {name}"
        for cell in comparison.cells
        for name, of_set in cell.scores.items()
        if not all(math.isfinite(value) for scores in of_set.values() for value in scores)
    ]
    if broken:
        lines.append(f"Not finite are scores of {'; '.join(broken)}: means with them are no numbers.")
    return lines


def _means(comparison: Comparison, of_student: Sequence[Summary]) -> tuple[list[str], list[list[Pieces]]]:
    best = {(name, metric): _best(of_student, name, metric) for name in comparison.images for metric in LUMA}
    header = ["method", "seeds", *_set_titles(comparison), "steps", "time", "bytes per sample"]
    lines = []
    for one in of_student:
        line: list[Pieces] = [_plain(one.method), _plain(_seeds(comparison, one.seeds))]
        for name in comparison.images:
            cell: Pieces = []
            for metric in LUMA if name in one.scores else ():
                spread = one.scores[name][metric]
                cell += [(" / ", False)] if cell else []
                cell.append((_spread(spread, metric), spread.mean == best[name, metric]))
            line.append(cell or _plain(NONE))
        line.append(_plain(NONE if one.steps is None else f"{one.steps:,}"))
        line += [_plain(_time(one)), _plain(_bytes(one))]
        lines.append(line)
    return header, lines


def _references(comparison: Comparison) -> tuple[list[str], list[list[Pieces]]]:
    lines = []
    for reference, means in reference_means(comparison).items():
        line = [_plain(reference)]
        for name in comparison.images:
            values = zip(LUMA, means.get(name, ()), strict=False)
            line.append(_plain(" / ".join(_number(value, metric) for metric, value in values) or NONE))
        lines.append(line)
    return ["network", *_set_titles(comparison)], lines


def _differences(comparison: Comparison, student: str, pairs: Sequence[tuple[str, str]]) -> list[Difference]:
    return [
        difference(comparison, method, other, student, name, metric)
        for name in comparison.images
        for method, other in pairs
        for metric in LUMA
    ]


def _difference_lines(differences: Sequence[Difference]) -> tuple[list[str], list[list[Pieces]]]:
    header = ["set", "difference", METRICS["psnr_y"].title, "95 %", "images alone", "seeds alone"]
    header += [METRICS["ssim_y"].title, "95 %", "images × seeds"]
    lines = []
    for psnr, ssim in zip(differences[::2], differences[1::2], strict=True):
        line = [_plain(psnr.test_set), _plain(f"{psnr.method} − {psnr.baseline}")]
        line += [_mean_difference(psnr), _joint(psnr)]
        line += [_plain(_interval(psnr.intervals.images, "psnr_y")), _plain(_interval(psnr.intervals.seeds, "psnr_y"))]
        line += [_mean_difference(ssim), _joint(ssim)]
        line.append(_plain(f"{psnr.images} × {psnr.seeds}" if psnr.seeds else NONE))
        lines.append(line)
    return header, lines


def _screen_lines(comparison: Comparison, of_student: Sequence[Summary]) -> tuple[list[str], list[list[Pieces]]]:
    base = baseline(comparison.methods)
    header = ["method", "seeds"]
    for name in comparison.images:
        header += [name, f"− {base}"] if len(comparison.methods) > 1 else [name]
    lines = []
    for one in of_student:
        line: list[Pieces] = [_plain(one.method), _plain(_seeds(comparison, one.seeds))]
        for name in comparison.images:
            spread = one.scores[name]["psnr_y"] if name in one.scores else None
            best = spread is not None and spread.mean == _best(of_student, name, "psnr_y")
            line.append([(_spread(spread, "psnr_y") if spread else NONE, best)])
            if len(comparison.methods) > 1:
                line.append(_plain("") if one.method == base else _difference(comparison, one, base, name))
        line += [_plain(_time(one)), _plain(_bytes(one))]
        lines.append(line)
    return [*header, "time", "bytes per sample"], lines


def _difference(comparison: Comparison, one: Summary, base: str, test_set: str) -> Pieces:
    found = difference(comparison, one.method, base, one.student, test_set, "psnr_y")
    if found.intervals.joint is None:
        return _mean_difference(found)
    return [*_mean_difference(found), (" ", False), *_joint(found)]


def _mean_difference(one: Difference) -> Pieces:
    return [(NONE if one.mean is None else _signed(one.mean, one.metric), _is_clear(one))]


def _joint(one: Difference) -> Pieces:
    return [(_interval(one.intervals.joint, one.metric), _is_clear(one))]


def _is_clear(one: Difference) -> bool:
    return one.intervals.joint is not None and one.intervals.joint.excludes_zero


def _interval(interval: Interval | None, metric: str) -> str:
    if interval is None:
        return NONE
    return f"[{_signed(interval.low, metric)}, {_signed(interval.high, metric)}]"


def _signed(value: float, metric: str) -> str:
    # One digit more than the scores: differences between methods are hundredths of a dB.
    return f"{value:+.{METRICS[metric].digits + 1}f}"


def _number(value: float, metric: str) -> str:
    return f"{value:.{METRICS[metric].digits}f}"


def _spread(spread: Spread, metric: str) -> str:
    text = _number(spread.mean, metric)
    return text if spread.deviation is None else f"{text} ± {_number(spread.deviation, metric)}"


def _best(of_student: Sequence[Summary], test_set: str, metric: str) -> float | None:
    means = (one.scores[test_set][metric].mean for one in of_student if test_set in one.scores)
    return max((mean for mean in means if not math.isnan(mean)), default=None)


def _set_titles(comparison: Comparison) -> list[str]:
    return [f"{name} ({_count(images, 'image')})" for name, images in comparison.images.items()]


def _seeds(comparison: Comparison, there: int) -> str:
    return str(there) if there == len(comparison.seeds) else f"{there} of {len(comparison.seeds)}"


def _params(comparison: Comparison, student: str) -> str:
    count = next((cell.params for cell in comparison.cells if cell.student == student), None)
    return f" ({parameters_text(count)} parameters)" if count else ""


def _time(one: Summary) -> str:
    return NONE if one.seconds is None else duration(one.seconds)


def _bytes(one: Summary) -> str:
    return NONE if one.bytes_per_sample is None else f"{one.bytes_per_sample:,.0f}"


def _count(things: Sequence[object], name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


def _plain(text: str) -> Pieces:
    return [(text, False)]
