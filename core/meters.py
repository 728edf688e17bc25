"""What is counted, under which name, and the counters that the hot path bumps.

``FAMILIES`` is all that ``/metrics`` shows: what processes count, what ``core.watch`` finds in the
ledger, and what ``core.gauges`` reads when somebody asks. Units are base units, the last word of a
name; labels have few values: channels are at most 64, reasons are codes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from core.errors import LineError, StockadeError, Unavailable
from core.sheets import Sheet, loose_sheet
from core.tracing import tell

WORKER_STATES = ("ready", "draining", "closed")
Kind = Literal["counter", "gauge", "histogram"]


class Family(NamedTuple):
    """All series of one name. ``bounds`` are the upper ends of a histogram's buckets."""

    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()


SECONDS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
OPERATIONS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0)

FAMILIES: dict[str, Family] = {
    "stockade_reservations_total": Family(
        "counter",
        "Verbs on reservations by how they ended: done, repeated (it had happened already), "
        "refused, failed (nothing happened), unknown (it may have happened). The reason is the "
        "problem's code, of insufficient_stock what limited the first line.",
        ("verb", "outcome", "reason", "channel"),
    ),
    "stockade_expired_units_total": Family(
        "counter", "Units whose reservation expired unsold.", ("channel",)
    ),
    "stockade_stock_lines_total": Family(
        "counter", "Lines of stock verbs by how they ended.", ("verb", "outcome", "reason")
    ),
    "stockade_scripts_total": Family(
        "counter",
        "Scripts that the store answered, by outcome: applied, rebased, conflict, known, and "
        "epoch, clock, policy where something had to be mended first.",
        ("script", "outcome"),
    ),
    "stockade_script_errors_total": Family(
        "counter", "Scripts that the store would not run, by its error.", ("error",)
    ),
    "stockade_lane_events_total": Family(
        "counter",
        "What happened in the lanes: pipelines sent, ahead of an answer, resent, demands refused, "
        "ops given_up after too many conflicts, corrupt rows met, law_broken by a plan.",
        ("event",),
    ),
    "stockade_batch_operations": Family(
        "histogram", "Operations that went with one script.", ("script",), OPERATIONS
    ),
    "stockade_queue_wait_seconds": Family(
        "histogram",
        "How long an operation waited from when it came in until it was first sent or refused.",
        ("script",),
        SECONDS,
    ),
    "stockade_script_duration_seconds": Family(
        "histogram",
        "From sending a pipeline of scripts until all of it was answered, fsync included.",
        (),
        SECONDS,
    ),
    "stockade_http_requests_total": Family(
        "counter", "Requests answered.", ("method", "route", "status")
    ),
    "stockade_http_request_duration_seconds": Family(
        "histogram",
        "From the head of a request until its answer was ready; streams are not in it.",
        ("method", "route"),
        SECONDS,
    ),
    "stockade_scribe_events_total": Family("counter", "Events written to the ledger."),
    "stockade_scribe_retries_total": Family(
        "counter", "Transactions of the scribe that failed and were, or will be, tried again."
    ),
    "stockade_scribe_write_duration_seconds": Family(
        "histogram", "How long writing one batch of events to the ledger took.", (), SECONDS
    ),
    "stockade_process_starts_total": Family(
        "counter", "Starts of processes; more than one is a death or a restart.", ("process",)
    ),
    # --- as it is now, of each process; the living ones are summed -------------------------------
    "stockade_queue_operations": Family("gauge", "Operations that wait in the lanes."),
    "stockade_workers": Family(
        "gauge", "Workers that live: ready, draining, or closed (see /readyz).", ("state",)
    ),
    # --- of the ledger, as the scribe's process finds it now and then ----------------------------
    "stockade_live_reservations": Family(
        "gauge", "Reservations that are reserved or committed.", ("state", "channel")
    ),
    "stockade_oldest_unpaid_seconds": Family(
        "gauge", "Age of the oldest reservation that is reserved; 0 if none is."
    ),
    "stockade_deficit_units": Family(
        "gauge", "Units promised or set aside that were found missing; more than 0 alarms."
    ),
    "stockade_deficit_pools": Family("gauge", "Pools with a deficit."),
    "stockade_on_hand_units": Family("gauge", "Units on hand, in all pools."),
    "stockade_promised_units": Family("gauge", "Units reserved or committed, in all pools."),
    "stockade_drift_differences": Family(
        "gauge", "Differences that the last reconciliation found."
    ),
    "stockade_drift_units": Family(
        "gauge", "Units that the last reconciliation found in the wrong account, or nowhere."
    ),
    "stockade_drift_variance_ratio": Family(
        "gauge", "Variance rate of the last reconciliation; below 0.005 is normal."
    ),
    "stockade_oversold_units": Family(
        "gauge", "Units that the last reconciliation found promised and not there."
    ),
    "stockade_oversold_orders": Family(
        "gauge", "Orders with such units; three or more a day alarm."
    ),
    "stockade_drift_open_cases": Family("gauge", "Cases of reconciling that are not closed."),
    "stockade_reconciled_timestamp_seconds": Family(
        "gauge", "When the last reconciliation came to its end; 0 if none did."
    ),
    "stockade_watch_timestamp_seconds": Family(
        "gauge", "When the ledger was last looked at for live reservations, deficit and drift."
    ),
    # --- as the worker that is asked knows it ----------------------------------------------------
    "stockade_ledger_lag_events": Family("gauge", "Events that the ledger does not have yet."),
    "stockade_ledger_lag_seconds": Family("gauge", "How far the ledger is behind the store."),
    "stockade_ledger_backlog_bytes": Family(
        "gauge", "What the events of the store take of its memory."
    ),
    "stockade_ledger_backlog_limit_bytes": Family(
        "gauge", "From where on no new reservations are taken."
    ),
    "stockade_ledger_up": Family("gauge", "1 if the scribe writes, 0 if it waits; see /readyz."),
    "stockade_store_up": Family("gauge", "1 if the worker that was asked may use the store."),
    "stockade_store_durability": Family(
        "gauge", "1 at the level that the store gives, 0 at the other.", ("level",)
    ),
    "stockade_store_memory_bytes": Family("gauge", "Memory that the store uses."),
    "stockade_store_memory_limit_bytes": Family("gauge", "Its maxmemory; 0 is without a limit."),
    "stockade_store_script_seconds_total": Family(
        "counter", "Time that the store spent in scripts since it started; no fsync is in it."
    ),
    "stockade_store_script_calls_total": Family(
        "counter", "Scripts that the store ran since it started."
    ),
    "stockade_clock_suspect": Family(
        "gauge", "1 while the store's clock is not believed, and nothing expires."
    ),
    "stockade_protect_mode": Family(
        "gauge", "1 while stock is protected: nothing is lent, and less is taken."
    ),
    "stockade_dropped_series": Family("gauge", "Series that found no room on their sheet."),
}


class Cells(dict[Any, int]):
    """Where the series of a family are, by what varies; the rest of its labels is fixed.

    ``values[cells[channel]] += 1`` counts. A key is the last label, or a tuple of the last ones.
    """

    def __init__(self, sheet: Sheet, family: str, *fixed: str) -> None:
        self._sheet = sheet
        self._family = family
        self._fixed = fixed
        bounds = FAMILIES[family].bounds
        self._width = len(bounds) + 2 if bounds else 1  # buckets, what is above, the sum

    def __missing__(self, key: str | tuple[str, ...]) -> int:
        labels = (*self._fixed, *((key,) if isinstance(key, str) else key))
        assert len(labels) == len(FAMILIES[self._family].labels)
        at = self[key] = self._sheet.cell(self._family, labels, self._width)
        return at


class Counts:
    """A family of counters as a mapping: ``counts["resent"] += 1``."""

    def __init__(self, sheet: Sheet, family: str) -> None:
        self._values = sheet.values
        self._cells = Cells(sheet, family)

    def __getitem__(self, key: str | tuple[str, ...]) -> int:
        return int(self._values[self._cells[key]])

    def __setitem__(self, key: str | tuple[str, ...], value: float) -> None:
        self._values[self._cells[key]] = value


class Histogram:
    """A family of histograms."""

    def __init__(self, sheet: Sheet, family: str) -> None:
        self._values = sheet.values
        self._bounds = FAMILIES[family].bounds
        self._cells = Cells(sheet, family)

    def observe(self, key: str | tuple[str, ...], value: float) -> None:
        """Counts one value."""
        at = self._cells[key]
        self._values[at + bisect_left(self._bounds, value)] += 1
        self._values[at + len(self._bounds) + 1] += value

    def observe_waits(self, key: str, ops: Iterable[Any], until_ms: float) -> None:
        """Counts how long each of the ops has waited until then, unless it was counted before."""
        at, values, bounds = self._cells[key], self._values, self._bounds
        total = 0.0
        for op in ops:
            entered_ms = op.entered_ms
            if entered_ms:
                op.entered_ms = 0.0
                seconds = (until_ms - entered_ms) * 0.001
                values[at + bisect_left(bounds, seconds)] += 1
                total += seconds
        values[at + len(bounds) + 1] += total


class RouteMeter:
    """The requests of one route."""

    def __init__(self, sheet: Sheet, method: str, route: str) -> None:
        self._values = sheet.values
        self._statuses: dict[int, int] = {}
        self._cells = Cells(sheet, "stockade_http_requests_total", method, route)
        self._at = Cells(sheet, _DURATIONS, method)[route]

    def answered(self, status: int) -> None:
        """One was answered."""
        at = self._statuses.get(status)
        if at is None:
            at = self._statuses[status] = self._cells[str(status)]
        self._values[at] += 1

    def took(self, seconds: float) -> None:
        """An answer was ready after so long."""
        bounds = FAMILIES[_DURATIONS].bounds
        self._values[self._at + bisect_left(bounds, seconds)] += 1
        self._values[self._at + len(bounds) + 1] += seconds


_DURATIONS = "stockade_http_request_duration_seconds"


class Meters:
    """The counters of one process."""

    def __init__(self, sheet: Sheet | None = None) -> None:
        """``sheet``: where they are counted; None for nobody to see, as in commands."""
        self.sheet = sheet = loose_sheet() if sheet is None else sheet
        self._values = sheet.values
        self.traced = False  # whether somebody traces requests
        self.draining = False  # whether the worker is about to stop, while it still serves
        self.lane = Counts(sheet, "stockade_lane_events_total")
        self.scripts = Counts(sheet, "stockade_scripts_total")
        self.script_errors = Counts(sheet, "stockade_script_errors_total")
        self.batches = Histogram(sheet, "stockade_batch_operations")
        self.waits = Histogram(sheet, "stockade_queue_wait_seconds")
        self.flights = Histogram(sheet, "stockade_script_duration_seconds")
        self.starts = Counts(sheet, "stockade_process_starts_total")
        self.scribe_writes = Histogram(sheet, "stockade_scribe_write_duration_seconds")
        self._expired_units = Cells(sheet, "stockade_expired_units_total")
        self._stock = Counts(sheet, "stockade_stock_lines_total")
        self._reservations = Counts(sheet, "stockade_reservations_total")
        # verb, and whether it had happened before → channel → its cell
        self._ended: dict[tuple[str, bool], Cells] = {}

    def route(self, method: str, route: str) -> RouteMeter:
        """Counts the requests of this route."""
        return RouteMeter(self.sheet, method, route)

    def flew(self, flight: Any, landed_ms: float) -> None:
        """A pipeline was answered, a ``core.flight.Flight``."""
        self.flights.observe((), (landed_ms - flight.launched_ms) * 0.001)
        if self.traced:
            tell(flight, landed_ms)
        for step in flight.steps:
            if step.ops:
                self.landed(step.script.name, step.ops, flight.sent_ms)

    def landed(self, script: str, ops: Any, sent_ms: float) -> None:
        """A script was answered that went out with these ops."""
        self.batches.observe(script, len(ops))
        self.waits.observe_waits(script, ops, sent_ms)

    def ended(self, verb: str, channel: str, repeated: bool) -> None:
        """A verb on a reservation has its effect, now or since before."""
        cells = self._ended.get((verb, repeated))
        if cells is None:
            outcome = "repeated" if repeated else "done"
            cells = Cells(
                self.sheet, "stockade_reservations_total", verb, outcome, ""
            )
            self._ended[(verb, repeated)] = cells
        self._values[cells[channel]] += 1

    def expired(self, record: bytes) -> None:
        """A reservation expired unsold; ``record`` says what was held."""
        words = record.split(b" ")
        channel = words[6].decode()
        self.ended("expire", channel, False)
        units = 0
        for line in words[9:]:
            own, borrowed = line.rpartition(b"@")[2].split(b",", 2)[:2]
            units += int(own) + int(borrowed)
        self._values[self._expired_units[channel]] += units

    def not_ended(self, verb: str, channel: str, error: StockadeError) -> None:
        """A verb on a reservation has no effect, or none that is known."""
        self._reservations[(verb, *_outcome(error), channel)] += 1

    def stock_line(self, verb: str, error: StockadeError | None, repeated: bool) -> None:
        """What became of a line of a stock verb."""
        outcome = ("repeated" if repeated else "done", "") if error is None else _outcome(error)
        self._stock[(verb, *outcome)] += 1

    def beat(self, waiting: int, state: str) -> None:
        """A worker lives: how many operations wait in it, and whether it serves."""
        self.show("stockade_queue_operations", waiting)
        for each in WORKER_STATES:
            self.show("stockade_workers", float(each == state), each)
        self.sheet.beat()

    def add(self, family: str, value: float = 1.0) -> None:
        """Counts up a counter that has no labels."""
        self._values[self.sheet.cell(family)] += value

    def show(self, family: str, value: float, *labels: str) -> None:
        """Sets a gauge."""
        self._values[self.sheet.cell(family, labels)] = value


def _outcome(error: StockadeError) -> tuple[str, str]:
    """(outcome, reason) of what went wrong."""
    reason = error.code
    if isinstance(error, LineError) and error.lines:
        reason = error.lines[0].get("limited_by") or reason
    if isinstance(error, Unavailable) and error.outcome == "unknown":
        return "unknown", reason
    return ("failed" if error.retryable or reason == "internal_error" else "refused"), reason


def channel_of(record: bytes) -> str:
    """The channel of a record, as cheaply as it can be had."""
    return record.split(b" ", 7)[6].decode()


Found = dict[str, dict[tuple[str, ...], list[float]]]  # family → labels → its cells


def merged(sheets: Iterable[Sheet]) -> Found:
    """All series, summed over the sheets: counters of all, gauges of those whose process lives."""
    found: Found = {}
    lost = 0
    for sheet in sheets:
        fresh = sheet.fresh
        lost += sheet.lost
        for name, labels, values in sheet.series():
            family = FAMILIES.get(name)
            if family is None or len(labels) != len(family.labels):
                continue  # another version counts here, until its sheet is taken over
            if family.kind == "gauge" and not fresh:
                continue
            known = found.setdefault(name, {}).get(labels)
            if known is None or len(known) != len(values):
                found[name][labels] = values
            else:
                found[name][labels] = [a + b for a, b in zip(known, values, strict=True)]
    found["stockade_dropped_series"] = {(): [float(lost)]}
    return found
