"""How often somebody may ask: what is let in, what is said of it, how much is remembered."""

from __future__ import annotations

import random
import subprocess
import sys

import httpx2
import pytest

from api.app import App
from api.limits import Limits
from api.problems import RateLimited
from core import rates
from core.access import Caller
from core.keyring import Keyring, hash_of, new_id, new_secret
from core.ledger.keys import LiveKey
from core.rates import RATES_BYTES, Rates
from core.sheets import Book
from tests.fake_service import BASKET, FakeService
from tests.problems import assert_problem
from tests.processes import ROOT


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock that rates are counted by."""
    clock = [5_000.0]
    monkeypatch.setattr(rates, "monotonic", lambda: clock[0])
    return clock


def made() -> Rates:
    return Rates(memoryview(bytearray(RATES_BYTES)))


def test_a_quota_is_given_back_evenly(now: list[float]) -> None:
    counted = made()
    found = [counted.spend(b"a", 4, 2.0) for _ in range(5)]
    assert [each.left for each in found] == [3, 2, 1, 0, 0]
    assert [each.reset_seconds for each in found] == [1, 1, 2, 2, 2]
    assert [each.wait_seconds for each in found] == [0, 0, 0, 0, 1]
    assert counted.spend(b"b", 4, 2.0).left == 3
    now[0] += 0.5  # one of four in two seconds
    assert [counted.spend(b"a", 4, 2.0).wait_seconds for _ in range(2)] == [0, 1]
    now[0] += 2.0
    assert counted.spend(b"a", 4, 2.0).left == 3


def test_who_names_many_customers_goes_on_owing(now: list[float]) -> None:
    """However many there are, none of them takes the place of a key."""
    book = Book()
    limits = Limits(book.rates, book.customer_rates, customer_rate=2)
    caller = Caller("stockade_x", "till", frozenset(), rate=2)
    for _ in range(caller.rate or 0):
        limits.of_key(caller)
    for n in range(2 * rates.WAYS * rates.SETS):
        limits.of_customer(f"{n}")
    with pytest.raises(RateLimited):
        limits.of_key(caller)


def test_no_more_is_let_in_than_the_rate(now: list[float], seed: int) -> None:
    """Over any time: the quota at once, and then what its window gives back."""
    draw = random.Random(seed)
    counted = made()
    let_in: list[float] = []
    for _ in range(4_000):
        now[0] += draw.expovariate(200.0)
        if not counted.spend(b"a", 50, 1.0).wait_seconds:
            let_in.append(now[0])
    while not counted.spend(b"a", 50, 1.0).wait_seconds:
        let_in.append(now[0])  # what is left of it at the end
    for first in range(0, len(let_in), 7):
        within = [at for at in let_in[first:] if at < let_in[first] + 1.0]
        assert len(within) <= 101
    assert len(let_in) == pytest.approx(50 * (now[0] - 5_000.0) + 50, abs=2)


def test_what_was_given_beyond_is_owed(now: list[float]) -> None:
    counted = made()
    assert counted.spend(b"a", 10, 1.0).left == 9
    assert counted.owe(b"a", 10, 1.0, 29) == (0, 3, 0)
    assert counted.spend(b"a", 10, 1.0).wait_seconds == 3
    now[0] += 2.11
    assert counted.spend(b"a", 10, 1.0).wait_seconds == 0


def test_who_asks_under_many_names_finds_bounded_room(now: list[float]) -> None:
    """Whoever was quiet for longest is forgotten, and nobody else."""
    counted = made()
    for n in range(3 * rates.WAYS * rates.SETS):
        now[0] += 1e-6
        counted.spend(b"%d" % n, 10, 1.0)
    assert counted.spend(b"%d" % n, 10, 1.0).left == 8


def test_all_processes_of_a_service_count_together() -> None:
    book = Book()
    assert book.rates.spend(b"a", 3, 3_600.0).left == 2
    program = (
        "import sys; from core.sheets import Book\n"
        "print(Book(int(sys.argv[1])).rates.spend(b'a', 3, 3600.0).left)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(book.descriptor)], pass_fds=[book.descriptor],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    assert done.stdout == "1\n"
    assert book.rates.spend(b"a", 3, 3_600.0).left == 0
    assert book.rates.spend(b"a", 3, 3_600.0).wait_seconds > 1_000


class OneKey:
    """A ledger with one key."""

    def __init__(self, rate: int | None) -> None:
        id, secret = new_id(), new_secret()
        scopes = frozenset({"reserve", "operate"})
        self.headers = {"Authorization": f"Bearer {id}.{secret}"}
        self._key = LiveKey(id, "till", scopes, None, rate, hash_of(secret), None, 0.0)

    async def live(self) -> list[LiveKey]:
        return [self._key]


async def test_a_key_hears_how_it_stands_and_when_to_come_again(
    client: httpx2.AsyncClient, service: FakeService, now: list[float]
) -> None:
    one = OneKey(rate=3)
    service.keyring = Keyring(one, None)  # type: ignore[arg-type]
    await service.keyring.read()
    found = [
        await client.post("/v1/reservations", json=BASKET, headers=one.headers) for _ in range(4)
    ]
    assert [each.status_code for each in found] == [201, 201, 201, 429]
    assert [each.headers["ratelimit"] for each in found] == [
        '"key";r=2;t=1', '"key";r=1;t=1', '"key";r=0;t=1', '"key";r=0;t=1'
    ]  # fmt: skip
    assert {each.headers["ratelimit-policy"] for each in found} == {'"key";q=3;w=1'}
    assert assert_problem(found[3], 429, "rate_limited")["retryable"] is True
    assert found[3].headers["retry-after"] == "1"
    assert len(service.engine.calls) == 3
    assert (await client.get("/metrics", headers=one.headers)).status_code == 429
    now[0] += 1.0
    # A batch is as many requests as it has elements; what there is no room for is owed.
    batch = {"reservations": [BASKET] * 9}
    answer = await client.post("/v1/reservations/batch", json=batch, headers=one.headers)
    assert (answer.status_code, answer.headers["ratelimit"]) == (200, '"key";r=0;t=3')
    now[0] += 2.0
    late = await client.post("/v1/reservations", json=BASKET, headers=one.headers)
    assert late.headers["retry-after"] == "1"
    # What is wrong with a request is counted, too: it costs as much.
    now[0] += 1.0
    wrong = await client.post("/v1/reservations", json={}, headers=one.headers)
    assert (wrong.status_code, wrong.headers["ratelimit"]) == (422, '"key";r=2;t=1')


async def test_none_is_limited_unless_somebody_says_so(
    client: httpx2.AsyncClient, service: FakeService
) -> None:
    one = OneKey(rate=None)
    service.keyring = Keyring(one, None)  # type: ignore[arg-type]
    await service.keyring.read()
    for _ in range(50):
        answer = await client.post("/v1/reservations", json=BASKET, headers=one.headers)
        assert answer.status_code == 201
        assert "ratelimit" not in answer.headers


async def test_a_customer_reserves_only_so_often(
    client: httpx2.AsyncClient, app: App, service: FakeService, now: list[float]
) -> None:
    app.limits = Limits(app.book.rates, app.book.customer_rates, customer_rate=2)
    basket = BASKET | {"customer": "c-1"}
    other = BASKET | {"customer": "c-2"}
    dry = await client.post("/v1/reservations?dry_run=true", json=basket)
    assert dry.status_code != 429
    answer = await client.post("/v1/reservations", json=basket)
    assert answer.status_code == 201
    elements = [basket, basket, other, BASKET, {"verb": "release", "id": "x"}]
    results = (
        await client.post("/v1/reservations/batch", json={"reservations": elements})
    ).json()["results"]
    assert [each["status"] for each in results] == [201, 429, 201, 201, 200]
    assert results[1]["problem"]["code"] == "rate_limited"
    answer = await client.post("/v1/reservations", json=basket)
    assert_problem(answer, 429, "rate_limited")
    assert answer.headers["ratelimit-policy"] == '"customer";q=2;w=60'
    assert answer.headers["retry-after"] == "30"
    now[0] += 30.0
    assert (await client.post("/v1/reservations", json=basket)).status_code == 201
