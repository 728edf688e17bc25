"""Every verb in every state of a reservation answers as API.md says, and versions guard it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from core.errors import StaleVersion, StockadeError
from core.model import Cancel, Commit, Extend, Fulfil, PartLine, Release
from core.ops import Receipt
from core.service import Service
from tests.workers import Store, demand, furnish, key, make_due, record

Verb = Callable[[Service, str], Awaitable[Receipt]]

VERBS: dict[str, Verb] = {
    "extend": lambda s, id: s.engine.extend(id, Extend(1800)),
    "commit": lambda s, id: s.engine.commit(id, Commit()),
    "commit refuse": lambda s, id: s.engine.commit(id, Commit(late="refuse")),
    "commit reacquire": lambda s, id: s.engine.commit(id, Commit(late="reacquire")),
    "release": lambda s, id: s.engine.release(id, Release()),
    "cancel": lambda s, id: s.engine.cancel(id, Cancel()),
    "cancel one": lambda s, id: s.engine.cancel(id, Cancel([PartLine("tee", 1)]), key(id[-12:])),
    "fulfil": lambda s, id: s.engine.fulfil(id, Fulfil()),
    "fulfil one": lambda s, id: s.engine.fulfil(id, Fulfil([PartLine("tee", 1)]), key(id[-12:])),
}

# What each verb answers: the state afterwards ("=" in front: it had happened already, nothing is
# written), or the code of the error and the state it names.
NO = "invalid_state"
TABLE: dict[str, dict[str, str]] = {
    "reserved": {
        "extend": "reserved", "commit": "committed", "commit refuse": "committed",
        "commit reacquire": "committed", "release": "released", "cancel": f"{NO} reserved",
        "cancel one": f"{NO} reserved", "fulfil": f"{NO} reserved", "fulfil one": f"{NO} reserved",
    },
    "due": {  # the deadline passed and nobody has tidied yet: it counts as expired for every verb
        "extend": f"{NO} expired", "commit": "committed again", "commit refuse": "expired",
        "commit reacquire": "committed again", "release": f"{NO} expired",
        "cancel": f"{NO} expired", "cancel one": f"{NO} expired", "fulfil": f"{NO} expired",
        "fulfil one": f"{NO} expired",
    },
    "expired": {
        "extend": f"{NO} expired", "commit": "committed again", "commit refuse": "expired",
        "commit reacquire": "committed again", "release": f"{NO} expired",
        "cancel": f"{NO} expired", "cancel one": f"{NO} expired", "fulfil": f"{NO} expired",
        "fulfil one": f"{NO} expired",
    },
    "released": {
        "extend": f"{NO} released", "commit": f"{NO} released", "commit refuse": f"{NO} released",
        "commit reacquire": "committed again", "release": "=released",
        "cancel": f"{NO} released", "cancel one": f"{NO} released", "fulfil": f"{NO} released",
        "fulfil one": f"{NO} released",
    },
    "committed": {
        "extend": f"{NO} committed", "commit": "=committed", "commit refuse": "=committed",
        "commit reacquire": "=committed", "release": f"{NO} committed", "cancel": "cancelled",
        "cancel one": "committed", "fulfil": "fulfilled", "fulfil one": "committed",
    },
    "part shipped": {
        "extend": f"{NO} committed", "commit": "=committed", "commit refuse": "=committed",
        "commit reacquire": "=committed", "release": f"{NO} committed", "cancel": "fulfilled",
        "cancel one": "committed", "fulfil": "fulfilled", "fulfil one": "committed",
    },
    "fulfilled": {
        "extend": f"{NO} fulfilled", "commit": "=fulfilled", "commit refuse": "=fulfilled",
        "commit reacquire": "=fulfilled", "release": f"{NO} fulfilled",
        "cancel": f"{NO} fulfilled", "cancel one": f"{NO} fulfilled", "fulfil": "=fulfilled",
        "fulfil one": f"{NO} fulfilled",
    },
    "cancelled": {
        "extend": f"{NO} cancelled", "commit": f"{NO} cancelled",
        "commit refuse": f"{NO} cancelled", "commit reacquire": f"{NO} cancelled",
        "release": f"{NO} cancelled", "cancel": "=cancelled", "cancel one": f"{NO} cancelled",
        "fulfil": f"{NO} cancelled", "fulfil one": f"{NO} cancelled",
    },
}  # fmt: skip


async def brought_to(service: Service, store: Store, state: str) -> str:
    """The id of a reservation of three units in this state."""
    engine = service.engine
    id = (await engine.reserve(demand(quantity=3))).id
    if state in ("due", "expired"):
        make_due(store, id)
        if state == "expired":
            await service.lane.tidy()
    elif state == "released":
        await engine.release(id, Release())
    elif state != "reserved":
        await engine.commit(id, Commit())
        if state == "part shipped":
            await engine.fulfil(id, Fulfil([PartLine("tee", 1)]), key(f"part-{id[-12:]}"))
        elif state == "fulfilled":
            await engine.fulfil(id, Fulfil())
        elif state == "cancelled":
            await engine.cancel(id, Cancel())
    return id


async def answer(service: Service, verb: str, id: str) -> str:
    """What a verb answers, in the words of the table."""
    before = (await service.engine.reservation(id)).version
    try:
        found = (await VERBS[verb](service, id)).reservation()
    except StockadeError as error:
        again = " (retryable)" if error.retryable else ""
        return f"{error.code} {getattr(error, 'state', '')}".strip() + again
    kept = "=" if found.version == before else ""
    return f"{kept}{found.state}{' again' if found.reacquired is True else ''}"


@pytest.mark.parametrize("state", TABLE)
async def test_every_verb_in_every_state(worker: Service, store: Store, state: str) -> None:
    """Each cell of the table on a reservation of its own; refused verbs change nothing."""
    await furnish(worker, {"tee": 100})
    answers = {}
    for verb in VERBS:
        id = await brought_to(worker, store, state)
        was = record(store, id)
        answers[verb] = await answer(worker, verb, id)
        if answers[verb].startswith((NO, "=")):
            assert record(store, id) == was, verb
    assert answers == TABLE[state]


async def test_versions_guard_every_verb(worker: Service, store: Store) -> None:
    """A stale If-Match has no effect; the one that is true has."""
    await furnish(worker, {"tee": 100})
    engine = worker.engine
    for verb in ("extend", "commit", "release", "commit cancel", "commit fulfil"):
        id = (await engine.reserve(demand())).id
        version = 1
        if verb.startswith("commit "):
            version = (await engine.commit(id, Commit())).version
        calls: dict[str, Callable[[int], Awaitable[Receipt]]] = {
            "extend": partial(engine.extend, id, Extend(1800), None),
            "commit": partial(engine.commit, id, Commit(), None),
            "release": partial(engine.release, id, Release(), None),
            "cancel": partial(engine.cancel, id, Cancel(), None),
            "fulfil": partial(engine.fulfil, id, Fulfil(), None),
        }
        call = calls[verb.rpartition(" ")[2]]
        was = record(store, id)
        for wrong in (version - 1, version + 1):
            with pytest.raises(StaleVersion):
                await call(wrong)
        assert record(store, id) == was
        assert (await call(version)).version == version + 1
