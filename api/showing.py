"""``stockade show``: a reservation's or a SKU's whole story on one page, for the person on call."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sized
from contextlib import AsyncExitStack

from msgspec import to_builtins

from api.noted import note
from api.servers import open_ledger, open_store
from core.errors import StartRefused
from core.model import Reservation, ReservationLine, is_reservation_id, is_sku
from core.record_model import Movement
from core.settings import Settings
from core.story import PoolStory, ReservationStory, SkuStory, open_teller

COLUMNS = 100


def show(settings: Settings, what: str, people: bool) -> None:
    """Print a story; ``people``: with customers, else they are masked. Raises StartRefused for what
    is neither, or is not known."""
    if not (is_reservation_id(what) or is_sku(what)):
        raise StartRefused(f"{what!r} is neither the id of a reservation nor a SKU")
    story = asyncio.run(_ask(settings, what, people))
    if story is None:
        raise StartRefused(f"neither the store nor the ledger knows {what}")
    lines = _reservation(story) if isinstance(story, ReservationStory) else _sku(story)
    print("\n".join(lines))


async def _ask(
    settings: Settings, what: str, people: bool
) -> ReservationStory | SkuStory | None:
    if people:
        await note(settings, "read", f"show {what}")
    async with AsyncExitStack() as stack:
        settings = await stack.enter_async_context(open_store(settings))
        settings = await stack.enter_async_context(open_ledger(settings))
        teller = await stack.enter_async_context(open_teller(settings, people))
        found = await teller.reservation(what) if is_reservation_id(what) else None
        return found or await teller.sku(what)


def wrapped(indent: int, parts: Iterable[str]) -> Iterator[str]:
    """Parts in lines of at most 100 columns: what does not fit goes on, further in."""
    line, room = " " * indent, False
    for part in parts:
        if room and len(line) + 2 + len(part) > COLUMNS:
            yield line
            line, room = " " * (indent + 4), False
        line += "  " + part if room else part
        room = True
        while len(line) > COLUMNS:
            yield line[:COLUMNS]
            line = " " * (indent + 4) + line[COLUMNS:]
    yield line


# --- a reservation -------------------------------------------------------------------------------


def _reservation(story: ReservationStory) -> Iterator[str]:
    yield f"reservation {story.id}"
    last = story.in_store or story.in_ledger
    if last is not None:
        yield from wrapped(2, (f"made {last.created_at}", *_names(last)))
    yield from wrapped(2, ("in the store ", *_state(story.in_store, story.trouble)))
    yield from wrapped(2, ("in the ledger", *_state(story.in_ledger)))
    if last is not None:
        yield "\nlines"
        for line in last.lines:
            yield from _line(line)
    yield "\nversions"
    for version in story.versions:
        one = version.reservation
        said = [version.time, f"{one.version:>3}", f"{version.verb:<8}", one.state]
        if one.expires_at is not None:
            said.append(f"until {one.expires_at}")
        yield from wrapped(2, said)
    yield from _none(story.versions)
    yield "\nmovements"
    for each in story.movements:
        yield from _movement(each, story.id)
    yield from _none(story.movements, story.more)


def _names(one: Reservation) -> Iterator[str]:
    yield f"channel {one.channel}"
    if one.reference is not None:
        yield f"reference {one.reference}"
    if one.customer is not None:
        yield f"customer {one.customer}"


def _state(one: Reservation | None, trouble: str = "") -> Iterator[str]:
    """What one side has of a reservation."""
    if trouble:
        yield f"not known: {trouble}"
    elif one is None:
        yield "not there"
    else:
        yield f"{one.state}, version {one.version}, since {one.updated_at}"
        if one.expires_at is not None:
            yield f"until {one.expires_at}"


def _line(line: ReservationLine) -> Iterator[str]:
    counts = ("own", "borrowed", "fulfilled", "cancelled", "returned", "short")
    said = [f"{line.sku}@{line.location}", f"{line.quantity} units"]
    said += [f"{name} {units}" for name in counts if (units := getattr(line, name))]
    return wrapped(2, said)


def _movement(each: Movement, known: str = "") -> Iterator[str]:
    said = [
        each.time, f"{each.verb:<10}", f"{each.quantity:>6}", f"{each.source} → {each.target}",
        f"{each.sku}@{each.location} v{each.version}",
    ]  # fmt: skip
    for name in ("reservation", "reference", "reason", "actor", "occurred_at"):
        text = getattr(each, name)
        if text is not None and text != known:
            said.append(f"{name} {text}")
    return wrapped(2, said)


def _none(items: Sized, more: bool = False) -> Iterator[str]:
    """What ends a list: that it was empty, or not all."""
    if not len(items):
        yield "  none"
    if more:
        yield "  … and more"


# --- a SKU ---------------------------------------------------------------------------------------


def _sku(story: SkuStory) -> Iterator[str]:
    yield f"SKU {story.sku}"
    if story.trouble:
        yield from wrapped(2, (f"the store is not known: {story.trouble}",))
    if story.policy is not None:
        said = [f"policy {story.policy.version}", f"safety stock {story.policy.safety_stock}"]
        said += [f"{units} at {at}" for at, units in story.policy.safety_by_location.items()]
        for name, own in story.policy.channels.items():
            limits = {k: v for k, v in to_builtins(own).items() if v is not None}
            said.append(f"{name}: {', '.join(f'{k} {v}' for k, v in limits.items())}")
        yield from wrapped(2, said)
    for each in story.pools:
        yield from _pool(each)
    yield "\nat risk: open units in a pool with a deficit"
    for one in story.at_risk:
        yield from _holder(one, story.sku)
    yield from _none(story.at_risk, story.more_at_risk)
    yield "\nopen reservations, newest first"
    for one in story.open:
        yield from _holder(one, story.sku)
    yield from _none(story.open, story.more_open)
    yield "\nmovements, newest first"
    for movement in story.newest:
        yield from _movement(movement)
    yield from _none(story.newest)


def _pool(story: PoolStory) -> Iterator[str]:
    pool = story.pool
    versions = f"version {story.in_store} in the store, {story.in_ledger} in the ledger"
    yield f"\npool {pool.location}: {pool.on_hand} on hand, {versions}"
    accounts = ("shared", "safety", "damaged", "quarantine", "deficit")
    yield from wrapped(2, [f"{name} {getattr(pool, name)}" for name in accounts])
    for name, one in pool.channels.items():
        said = [
            name, f"free {one.free}", f"reserved {one.reserved}", f"committed {one.committed}",
            f"available {one.available}",
        ]  # fmt: skip
        if one.ceiling_left is not None:
            said.append(f"ceiling left {one.ceiling_left}")
        yield from wrapped(2, said)


def _holder(one: Reservation, sku: str) -> Iterator[str]:
    """A reservation, by its lines of a SKU."""
    said = [one.id, one.state, *_names(one)]
    if one.expires_at is not None:
        said.append(f"until {one.expires_at}")
    for line in one.lines:
        if line.sku == sku:
            left = line.quantity - line.fulfilled - line.cancelled
            said.append(f"{left} open at {line.location}")
    return wrapped(2, said)
