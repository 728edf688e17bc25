"""The page of a run: complete, self-contained, and what it says about the run."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest

from loadtest.page import DIFFERENCES_MAX, render, verdict
from loadtest.pictures import pictures
from tests.loaded import document, values

VOID = {"meta", "link", "br", "img", "hr", "input"}
HOSTILE = "<img src=x onerror=alert(1)>\"'&\x00\u202e"


class Outline(HTMLParser):
    """Checks that elements are closed in order; gathers tags, attributes and texts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.ids: list[str] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def audit(*differences: str, oversold: int = 0) -> dict[str, Any]:
    passed = not differences
    return {
        "passed": passed and not oversold,
        "oversold": oversold,
        "checks": [
            {"name": "nothing oversold", "passed": passed, "checked": 10,
             "differences": list(differences)},
            {"name": "quotas kept", "passed": True, "checked": 3, "differences": []},
        ],
    }  # fmt: skip


def test_a_page_has_all_plots_tables_and_nothing_from_outside() -> None:
    page = render(document())
    seen = Outline(page)
    assert seen.tags.isdisjoint({"script", "link", "img", "iframe", "object", "a"})
    assert not re.search(r"url\(|@import|src=|https?://", page)
    assert len(set(seen.ids)) == len(seen.ids)
    assert [picture.title for picture in pictures(document())] == [
        "Throughput over time", "Latency over time", "Latency by percentile", "Stock",
        "Quota left by channel", "Refusals by reason",
    ]  # fmt: skip
    for said in ("Exact 0 units oversold", "41,200", "insufficient_stock", "100000", "seed 7"):
        assert said in seen.text
    for plot in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(plot)


def test_what_strangers_named_is_only_text() -> None:
    hostile = document(
        channels={HOSTILE: 10, "web": 5},
        scenario=HOSTILE,
        run=HOSTILE,
        settings={HOSTILE: [HOSTILE]},
        refusals={HOSTILE: 4},
        errors={HOSTILE: 4},
        operations={HOSTILE: values()["operations"]["reserve"]},
        audit=audit(HOSTILE),
        generator={"processes": 1, "bottleneck": True, "late_p99_ms": 1.0, "note": HOSTILE},
    )
    seen = Outline(render(hostile))
    assert "img" not in seen.tags
    assert not any(name.startswith("on") for name in seen.attributes)
    assert "\x00" not in seen.text
    assert "\u202e" not in seen.text


@pytest.mark.parametrize(
    ("audit", "word", "said"),
    [
        (audit(oversold=3), "OVERSOLD by 3 units", "More was promised than there was."),
        (audit("pool a: 11 of 10", oversold=1), "OVERSOLD by 1 unit", "1 of 2 checks"),
        (audit("pool a: gone"), "NOT EXACT", "Nothing was oversold. 1 of 2 checks"),
        (audit() | {"passed": False}, "NOT EXACT", "The audit did not pass."),
        (audit() | {"checks": []}, "NOT AUDITED", "No check was made"),
        (audit(), "Exact", "they looked at 13 things"),
    ],
)
def test_the_verdict_is_in_words(audit: dict[str, Any], word: str, said: str) -> None:
    run = document(audit=audit)
    found, sentence, good = verdict(run)
    assert (found, good) == (word, word == "Exact")
    assert said in sentence
    assert f"{word} {sentence}" in Outline(render(run)).text


def test_differences_are_listed_up_to_a_bound() -> None:
    page = render(document(audit=audit(*(f"pool {n}" for n in range(DIFFERENCES_MAX + 20)))))
    assert f"pool {DIFFERENCES_MAX - 1}<" in page
    assert f"pool {DIFFERENCES_MAX}<" not in page
    assert "and 20 more" in page
    some = audit("pool 1")
    some["checks"][0]["count"] = 5_000
    assert "and 4,999 more" in render(document(audit=some))


def test_a_generator_that_could_not_keep_up_is_warned_of() -> None:
    made = {"processes": 2, "bottleneck": True, "late_p99_ms": 412.0, "note": "both cores busy"}
    text = Outline(render(document(generator=made))).text
    assert "Measured is the generator as much as the service." in text
    assert "412.0 ms later than intended. Both cores busy." in text
    assert "Measured is" not in Outline(render(document())).text


def test_settings_are_written_as_a_person_would() -> None:
    channels = [{"name": f"shop-{n}", "floor": 0.5, "borrow": True, "most": None} for n in range(9)]
    text = Outline(render(document(settings={"skus": 3, "channels": channels}))).text
    assert "skus 3 channels name shop-0, floor 0.5, borrow yes, most none; name shop-1" in text
    assert "; and 1 more" in text


def test_a_second_without_answers_has_no_latency() -> None:
    moments = values()["timeline"]
    moments[10] |= {"answered": 0, "p50_ms": 0.0, "p99_ms": 0.0, "p999_ms": 0.0}
    (latency,) = [
        each for each in pictures(document(timeline=moments)) if "Latency o" in each.title
    ]
    assert len(list(ElementTree.fromstring(latency.plot).iter("polyline"))) == 2 * 3


def test_a_run_that_left_nothing_has_a_page_too() -> None:
    nothing = document(0, operations={}, refusals={}, errors={}, settings={})
    assert "The run left nothing to plot." in Outline(render(nothing)).text


def test_a_moment_may_lack_answers_and_stock() -> None:
    bare = [{"t": t, "asked": 1, "answered": 0, "granted": 0, "refused": 0, "errors": 0}
            for t in range(3)]  # fmt: skip
    shown = [picture.title for picture in pictures(document(timeline=bare))]
    assert shown == ["Throughput over time", "Latency by percentile", "Refusals by reason"]


def test_many_channels_are_told_apart_by_place() -> None:
    many = document(channels={f"channel-{n:02}": 10 + n for n in range(64)})
    (quota,) = [each for each in pictures(many) if each.title == "Quota left by channel"]
    root = ElementTree.fromstring(quota.plot)
    assert not list(root.iter("polyline"))
    assert len(list(root.iter("rect"))) >= 64
    assert "of 64 channels" in quota.text


def test_the_search_for_the_limit_shows_its_knee() -> None:
    steps = [
        {"rate": rate, "achieved": rate, "p99_ms": rate / 500, "errors": 0, "passed": rate < 4_000}
        for rate in (1_000, 2_000, 4_000, 3_000)
    ]
    run = document(find_limit={"steps": steps, "knee": 3_000.0})
    assert "knee 3,000/s" in [*pictures(run)][-1].plot
    assert "The knee: 3,000 requests per second." in Outline(render(run)).text
