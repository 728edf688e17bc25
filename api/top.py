"""``stockade top``: what a running service does, on one screen, from its ``/metrics``."""

from __future__ import annotations

import http.client
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TextIO
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

from core.errors import StartRefused, StockUnavailable

TIMEOUT_SECONDS = 10.0
VERBS = ("reserve", "amend", "extend", "commit", "release", "cancel", "fulfil", "return", "expire")
OUTCOMES = ("done", "repeated", "refused", "failed", "unknown")
ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"  # the other screen, no cursor
HOME, END_OF_LINE, END_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"
BOLD, ALARM, PLAIN = "\x1b[1m", "\x1b[1;31m", "\x1b[0m"

Labels = tuple[tuple[str, str], ...]


class Line(NamedTuple):
    """A line of the screen; ``style`` is an escape sequence or empty."""

    text: str
    style: str = ""


class Scrape:
    """What ``/metrics`` said at one moment."""

    def __init__(self, text: str, at: float) -> None:
        self.at = at
        self._found: dict[str, dict[Labels, float]] = defaultdict(dict)
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self._found[sample.name][tuple(sorted(sample.labels.items()))] = sample.value

    def series(self, name: str, **wanted: str) -> Iterator[tuple[dict[str, str], float]]:
        """Labels and value of the series of a name that have these labels."""
        for labels, value in self._found.get(name, {}).items():
            named = dict(labels)
            if all(named.get(label) == each for label, each in wanted.items()):
                yield named, value

    def sum(self, name: str, **wanted: str) -> float:
        """All of them together."""
        return sum(value for _, value in self.series(name, **wanted))

    def by(self, label: str, name: str, **wanted: str) -> dict[str, float]:
        """The same by the values of one label."""
        found: dict[str, float] = defaultdict(float)
        for labels, value in self.series(name, **wanted):
            found[labels[label]] += value
        return found


class Between:
    """What happened between two scrapes."""

    def __init__(self, before: Scrape, now: Scrape) -> None:
        self._before = before
        self.now = now
        self.seconds = max(now.at - before.at, 1e-3)

    def rate(self, name: str, **wanted: str) -> float:
        """Of a counter, per second."""
        grown = self.now.sum(name, **wanted) - self._before.sum(name, **wanted)
        return max(0.0, grown) / self.seconds

    def rates(self, label: str, name: str, **wanted: str) -> dict[str, float]:
        """The same by the values of one label, the highest first; none that stood still."""
        before = self._before.by(label, name, **wanted)
        grown = {
            each: (value - before.get(each, 0.0)) / self.seconds
            for each, value in self.now.by(label, name, **wanted).items()
        }
        return dict(sorted(((k, v) for k, v in grown.items() if v > 0), key=lambda kv: -kv[1]))

    def quantile(self, share: float, name: str, **wanted: str) -> float | None:
        """Of a histogram: below this lay such a share of what was counted; None if nothing was."""
        before = self._before.by("le", f"{name}_bucket", **wanted)
        grown = sorted(
            (float(end), value - before.get(end, 0.0))
            for end, value in self.now.by("le", f"{name}_bucket", **wanted).items()
        )
        rank = share * grown[-1][1] if grown else 0.0
        if not rank:
            return None
        low, below = 0.0, 0.0
        for end, count in grown:
            if count >= rank:
                if end == float("inf"):
                    break
                return low + (end - low) * (rank - below) / (count - below)
            low, below = end, count
        return low


def lines(url: str, found: Between) -> list[Line]:
    """The screen."""
    return [*_head(url, found), *_verbs(found), *_times(found), *_stock(found), *_servers(found)]


def _head(url: str, found: Between) -> Iterator[Line]:
    now = found.now
    states = now.by("state", "stockade_workers")
    workers = ", ".join(f"{states[state]:.0f} {state}" for state in states if states[state])
    level = next((each for each, on in now.by("level", "stockade_store_durability").items() if on),
                 "unknown")  # fmt: skip
    yield Line(f"Stockade at {url}", BOLD)
    well = states.get("ready", 0) and not states.get("closed", 0)
    yield Line(f"workers  {workers or 'none'}", "" if well else ALARM)
    up = now.sum("stockade_store_up")
    suspect = ", clock suspect" if now.sum("stockade_clock_suspect") else ""
    yield Line(
        f"store    {'ok' if up else 'AWAY'}, durability {level}{suspect}",
        "" if up and level == "fsync" and not suspect else ALARM,
    )


def _verbs(found: Between) -> Iterator[Line]:
    name = "stockade_reservations_total"
    yield Line("")
    yield Line(f"{'per second':<12}" + "".join(f"{each:>11}" for each in OUTCOMES), BOLD)
    for verb in VERBS:
        rates = [found.rate(name, verb=verb, outcome=each) for each in OUTCOMES]
        yield Line(f"{verb:<12}" + "".join(f"{rate:>11,.1f}" for rate in rates),
                   ALARM if rates[3] or rates[4] else "")  # fmt: skip
    reasons = found.rates("reason", name, outcome="refused")
    yield Line(f"refused for  {_shares(reasons) or '-'}")


def _shares(rates: dict[str, float]) -> str:
    """What makes up the whole, in per cent."""
    whole = sum(rates.values())
    return ", ".join(f"{each} {100 * rate / whole:.0f} %" for each, rate in rates.items())


def _times(found: Between) -> Iterator[Line]:
    requests = "stockade_http_request_duration_seconds"
    path = "/v1/reservations"
    yield Line("")
    yield Line(f"{'time':<12}{'p50':>11}{'p99':>11}", BOLD)
    for label, name, wanted in (
        ("reserve", requests, {"route": path, "method": "POST"}),
        ("commit", requests, {"route": path + "/{id}/commit"}),
        ("queue wait", "stockade_queue_wait_seconds", {}),
        ("scripts", "stockade_script_duration_seconds", {}),
    ):
        ends = [_seconds(found.quantile(share, name, **wanted)) for share in (0.5, 0.99)]
        yield Line(f"{label:<12}" + "".join(f"{end:>11}" for end in ends))
    sent = found.rate("stockade_batch_operations_count")
    size = found.rate("stockade_batch_operations_sum") / sent if sent else 0.0
    outcomes = found.rates("outcome", "stockade_scripts_total", script="reserve")
    yield Line(
        f"batches      {size:,.1f} operations; reserves {_shares(outcomes) or '-'}; "
        f"{found.now.sum('stockade_queue_operations'):,.0f} wait"
    )


def _stock(found: Between) -> Iterator[Line]:
    now = found.now
    live = now.by("state", "stockade_live_reservations")
    held = now.sum("stockade_reservations_total", verb="reserve", outcome="done")
    sold = now.sum("stockade_reservations_total", verb="commit", outcome="done")
    deficit = now.sum("stockade_deficit_units")
    yield Line("")
    yield Line(
        f"stock        {now.sum('stockade_on_hand_units'):,.0f} on hand, "
        f"{now.sum('stockade_promised_units'):,.0f} promised, deficit {deficit:,.0f}",
        ALARM if deficit else "",
    )
    yield Line(
        f"live         {live.get('reserved', 0):,.0f} reserved, {live.get('committed', 0):,.0f} "
        f"committed; oldest unpaid {_seconds(now.sum('stockade_oldest_unpaid_seconds'))}"
    )
    ratio = f"{100 * sold / held:.0f} %" if held else "-"
    yield Line(
        f"sold         {ratio} of what was reserved; "
        f"{now.sum('stockade_expired_units_total'):,.0f} units expired unsold"
    )
    cases = now.sum("stockade_drift_open_cases")
    variance = now.sum("stockade_drift_variance_ratio")
    at = now.sum("stockade_reconciled_timestamp_seconds")
    age = f"{_seconds(max(0.0, now.at - at))} ago" if at else "never"
    yield Line(
        f"reconciled   {age}; {cases:,.0f} open cases, variance {100 * variance:.2f} %",
        ALARM if cases else "",
    )


def _servers(found: Between) -> Iterator[Line]:
    now = found.now
    events, late = now.sum("stockade_ledger_lag_events"), now.sum("stockade_ledger_lag_seconds")
    up = now.sum("stockade_ledger_up")
    backlog = _bytes(now.sum("stockade_ledger_backlog_bytes"))
    room = _bytes(now.sum("stockade_ledger_backlog_limit_bytes"))
    yield Line(
        f"ledger       {'' if up else 'STOPPED, '}{events:,.0f} events, {late:.1f} s behind; "
        f"backlog {backlog} of {room}",
        "" if up else ALARM,
    )
    busy = 100 * found.rate("stockade_store_script_seconds_total")
    used = _bytes(now.sum("stockade_store_memory_bytes"))
    limit = now.sum("stockade_store_memory_limit_bytes")
    of = f" of {_bytes(limit)}" if limit else ""
    yield Line(f"store        {used}{of}; scripts take {busy:.1f} % of its core")


def _seconds(value: float | None) -> str:
    """A time as a person reads it."""
    if value is None:
        return "-"
    if value < 1:
        return f"{1000 * value:.2f} ms"
    for unit, seconds in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if value >= 2 * seconds:
            return f"{value / seconds:.1f} {unit}"
    return f"{value:.1f} s"


def _bytes(value: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1_024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1_024
    return f"{value:.1f} TiB"


def scrape(url: str, key: str | None) -> Scrape:
    """Asks the service. Raises StockUnavailable if it does not answer so."""
    headers = {"accept": "text/plain"} | ({"authorization": f"Bearer {key}"} if key else {})
    request = urllib.request.Request(f"{url}/metrics", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
            return Scrape(answer.read().decode(), time.time())
    except urllib.error.HTTPError as error:
        wanted = "; it wants --key-file with a key of scope operate" if error.code == 401 else ""
        raise StockUnavailable(f"{url}/metrics answers {error.code}{wanted}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise StockUnavailable(f"{url} cannot be reached: {reason}") from None


def top(url: str, key_file: Path | None, interval_seconds: float, once: bool) -> None:
    """Shows the service until Ctrl-C, or with ``once`` what one interval was like.

    Raises StartRefused for what cannot be used, StockUnavailable if it cannot be reached at first.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise StartRefused(f"{url} is not an address: it begins with http:// or https://")
    try:
        key = key_file.read_text().strip() if key_file else None
    except OSError as error:
        raise StartRefused(f"{key_file} cannot be read: {error.strerror}") from None
    before = scrape(url, key)
    if once:
        time.sleep(interval_seconds)
        print(*(line.text for line in lines(url, Between(before, scrape(url, key)))), sep="\n")
        return
    screen = sys.stdout
    screen.write(ENTER)
    try:
        _show(screen, [Line(f"Stockade at {url}", BOLD), Line("…")])
        while True:
            time.sleep(interval_seconds)
            try:
                now = scrape(url, key)
            except StockUnavailable as error:
                _show(screen, [Line(f"Stockade at {url}", BOLD), Line(error.detail, ALARM)])
                continue
            _show(screen, lines(url, Between(before, now)))
            before = now
    except KeyboardInterrupt:
        pass  # the way to leave
    finally:
        screen.write(LEAVE)
        screen.flush()


def _show(screen: TextIO, shown: Iterable[Line]) -> None:
    """Draws over what was there, cut to the terminal."""
    columns, rows = shutil.get_terminal_size()
    drawn = [
        f"{style}{text[:columns]}{PLAIN if style else ''}{END_OF_LINE}"
        for text, style in [*shown][: rows - 1]
    ]
    screen.write(HOME + "\r\n".join(drawn) + END_OF_SCREEN)
    screen.flush()
