"""Plots are well-formed SVG, whoever wrote the texts, and stay inside their frame."""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest import plots, scales
from loadtest.plots import (
    WIDTH,
    Mark,
    Series,
    bar_chart,
    heat_map,
    line_chart,
    stacked_chart,
)

HOSTILE = "<script>alert('1')</script>&amp;\"\x00\x1b[31m\u202e\ud800]]>"


def lines(*series: Series, log: bool = False, marks: tuple[Mark, ...] = ()) -> str:
    xs = [x for each in series for x, _ in each.points]
    ys = [y for each in series for _, y in each.points if y is not None]
    y = scales.logarithmic(ys) if log else scales.linear(ys)
    return line_chart("A plot", "of this", series, ("time", scales.time(xs)), ("ms", y), marks)


def parsed(plot: str) -> ElementTree.Element:
    """The elements of a plot; fails if it is not well-formed."""
    return ElementTree.fromstring(plot)


def places(plot: str) -> Iterator[tuple[float, float]]:
    """All points of the lines of a plot."""
    for each in parsed(plot).iter("polyline"):
        for point in each.attrib["points"].split():
            x, y = point.split(",")
            yield float(x), float(y)


def inside(plot: str) -> bool:
    """True if nothing is drawn beyond the frame."""
    root = parsed(plot)
    _, _, width, height = (float(each) for each in root.attrib["viewBox"].split())
    xs = [x for x, _ in places(plot)]
    ys = [y for _, y in places(plot)]
    for each in root.iter():
        for name, value in each.attrib.items():
            if name in {"x", "x1", "x2", "cx"}:
                xs.append(float(value) + float(each.attrib.get("width", 0)))
            elif name in {"y", "y1", "y2", "cy"}:
                ys.append(float(value) + float(each.attrib.get("height", 0)))
    return all(-0.1 <= x <= width for x in xs) and all(-0.1 <= y <= height for y in ys)


VALUES = st.one_of(st.none(), st.just(0.0), st.floats(1e-6, 1e7))


@given(st.lists(st.lists(VALUES, max_size=30), min_size=1, max_size=20), st.booleans())
def test_whatever_the_values_the_plot_stays_inside(
    values: list[list[float | None]], log: bool
) -> None:
    series = [Series(f"line {number}", list(enumerate(each))) for number, each in enumerate(values)]
    assert inside(lines(*series, log=log))


def test_a_plot_says_what_it_is() -> None:
    root = parsed(lines(Series("one", [(0, 1.0), (1, 2.0)])))
    assert root.attrib["role"] == "img"
    named = root.attrib["aria-labelledby"].split()
    texts = {each.attrib["id"]: each.text for each in root if "id" in each.attrib}
    assert [texts[name] for name in named] == ["A plot", "of this"]


def test_strangers_texts_are_only_text() -> None:
    scale = scales.time([0, 1])
    for plot in (
        lines(Series(HOSTILE, [(0, 1.0), (1, 2.0)]), marks=(Mark(1, HOSTILE),)),
        bar_chart(HOSTILE, HOSTILE, [HOSTILE], [(HOSTILE, [1.0]), ("b", [2.0])], HOSTILE),
        stacked_chart(HOSTILE, HOSTILE, [HOSTILE], [(HOSTILE, [1.0]), ("b", [2.0])], HOSTILE),
        heat_map(HOSTILE, HOSTILE, [(HOSTILE, [1.0, 0.5])], (HOSTILE, scale), [0, 1]),
    ):
        tags = {each.tag for each in parsed(plot).iter()}
        assert tags <= {"svg", "title", "desc", "text", "line", "polyline", "circle", "rect"}
        plot.encode()  # no half of a surrogate pair


def test_a_gap_parts_a_line_and_a_lone_point_is_a_dot() -> None:
    root = parsed(lines(Series("one", [(0, 1.0), (1, 2.0), (2, None), (3, 1.0), (4, None)])))
    assert len(list(root.iter("polyline"))) == 1
    assert len(list(root.iter("circle"))) == 3  # so few points are marked


def test_what_a_logarithm_cannot_show_is_a_gap() -> None:
    plot = lines(Series("one", [(0, 1.0), (1, 2.0), (2, 0.0), (3, 5.0), (4, 9.0)]), log=True)
    assert len(list(parsed(plot).iter("polyline"))) == 2


def test_lines_beyond_the_palette_are_told_apart_by_dashes() -> None:
    series = [Series(f"line {number}", [(0, 1.0), (1, number + 1.0)]) for number in range(20)]
    looks = [each.attrib["class"] for each in parsed(lines(*series)).iter("polyline")]
    assert len(set(looks)) == len(looks)


def test_no_peak_is_lost_where_there_is_no_room_for_all_points() -> None:
    points: list[tuple[float, float | None]] = [(x, 1.0) for x in range(20_000)]
    points[7_777] = (7_777, 90.0)
    points[100:500] = [(x, None) for x in range(100, 500)]
    kept = plots.thinned(points)
    assert len(kept) <= plots.POINTS_MAX
    assert (7_777, 90.0) in kept
    assert any(y is None for _, y in kept)
    assert [x for x, _ in kept] == sorted(x for x, _ in kept)


@pytest.mark.parametrize("log", [False, True])
def test_bars_are_as_long_as_their_values(log: bool) -> None:
    plot = bar_chart(
        "Bars", "of this", ["a", "b", "c"],
        [("ours", [100.0, 50.0, None]), ("theirs", [10.0, 0.0, 20.0])], "per second", log,
    )  # fmt: skip
    assert inside(plot)
    bars = {
        title.text: float(bar.attrib["width"])
        for bar in parsed(plot).iter("rect")
        for title in bar.iter("title")
    }
    assert len(bars) == 5
    assert bars["a, ours: 100"] > bars["b, ours: 50"] > bars["c, theirs: 20"]
    assert bars["b, theirs: 0"] == 0
    if not log:
        assert bars["a, ours: 100"] == pytest.approx(2 * bars["b, ours: 50"], abs=0.2)


def test_a_heat_map_has_one_band_for_what_stays_the_same() -> None:
    times = [float(t) for t in range(100)]
    rows: list[tuple[str, list[float | None]]] = [
        ("full", [1.0] * 100),
        ("empty", [0.0] * 100),
        ("half gone", [1.0] * 50 + [None] * 25 + [0.0] * 25),
    ]
    plot = heat_map("Map", "of this", rows, ("time", scales.time(times)), times)
    assert inside(plot)
    cells = list(parsed(plot).iter("rect"))
    assert [cell.attrib["fill-opacity"] for cell in cells] == ["1.00", "0.05", "1.00", "0.05"]
    assert inside(heat_map("Map", "", [("one", [1.0])], ("time", scales.time([0])), [0]))


def test_long_names_are_cut_and_told_whole_where_the_pointer_rests() -> None:
    name = "a-channel-with-a-very-long-name-" * 4
    plot = lines(Series(name, [(0, 1.0), (1, 2.0)]))
    texts = [each for each in parsed(plot).iter("text") if (each.text or "").endswith("…")]
    assert [each.text for text in texts for each in text.iter("title")] == [name]


def test_a_long_name_beside_several_bars_is_on_several_lines() -> None:
    names = ["PostgreSQL, one row per unit and SKIP LOCKED", "short", "word " * 40]
    values: list[float | None] = [1.0, 2.0, 3.0]
    plot = bar_chart("Bars", "", names, [("a", values), ("b", values)], "per second")
    beside = [each for each in parsed(plot).iter("text") if "text-anchor" in each.attrib]
    assert "".join(each.text or "" for each in beside[:2]).replace(" ", "").startswith("PostgreSQL")
    assert len(beside) == 2 + 1 + 2
    assert (beside[-1].text or "").endswith("…")


def test_a_plot_can_be_a_file_of_its_own() -> None:
    file = plots.standalone(lines(Series("one", [(0, 1.0), (1, 2.0)])))
    root = ElementTree.fromstring(file)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "prefers-color-scheme:dark" in file
    assert f'viewBox="0 0 {WIDTH} ' in file


def test_every_colour_that_is_used_is_given_in_light_and_dark() -> None:
    used = set(re.findall(r"var\((--\w+)\)", plots.STYLE))
    for name in used:
        assert len(re.findall(rf"{name}:#", plots.STYLE)) == 3, f"{name}: light, dark, print"


def test_stacked_bars_stand_one_behind_the_other_and_their_sum_behind_them() -> None:
    plot = stacked_chart(
        "A plot", "of this", ["one", "two"], [("a", [1.0, 3.0]), ("b", [2.0, 0.0])], "µs"
    )
    bars = [each for each in parsed(plot).iter("rect") if each.find("title") is not None]
    (first, behind), (_, nothing) = bars[:2], bars[2:]
    assert float(first.attrib["x"]) + float(first.attrib["width"]) == pytest.approx(
        float(behind.attrib["x"]), abs=0.11
    )
    assert float(behind.attrib["width"]) == pytest.approx(2 * float(first.attrib["width"]), abs=0.2)
    assert float(nothing.attrib["width"]) == 0
    assert [each.text for each in parsed(plot).iter("text") if each.get("class") == "value"] == [
        "3", "3",
    ]  # fmt: skip
    assert inside(plot)
