"""Charts as inline SVG, 360 units wide: as wide as a phone, so that letters keep their size there. Pure.

Colours are names of custom properties of the page (`--c-student`), which its light and its dark theme define.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from mtkd_dist.report.page.scales import Axis, Points, finite, number_text, smoothed, thinned

WIDTH, HEIGHT = 360, 210
LEFT, RIGHT, TOP, BOTTOM = 40, 10, 8, 24
LETTER = 6.1
"""Width of a letter, about."""
DASHES = ("", "7 3", "2 3", "8 3 2 3", "12 4", "4 4")
"""Lines of one family are told apart by colour and by dash: by either alone, if need be."""
MOST_MARKS = 60
"""Of a line; more would be a line of their own."""
LOG_FROM = 4.0
"""Values whose largest is so many times the smallest are shown on a logarithmic scale."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


@dataclass(frozen=True)
class Series:
    """One line of a chart."""

    name: str
    points: Points
    """(x, y), x rising."""
    colour: str
    dash: str = ""
    marks: bool = False
    """Whether each point is worth a mark: of scores that were measured now and then."""

    @property
    def last(self) -> float:
        return self.points[-1][1]


def line_chart(title: str, series: Sequence[Series], x_title: str, end: float, noisy: bool = False) -> Markup:
    """Lines over the same x from 0 to `end`.

    The lowest tenth of all values may lie below the chart: a score begins far below where it goes on.

    Args:
        title: read aloud in the place of the picture.
        noisy: show the mean over some neighbours, and the values themselves pale behind it; on a logarithmic scale,
            where they fall far.
    """
    shown = [Series(s.name, thinned(finite(s.points)), s.colour, s.dash, s.marks) for s in series]
    shown = [s for s in shown if s.points]
    values = sorted(y for s in shown for _, y in s.points)
    low, high = (values[0] if noisy else values[len(values) // 10]), values[-1]
    log = noisy and low > 0 and high / low > LOG_FROM
    room = 0 if log else 0.06 * (high - low)
    y = Axis(low - room, high + room, HEIGHT - BOTTOM, TOP, log)
    x = Axis(0, max(end, 1), LEFT, WIDTH - RIGHT)
    parts: list[str] = []
    for s in shown:
        places = [(x(px), y(py)) for px, py in s.points]
        if noisy and len(s.points) >= 40:
            parts.append(_path(places, s, "raw"))
            places = [(x(px), y(py)) for px, py in smoothed(s.points)]
        parts.append(_path(places, s, "line"))
        if len(s.points) == 1 or (s.marks and len(s.points) <= MOST_MARKS):
            parts += [_mark(place, s, point) for place, point in zip(places, s.points, strict=True)]
    return _svg(title, [*_rows(y, y.ticks()), *_columns(x, x_title), _clipped(parts)])


def shares_chart(title: str, shares: Mapping[str, Points], x_title: str, end: float, height: int) -> Markup:
    """Bands on top of each other that fill the chart; `shares`: name of a colour -> (x, share of 1), x rising."""
    x = Axis(0, max(end, 1), LEFT, WIDTH - RIGHT)
    y = Axis(0, 1, height - BOTTOM, TOP)
    lines = [thinned(points) for points in shares.values()]
    # What is posted first tells of the time since the start.
    places = [0.0, *(px for px, _ in lines[0])]
    parts: list[str] = []
    below = [0.0] * len(places)
    for name, line in zip(shares, lines, strict=True):
        values = [line[0][1], *(share for _, share in line)]
        above = [base + share for base, share in zip(below, values, strict=True)]
        upper = [(x(px), y(top)) for px, top in zip(places, above, strict=True)]
        lower = [(x(px), y(base)) for px, base in zip(places, below, strict=True)]
        parts.append(f'<path class="area" style="--c:var(--c-{name})" d="{_places([*upper, *reversed(lower)])}Z"/>')
        below = above
    rows = _rows(y, [0, 0.5, 1], lambda value: f"{value:.0%}")
    return _svg(title, [*parts, *rows, *_columns(x, x_title, height)], height)


def bands_chart(title: str, series: Sequence[Series], names: Sequence[str], groups: Mapping[str, int]) -> Markup:
    """Values of categories, which are connected within a group of neighbours: point i of each series is for names[i].

    Args:
        groups: what neighbours have in common -> how many they are, in order.
    """
    values = [y for s in series for _, y in s.points]
    low, high = min(values), max(values)
    log = low > 0 and high / low > LOG_FROM
    room = 0 if log else 0.06 * (high - low)
    y = Axis(low - room, high + room, HEIGHT - BOTTOM - 16, TOP + 4, log)
    x = Axis(-0.5, len(names) - 0.5, LEFT, WIDTH - RIGHT)
    parts = _rows(y, y.ticks())
    first = 0
    for group, count in groups.items():
        middle = x(first + (count - 1) / 2)
        if first:
            parts.append(f'<path class="grid" d="M{x(first - 0.5):.1f},{TOP}V{HEIGHT - 4}"/>')
        parts.append(_text(middle, HEIGHT - 4, group, "middle"))
        first += count
    parts += [_text(x(i), HEIGHT - 17, name, "middle", "small") for i, name in enumerate(names)]
    for s in series:
        places = [(x(px), y(py)) for px, py in s.points]
        first = 0
        for count in groups.values():
            parts.append(_path(places[first : first + count], s, "line"))
            first += count
        parts += [_mark(place, s, point) for place, point in zip(places, s.points, strict=True)]
    return _svg(title, parts)


def size_chart(title: str, series: Sequence[Series], x_title: str) -> Markup:
    """One labelled mark for each series, over a logarithmic x."""
    xs, ys = [s.points[0][0] for s in series], [s.points[0][1] for s in series]
    room = 0.12 * (max(ys) - min(ys))
    x = Axis(min(xs) / 1.6, max(xs) * 1.6, LEFT, WIDTH - RIGHT, log=True)
    y = Axis(min(ys) - room, max(ys) + room, HEIGHT - BOTTOM, TOP)
    marks = {s.name: (x(s.points[0][0]), y(s.points[0][1])) for s in series}
    labels = placed_labels(marks)
    parts = [*_rows(y, y.ticks()), *_columns(x, x_title)]
    parts += [_mark(marks[s.name], s, s.points[0], 5) for s in series]
    parts += [_text(*labels[s.name], s.name, "start", "label") for s in series]
    return _svg(title, parts)


def placed_labels(marks: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """Name -> where its text begins: beside its mark, above or below it, where it covers as little as possible."""
    boxes = [(x - 5, y - 5, x + 5, y + 5) for x, y in marks.values()]
    found: dict[str, tuple[float, float]] = {}
    for name, (x, y) in marks.items():
        wide = LETTER * len(name)
        places = [(x + 8, y + 4), (x - 8 - wide, y + 4), (x - wide / 2, y - 9), (x - wide / 2, y + 17)]
        places += [(x + 6, y - 6), (x - 6 - wide, y - 6), (x + 6, y + 14), (x - 6 - wide, y + 14)]
        covers = {place: _covered((place[0], place[1] - 9, place[0] + wide, place[1] + 2), boxes) for place in places}
        found[name] = min(places, key=lambda place: covers[place])  # of equally good ones, the first
        boxes.append((found[name][0], found[name][1] - 9, found[name][0] + wide, found[name][1] + 2))
    return found


def _covered(box: Box, others: Sequence[Box]) -> float:
    """Area of the box that lies on others, or beyond the drawing, which is worse."""
    left, top, right, bottom = box
    on = sum(max(0.0, min(right, r) - max(left, x)) * max(0.0, min(bottom, b) - max(top, y)) for x, y, r, b in others)
    beyond = max(0.0, LEFT - left) + max(0.0, right - WIDTH) + max(0.0, bottom - HEIGHT + BOTTOM) + max(0.0, -top)
    return on + 100 * beyond


def _rows(y: Axis, ticks: Sequence[float], text: Callable[[float], str] = number_text) -> list[str]:
    """Horizontal lines and what they stand for."""
    parts: list[str] = []
    for tick in ticks:
        place = y(tick)
        parts.append(f'<path class="grid" d="M{LEFT},{place:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(_text(LEFT - 5, place + 3.5, text(tick), "end"))
    return parts


def _columns(x: Axis, title: str, height: int = HEIGHT) -> list[str]:
    """Numbers below the chart; the title stands where the last one would."""
    right, low = WIDTH - RIGHT, height - 7
    parts = [f'<path class="axis" d="M{LEFT},{height - BOTTOM}H{right}"/>', _text(right, low, title, "end")]
    free = right - LETTER * len(title) - 16
    parts += [_text(x(tick), low, number_text(tick), "middle") for tick in x.ticks() if x(tick) < free]
    return parts


def _path(places: Points, series: Series, kind: str) -> str:
    dash = f' stroke-dasharray="{series.dash}"' if series.dash and kind == "line" else ""
    return f'<path class="{kind}"{dash} style="--c:var(--c-{series.colour})" d="{_places(places)}"/>'


def _places(places: Points) -> str:
    return "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _mark(place: tuple[float, float], series: Series, point: tuple[float, float], radius: float = 3) -> str:
    said = Markup("<title>{}: {}</title>").format(series.name, f"{point[1]:.4g}")
    style = f"--c:var(--c-{series.colour})"
    return (
        f'<circle class="mark" style="{style}" cx="{place[0]:.1f}" cy="{place[1]:.1f}" r="{radius:g}">{said}</circle>'
    )


def _text(x: float, y: float, text: str, anchor: str, kind: str = "tick") -> str:
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(
        kind, f"{x:.1f}", f"{y:.1f}", anchor, text
    )


def _clipped(parts: Sequence[str]) -> str:
    """What lies below the chart is not shown; at its other sides, half a mark is more."""
    x, y, width, height = LEFT - 4, TOP - 4, WIDTH - RIGHT - LEFT + 8, HEIGHT - BOTTOM - TOP + 4
    place = f'x="{x}" y="{y}" width="{width}" height="{height}" viewBox="{x} {y} {width} {height}"'
    return f"<svg {place}>{''.join(parts)}</svg>"


def _svg(title: str, parts: Iterable[str], height: int = HEIGHT) -> Markup:
    """`parts` are markup; the title is not."""
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img"><title>{}</title>{}</svg>').format(
        WIDTH, height, title, Markup("".join(parts))
    )
