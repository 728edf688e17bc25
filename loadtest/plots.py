"""Plots as SVG written by hand: lines, bars, heat maps. They need no script and nothing outside.

Colours and sizes are classes; ``STYLE`` gives them for light and dark, and belongs into the page
once. ``standalone`` makes a file of one plot. Every text is escaped, whoever wrote it.
"""

from __future__ import annotations

import html
import math
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from loadtest.scales import Scale, linear, logarithmic, short

WIDTH = 560
LEFT, RIGHT, TOP = 58, 26, 34  # room for ticks, for the last tick's end, for the y label
PLOT_HEIGHT = 210
X_AXIS_HEIGHT = 44
ROW_HEIGHT = 24  # of a legend
BAR_HEIGHT, BAR_GAP, GROUP_GAP = 18, 3, 12
CHARACTER = 10  # widest that text gets on a narrow screen
COLOURS = 8
POINTS_MAX = 500  # more than a plot has pixels to show
DOTTED_MAX = 24  # so few points are marked one by one
SHADES = 10

STYLE = (
    """
:root{--ink:#1c2430;--soft:#5b6470;--rule:#dde2e8;--page:#fff;--heat:#0077bb;
--c0:#0077bb;--c1:#d55e00;--c2:#009988;--c3:#aa3377;--c4:#997700;--c5:#3ba3db;--c6:#e0528f;
--c7:#5b6470}
@media (prefers-color-scheme:dark){:root{--ink:#e6eaf0;--soft:#a3adb9;--rule:#323a45;
--page:#14181e;--heat:#5ab0f2;--c0:#5ab0f2;--c1:#ff8a4c;--c2:#35c9b4;--c3:#dd7fb8;--c4:#ddbb55;
--c5:#9ad9ff;--c6:#ff8fb8;--c7:#aeb7c2}}
@media print{:root{--ink:#1c2430;--soft:#5b6470;--rule:#dde2e8;--page:#fff;--heat:#0077bb;
--c0:#0077bb;--c1:#d55e00;--c2:#009988;--c3:#aa3377;--c4:#997700;--c5:#3ba3db;--c6:#e0528f;
--c7:#5b6470}}
svg.plot{display:block;width:100%;height:auto;font:12px system-ui,sans-serif;
font-variant-numeric:tabular-nums}
.plot text{fill:var(--soft)}.plot .name,.plot .value{fill:var(--ink)}
.plot .grid{stroke:var(--rule);stroke-width:1}.plot .base{stroke:var(--soft);stroke-width:1}
.plot .line{fill:none;stroke-width:1.8;stroke-linejoin:round;stroke-linecap:round}
.plot .dashed{stroke-dasharray:5 4}.plot .dotted{stroke-dasharray:1 4}
.plot .mark{stroke:var(--ink);stroke-width:1.2;stroke-dasharray:3 3}
.plot .cell{fill:var(--heat)}
"""
    + "\n".join(
        f".plot .c{n}{{stroke:var(--c{n})}}.plot .f{n}{{fill:var(--c{n})}}" for n in range(COLOURS)
    )
    + """
@media print,(max-width:600px){svg.plot{font-size:17px}.plot .odd{display:none}}
"""
)

# What XML does not allow, and what turns the direction of the text around it.
UNFIT = re.compile("[^\t\n\r -\u2029\u202f-\u2065\u206a-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Series:
    """A line; a point of None is a gap. ``colour`` is a place in the palette, by order if None."""

    name: str
    points: Sequence[tuple[float, float | None]]
    colour: int | None = None
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Mark:
    """A value of the x axis that the reader looks for."""

    x: float
    label: str


def escape(text: str) -> str:
    """Fit for text and for attributes, in HTML and in XML."""
    return html.escape(UNFIT.sub("\ufffd", text))


def line_chart(
    title: str,
    description: str,
    series: Sequence[Series],
    x: tuple[str, Scale],
    y: tuple[str, Scale],
    marks: Sequence[Mark] = (),
) -> str:
    """Lines over one axis; the axes are their labels and scales."""
    bottom = TOP + PLOT_HEIGHT
    shown = [
        *_y_axis(*y),
        *_x_axis(*x, bottom),
        *(part for number, each in enumerate(series) for part in _line(each, number, x[1], y[1])),
        *(part for mark in marks for part in _mark(mark, x[1])),
    ]
    names = [(each.name, _look(each, number)) for number, each in enumerate(series)]
    legend, height = _legend(names, bottom + X_AXIS_HEIGHT)
    return _svg(title, description, [*shown, *legend], height)


def bar_chart(
    title: str,
    description: str,
    groups: Sequence[str],
    series: Sequence[tuple[str, Sequence[float | None]]],
    label: str,
    log: bool = False,
) -> str:
    """Lying bars, one of each series in every group, each with its value; some may be missing."""
    known = [value for _, values in series for value in values if value is not None]
    scale = logarithmic(known) if log else linear(known)
    left = min(WIDTH * 0.4, 10 + CHARACTER * max((len(each) for each in groups), default=0))
    room = WIDTH - left - 10 - CHARACTER * 7
    tall = len(series) * (BAR_HEIGHT + BAR_GAP) - BAR_GAP
    shown = [f'<text x="{left:.0f}" y="14">{escape(label + ", logarithmic" * log)}</text>']
    for row, group in enumerate(groups):
        top = TOP + row * (tall + GROUP_GAP)
        shown += _group(group, left - 8, top, tall)
        for number, (name, values) in enumerate(series):
            at = top + number * (BAR_HEIGHT + BAR_GAP)
            shown += _bar(name, group, values[row], number, at, left, room, scale)
    bottom = TOP + len(groups) * (tall + GROUP_GAP)
    shown.append(
        f'<line class="base" x1="{left:.0f}" x2="{left:.0f}" y1="{TOP - 4}" y2="{bottom - 6}"/>'
    )
    names = [(name, f"f{number % COLOURS}") for number, (name, _) in enumerate(series)]
    legend, height = _legend(names if len(names) > 1 else [], bottom)
    return _svg(title, description, [*shown, *legend], height)


def stacked_chart(
    title: str,
    description: str,
    groups: Sequence[str],
    series: Sequence[tuple[str, Sequence[float]]],
    label: str,
) -> str:
    """Lying bars, one in every group, of what each series adds; the sum stands behind it."""
    sums = [sum(values[row] for _, values in series) for row in range(len(groups))]
    scale = linear(sums)
    left = min(WIDTH * 0.4, 10 + CHARACTER * max((len(each) for each in groups), default=0))
    room = WIDTH - left - 10 - CHARACTER * 7
    shown = [f'<text x="{left:.0f}" y="14">{escape(label)}</text>']
    for row, group in enumerate(groups):
        top = TOP + row * (BAR_HEIGHT + GROUP_GAP)
        shown += _group(group, left - 8, top, BAR_HEIGHT)
        x = left
        for number, (name, values) in enumerate(series):
            width = room * scale.at(values[row])
            shown.append(
                f'<rect class="f{number % COLOURS}" x="{x:.1f}" y="{top}" width="{width:.1f}" '
                f'height="{BAR_HEIGHT}">'
                f"<title>{escape(f'{group}, {name}: {values[row]:,g}')}</title></rect>"
            )
            x += width
        shown.append(
            f'<text class="value" x="{x + 5:.1f}" y="{top + BAR_HEIGHT - 5}">'
            f"{escape(short(sums[row]))}</text>"
        )
    bottom = TOP + len(groups) * (BAR_HEIGHT + GROUP_GAP)
    names = [(name, f"f{number % COLOURS}") for number, (name, _) in enumerate(series)]
    legend, height = _legend(names, bottom)
    return _svg(title, description, [*shown, *legend], height)


def heat_map(
    title: str,
    description: str,
    rows: Sequence[tuple[str, Sequence[float | None]]],
    x: tuple[str, Scale],
    times: Sequence[float],
) -> str:
    """A band for each row, the fuller its colour the nearer to 1; for more rows than lines."""
    left = min(WIDTH * 0.4, 10 + CHARACTER * max((len(name) for name, _ in rows), default=0))
    tall = 14 if len(rows) <= 40 else 9
    shown = []
    for row, (name, values) in enumerate(rows):
        top = TOP + row * (tall + 1)
        if tall >= 12 or row % 2 == 0:
            shown.append(
                f'<text class="name" x="{left - 6:.0f}" y="{top + tall - 3}" text-anchor="end">'
                f"{_cut(name, left - 6)}</text>"
            )
        for start, end, shade in _bands(values, times, x[1]):
            from_x, to_x = (left + (WIDTH - RIGHT - left) * each for each in (start, end))
            shown.append(
                f'<rect class="cell" x="{from_x:.1f}" y="{top}" width="{to_x - from_x:.1f}" '
                f'height="{tall}" fill-opacity="{0.05 + 0.95 * shade / SHADES:.2f}"/>'
            )
    bottom = TOP + len(rows) * (tall + 1)
    shown += _x_axis(*x, bottom, left=left, grid=False)
    return _svg(title, description, shown, bottom + X_AXIS_HEIGHT)


def standalone(plot: str) -> str:
    """A file of one plot, with its style inside."""
    head, _, rest = plot.partition(">")
    style = f"<style>{STYLE}svg{{background:var(--page)}}</style>"
    return f'{head} xmlns="http://www.w3.org/2000/svg">\n{style}{rest}\n'


def thinned(points: Sequence[tuple[float, float | None]]) -> list[tuple[float, float | None]]:
    """As many as there is room for: of every stretch the lowest and the highest, so that no peak
    is lost."""
    stretch = math.ceil(2 * len(points) / POINTS_MAX)
    if stretch <= 2:
        return list(points)
    kept: list[tuple[float, float | None]] = []
    for start in range(0, len(points), stretch):
        part = points[start : start + stretch]
        known = [(x, y) for x, y in part if y is not None]
        if not known:
            kept.append((part[0][0], None))
            continue
        kept += sorted({min(known, key=lambda p: p[1]), max(known, key=lambda p: p[1])})
    return kept


def _svg(title: str, description: str, shown: Iterable[str], height: float) -> str:
    key = re.sub(r"\W+", "-", title.lower(), flags=re.ASCII)
    return "\n".join(
        (
            f'<svg class="plot" viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
            f'aria-labelledby="{key}-title {key}-text">',
            f'<title id="{key}-title">{escape(title)}</title>',
            f'<desc id="{key}-text">{escape(description)}</desc>',
            *shown,
            "</svg>",
        )
    )


def _across(scale: Scale, value: float, left: float = LEFT) -> float:
    return left + (WIDTH - RIGHT - left) * scale.at(value)


def _down(scale: Scale, value: float) -> float:
    return TOP + PLOT_HEIGHT * (1 - scale.at(value))


def _y_axis(label: str, scale: Scale) -> Iterator[str]:
    yield f'<text x="0" y="12">{escape(label)}</text>'
    for value, text in scale.ticks:
        y = _down(scale, value)
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{escape(text)}</text>'


def _x_axis(
    label: str, scale: Scale, bottom: float, left: float = LEFT, grid: bool = True
) -> Iterator[str]:
    for number, (value, text) in enumerate(scale.ticks):
        x = _across(scale, value, left)
        if grid:
            yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>'
        odd = ' class="odd"' if number % 2 else ""
        yield f'<text{odd} x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{escape(text)}</text>'
    yield f'<line class="base" x1="{left:.0f}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>'
    whole = f"{label}, {scale.unit}" if scale.unit else label
    yield (f'<text x="{WIDTH - RIGHT}" y="{bottom + 36}" text-anchor="end">{escape(whole)}</text>')


def _colour(series: Series, number: int) -> int:
    return number % COLOURS if series.colour is None else series.colour


def _look(series: Series, number: int) -> str:
    """The classes of a line: beyond the palette, dashes tell lines apart."""
    kind = ("", " dashed", " dotted")[min(2, number // COLOURS)]
    return f"line c{_colour(series, number)}{' dashed' if series.dashed else kind}"


def _line(series: Series, number: int, x: Scale, y: Scale) -> Iterator[str]:
    look, colour = _look(series, number), _colour(series, number)
    points = thinned(series.points)
    for run in _runs(points, y):
        places = [f"{_across(x, at):.1f},{_down(y, value):.1f}" for at, value in run]
        if len(places) > 1:
            yield (
                f'<polyline class="{look}" points="{" ".join(places)}">'
                f"<title>{escape(series.name)}</title></polyline>"
            )
        if len(places) == 1 or len(points) <= DOTTED_MAX:
            for place in places:
                across, down = place.split(",")
                yield f'<circle class="f{colour}" cx="{across}" cy="{down}" r="2.6"/>'


def _runs(
    points: Iterable[tuple[float, float | None]], y: Scale
) -> Iterator[list[tuple[float, float]]]:
    """The stretches between gaps. What a logarithmic scale cannot show is a gap, too."""
    run: list[tuple[float, float]] = []
    for at, value in points:
        fits = value is not None and math.isfinite(value)
        if value is not None and fits and (value > 0 or y.transform is float):
            run.append((at, value))
        elif run:
            yield run
            run = []
    if run:
        yield run


def _mark(mark: Mark, x: Scale) -> Iterator[str]:
    at = _across(x, mark.x)
    right = at > WIDTH * 0.6
    yield (
        f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{TOP + PLOT_HEIGHT}"/>'
        f'<text class="name" x="{at + (-6 if right else 6):.1f}" y="{TOP + 14}" '
        f'text-anchor="{"end" if right else "start"}">{escape(mark.label)}</text>'
    )


def _group(name: str, right: float, top: float, tall: float) -> Iterator[str]:
    """A name beside its bars, on as many lines as they are high."""
    most = max(3, int(right / CHARACTER))
    rows = textwrap.wrap(UNFIT.sub("\ufffd", name), most) or [""]
    fit = max(1, int(tall // 18))
    if len(rows) > fit:
        rows[fit - 1 :] = [" ".join(rows[fit - 1 :])]
    for number, row in enumerate(rows):
        y = top + tall / 2 + 4 + 18 * (number - (len(rows) - 1) / 2)
        yield (
            f'<text class="name" x="{right:.0f}" y="{y:.1f}" text-anchor="end">'
            f"{_cut(row, right)}</text>"
        )


def _bar(
    name: str,
    group: str,
    value: float | None,
    number: int,
    top: float,
    left: float,
    room: float,
    scale: Scale,
) -> Iterator[str]:
    if value is None:
        return
    share = scale.at(value) if value > 0 else 0.0
    width = max(1.0 if value else 0.0, room * share)
    yield (
        f'<rect class="f{number % COLOURS}" x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" '
        f'height="{BAR_HEIGHT}"><title>{escape(f"{group}, {name}: {value:,g}")}</title></rect>'
        f'<text class="value" x="{left + width + 5:.1f}" y="{top + BAR_HEIGHT - 5:.1f}">'
        f"{escape(short(value))}</text>"
    )


def _bands(
    values: Sequence[float | None], times: Sequence[float], x: Scale
) -> Iterator[tuple[float, float, int]]:
    """(from, to, shade) of stretches that look the same; a gap has none."""
    ends = [*times[1:], times[-1] + (times[-1] - times[-2] if len(times) > 1 else 1.0)]
    start, shade = 0.0, None
    for value, at, end in zip(values, times, ends, strict=True):
        now = None if value is None else math.ceil(SHADES * min(1.0, max(0.0, value)))
        if now != shade:
            if shade is not None:
                yield start, min(1.0, x.at(at)), shade
            start, shade = min(1.0, x.at(at)), now
        last = min(1.0, x.at(end))
    if shade is not None:
        yield start, last, shade


def _legend(names: Sequence[tuple[str, str]], top: float) -> tuple[list[str], float]:
    """Names beside how they look, in rows; and where they end."""
    if not names:
        return [], top
    shown = []
    x, y = 0.0, top + 12
    for name, look in names:
        room = min(WIDTH / 2 - 36, len(name) * CHARACTER)
        if x + room + 24 > WIDTH:
            x, y = 0.0, y + ROW_HEIGHT
        shown.append(
            f'<line class="{look}" x1="{x:.1f}" x2="{x + 18:.1f}" y1="{y}" y2="{y}"/>'
            if look.startswith("line")
            else f'<rect class="{look}" x="{x:.1f}" y="{y - 6}" width="18" height="12"/>'
        )
        shown.append(f'<text class="name" x="{x + 24:.1f}" y="{y + 4}">{_cut(name, room)}</text>')
        x += room + 36
    return shown, y + ROW_HEIGHT - 6


def _cut(text: str, room: float) -> str:
    """Escaped, no wider than the room; the whole of it where the pointer rests."""
    most = max(3, int(room / CHARACTER))
    if len(text) <= most:
        return escape(text)
    return f"{escape(text[: most - 1])}…<title>{escape(text)}</title>"
