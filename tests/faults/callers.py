"""A small crowd that orders and settles while things break, and remembers every answer.

Each caller does what API.md asks of a client: a request without a final answer is repeated under
its key until there is one. A reservation is changed by the caller alone who made it, so its last
answer says exactly how it must be found.
"""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.processes import until
from tests.stored import Record

CALLERS = 6  # every other one never asks for the ledger: it goes on while that is away
SKUS = [f"tee-{n}" for n in range(6)]
UNITS = 1_000_000
SCARCE, SCARCE_UNITS = "last", 20
PATIENCE_SECONDS = 60.0  # for the final answer of one request
ATTEMPT_SECONDS = 20.0
BREATH_SECONDS = 0.005  # between two requests of a caller
AGAIN_SECONDS = 0.03  # before a request is repeated
REPLAYED_MAX = 150  # keys that are used again in the end, beside all that were in doubt
LETTERS = {
    "reserved": "R", "committed": "C", "fulfilled": "F", "released": "L", "cancelled": "K",
}  # fmt: skip


@dataclass(frozen=True)
class Reply:
    """What came back over HTTP."""

    status: int
    body: Any
    replayed: bool


@dataclass(frozen=True)
class Answer:
    """The final answer to one request, and whether it took more than one attempt."""

    path: str
    body: dict[str, Any]
    key: str
    status: int
    id: str
    doubtful: bool


@dataclass
class Held:
    """A reservation as its last answer had it; ``sure`` is the last version that was acknowledged
    as in the ledger, or 0."""

    state: str
    version: int
    sure: int


@dataclass
class Tally:
    """What callers were told, all of them or one."""

    counts: Counter[str] = field(default_factory=Counter)
    answers: list[Answer] = field(default_factory=list)
    held: dict[str, Held] = field(default_factory=dict)


class Callers:
    """Starts at once; ``stop`` it, then ``check`` what it was told against what is there."""

    def __init__(self, url: Callable[[], str], seed: object, ledger: bool = True) -> None:
        """``url``: where the service is now; it may come back elsewhere. ``ledger``: some of them
        ask for it."""
        self.url = url
        self.seed = seed
        self.ledger = ledger
        self.abandoned = False  # nobody waits for final answers any more
        self._stopping = threading.Event()
        self._callers = [_Caller(self, number) for number in range(CALLERS)]
        for caller in self._callers:
            caller.start()

    @property
    def stopping(self) -> bool:
        """True when no new request shall be begun."""
        return self._stopping.is_set()

    def count(self, *names: str) -> int:
        """How often these were counted until now."""
        return sum(caller.tally.counts[name] for caller in self._callers for name in names)

    def reservations(self) -> int:
        """How many were made until now."""
        return sum(len(caller.tally.held) for caller in self._callers)

    def more(self, number: int, *names: str) -> None:
        """Returns when so many more of these were counted."""
        wanted = self.count(*names) + number

        def there() -> bool:
            self._look()
            return self.count(*names) >= wanted

        until(there, f"{number} more of {names}", PATIENCE_SECONDS)

    def stop(self) -> Tally:
        """Has every caller get its final answer; what all of them were told."""
        self._stopping.set()
        for caller in self._callers:
            caller.join()
        self._look()
        whole = Tally()
        for caller in self._callers:
            whole.counts += caller.tally.counts
            whole.answers += caller.tally.answers
            whole.held |= caller.tally.held
        return whole

    def abandon(self) -> None:
        """Ends them as they are: the test has failed, or is through with them."""
        self.abandoned = True
        self._stopping.set()
        for caller in self._callers:
            caller.join()

    def _look(self) -> None:
        failed = [caller.failure for caller in self._callers if caller.failure]
        assert not failed, failed


class _Caller(threading.Thread):
    """One of them."""

    def __init__(self, crowd: Callers, number: int) -> None:
        super().__init__(daemon=True)
        self.tally = Tally()
        self.failure: BaseException | None = None
        self._crowd = crowd
        self._number = number
        self._dice = random.Random(f"{crowd.seed}/{number}")
        self._levels: tuple[str, ...] = ("memory", "fsync")
        if crowd.ledger and number % 2:
            self._levels = ("memory", "fsync", "ledger")
        self._client = Client(crowd.url, keeps=number % 3 > 0)
        self._keys = 0
        self._mine: list[str] = []  # those that are reserved or committed

    def run(self) -> None:
        try:
            while not self._crowd.stopping:
                self._turn()
                time.sleep(BREATH_SECONDS)
        except BaseException as error:
            self.failure = error  # told of by whoever waits
        finally:
            self._client.close()

    def _turn(self) -> None:
        dice = self._dice
        if len(self._mine) < 4 or dice.random() < 0.4:
            self._reserve()
            return
        id = self._mine.pop(dice.randrange(len(self._mine)))
        held = self.tally.held[id]
        if held.state == "reserved":
            verb = dice.choice(("commit", "commit", "release"))
        else:
            verb = dice.choice(("fulfil", "cancel"))
        level = dice.choice(self._levels) if verb == "commit" else "fsync"
        body = {"durability": level} if verb == "commit" else {}
        reply = self._insist(f"/v1/reservations/{id}/{verb}", body, level)
        assert reply.status == 200, (verb, held, reply)
        self._note(reply, level)
        if verb == "commit":
            self._mine.append(id)

    def _reserve(self) -> None:
        dice = self._dice
        skus = [SCARCE] if dice.random() < 0.15 else dice.sample(SKUS, dice.randint(1, 2))
        level = dice.choice(self._levels)
        body = {
            "channel": "web", "durability": level, "ttl_seconds": 3_000,
            "lines": [{"sku": sku, "quantity": dice.randint(1, 3)} for sku in skus],
        }  # fmt: skip
        if dice.random() < 0.1:
            body |= {"state": "committed"}
            del body["ttl_seconds"]
        reply = self._insist("/v1/reservations", body, level)
        if reply.status == 409:
            assert reply.body["code"] == "insufficient_stock", reply
            assert skus == [SCARCE], reply
            self.tally.counts["refused"] += 1
            return
        assert reply.status == 201, reply
        self._note(reply, level)
        self._mine.append(reply.body["id"])

    def _note(self, reply: Reply, level: str) -> None:
        id, version = reply.body["id"], reply.body["version"]
        self.tally.counts[level] += 1
        before = self.tally.held.get(id)
        sure = version if level == "ledger" else before.sure if before else 0
        self.tally.held[id] = Held(reply.body["state"], version, sure)

    def _insist(self, path: str, body: dict[str, Any], level: str) -> Reply:
        """The final answer, however often it must be asked for under the same key."""
        self._keys += 1
        key = f"{self._crowd.seed}/{self._number}/{self._keys}"
        deadline = time.monotonic() + PATIENCE_SECONDS
        doubtful = False
        while True:
            reply = self._client.post(path, body, key)
            if reply is not None and reply.status != 503:
                break
            told = _told(reply) or self._client.why
            doubtful = doubtful or told in ("broken", "unknown", "ledger_unavailable unknown")
            self.tally.counts[told] += 1
            patient = time.monotonic() < deadline and not self._crowd.abandoned
            assert patient, (path, body, reply)
            time.sleep(AGAIN_SECONDS)
        assert doubtful or not reply.replayed, (path, reply)
        if reply.status != 409:
            id = reply.body["id"]
            self.tally.answers.append(Answer(path, body, key, reply.status, id, doubtful))
        return reply


def _told(reply: Reply | None) -> str:
    """How an answer that is not final is counted."""
    if reply is None:
        return ""
    if reply.body["code"] == "ledger_unavailable":
        return f"ledger_unavailable {reply.body['outcome']}"
    return str(reply.body["outcome"])


class Client:
    """One kept connection, made again when it broke, or for each request."""

    def __init__(self, url: Callable[[], str], keeps: bool = True) -> None:
        self.why = ""  # there was no answer: the port was "closed", or the connection "broken"
        self._url = url
        self._keeps = keeps
        self._connection: http.client.HTTPConnection | None = None
        self._at = ""

    def post(self, path: str, body: Any, key: str = "") -> Reply | None:
        """The answer; None if there was none."""
        return self.ask("POST", path, body, key)

    def insist(self, path: str, body: Any, key: str) -> Reply:
        """The final answer."""
        found: list[Reply] = []

        def there() -> bool:
            reply = self.post(path, body, key)
            if reply is not None and reply.status != 503:
                found.append(reply)
            return bool(found)

        until(there, f"a final answer of {path}", PATIENCE_SECONDS)
        return found[0]

    def ask(self, method: str, path: str, body: Any = None, key: str = "") -> Reply | None:
        """The answer; None if there was none."""
        at = self._url()
        if self._connection is None or at != self._at:
            self.close()
            self._at = at
            self._connection = http.client.HTTPConnection(
                at.removeprefix("http://"), timeout=ATTEMPT_SECONDS
            )
        headers = {"content-type": "application/json"}
        if key:
            headers["idempotency-key"] = key
        text = None if body is None else json.dumps(body)
        try:
            self._connection.request(method, path, text, headers)
            with self._connection.getresponse() as found:
                replayed = found.getheader("idempotent-replayed") == "true"
                return Reply(found.status, json.loads(found.read() or b"null"), replayed)
        except (OSError, http.client.HTTPException) as error:
            self.why = "closed" if isinstance(error, ConnectionRefusedError) else "broken"
            self.close()
            return None
        finally:
            if not self._keeps:
                self.close()

    def close(self) -> None:
        """Closes the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def furnish(url: str) -> None:
    """A channel, and enough of everything but of one SKU."""
    client = Client(lambda: url)
    stock = dict.fromkeys(SKUS, UNITS) | {SCARCE: SCARCE_UNITS}
    found = [client.ask("PUT", "/v1/channels/web", {"floor_share": 0.5}, "channel")]
    found += [client.ask("PUT", f"/v1/skus/{sku}", {}, f"sku-{sku}") for sku in stock]
    lines = [{"sku": sku, "location": "main", "quantity": n} for sku, n in stock.items()]
    received = client.post("/v1/stock/receive", {"lines": lines}, "stock")
    client.close()
    assert all(reply and reply.status == 201 for reply in found), found
    assert received is not None
    assert {result["status"] for result in received.body["results"]} == {200}, received


# --- what must be there --------------------------------------------------------------------------


def check_held(tally: Tally, there: dict[str, Record]) -> list[str]:
    """Every reservation is as its last answer had it, or is at least what was acknowledged as in
    the ledger; those that are less than they were told to be, which the tally has as they are now.
    Nobody has one that was never told of."""
    lost = []
    for id, held in list(tally.held.items()):
        found = there.get(id)
        version = found.version if found else 0
        assert held.sure <= version <= held.version, (id, held, found)
        if version < held.version:
            lost.append(id)
            del tally.held[id]
            if found:
                state = next(word for word, letter in LETTERS.items() if letter == found.state)
                tally.held[id] = Held(state, version, held.sure)
        else:
            assert found is not None
            assert found.state == LETTERS[held.state], (id, held, found)
    unknown = there.keys() - tally.held.keys()
    assert not unknown, f"nobody was told of {unknown}"
    return lost


def check_keys(tally: Tally, url: str, dice: random.Random) -> int:
    """Each key again: the same status, the same id, nothing done; how many were tried."""
    doubtful = [each for each in tally.answers if each.doubtful]
    sure = [each for each in tally.answers if not each.doubtful]
    chosen = doubtful + dice.sample(sure, min(len(sure), REPLAYED_MAX))
    client = Client(lambda: url)
    for each in chosen:
        reply = client.insist(each.path, each.body, each.key)
        assert (reply.status, reply.replayed) == (each.status, True), (each, reply)
        assert reply.body["id"] == each.id, (each, reply)
    client.close()
    ids = Counter(each.id for each in tally.answers if each.path == "/v1/reservations")
    assert not [id for id, times in ids.items() if times > 1], "two keys were given one id"
    return len(chosen)
