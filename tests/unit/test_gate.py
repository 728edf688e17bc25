"""Who is let in: from this machine where there are no keys, by key where there are."""

from __future__ import annotations

import asyncio

import httpx2
import pytest

from api.app import App
from api.call import BODY_BYTES_MAX
from api.gate import Gate, is_local
from api.problems import Forbidden, Unauthenticated
from core import keyring
from core.access import LOOPBACK
from core.errors import LedgerUnavailable
from core.keyring import Keyring, hash_of, new_id, new_secret
from core.ledger.keys import LiveKey
from tests.fake_service import BASKET, FakeService
from tests.problems import assert_problem


class FakeTable:
    """Keys that are there, or a ledger that is away."""

    def __init__(self, *keys: LiveKey) -> None:
        self.keys: list[LiveKey] | None = list(keys)
        self.away = False

    async def live(self) -> list[LiveKey] | None:
        if self.away:
            raise LedgerUnavailable("away")
        return self.keys


def live(id: str, secret: str, former: str | None = None, seconds: float = 0.0) -> LiveKey:
    old = None if former is None else hash_of(former)
    scopes = frozenset({"reserve"})
    return LiveKey(id, "till", scopes, None, None, hash_of(secret), old, seconds)


def bearer(id: str, secret: str) -> bytes:
    return f"Bearer {id}.{secret}".encode()


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock of the keys."""
    clock = [1_000.0]
    monkeypatch.setattr(keyring, "monotonic_ms", lambda: clock[0])
    return clock


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "LOCALHOST.", "[::1]"])
@pytest.mark.parametrize("port", ["", ":8080"])
def test_this_machine_is_served_by_its_own_names(host: str, port: str) -> None:
    headers = {b"host": f"{host}{port}".encode()}
    gate = Gate("127.0.0.1")
    for _ in range(2):
        assert gate.caller(headers, Keyring(None, None)) is LOOPBACK
    assert gate.caller({}, Keyring(None, None)) is LOOPBACK  # HTTP/1.0, which no browser speaks


@pytest.mark.parametrize(
    "host",
    ["shop.example", "127.0.0.1.shop.example", "localhost.shop.example", "192.0.2.1", "", "0.0.0.0",
     "localhost, shop.example", "[2001:db8::1]:80", "::1", "\xff"],
)  # fmt: skip
def test_a_name_of_another_s_is_refused(host: str) -> None:
    """A page elsewhere may have its own name lead to 127.0.0.1."""
    with pytest.raises(Forbidden):
        Gate("127.0.0.1").caller({b"host": host.encode("latin-1")}, Keyring(None, None))


@pytest.mark.parametrize(
    "name",
    ["Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP", "Via"],
)
async def test_what_comes_through_a_proxy_is_refused(
    client: httpx2.AsyncClient, service: FakeService, name: str
) -> None:
    headers = {name: "192.0.2.1"}
    answer = await client.post("/v1/reservations", json=BASKET, headers=headers)
    assert "stockade keys create" in assert_problem(answer, 403, "forbidden")["detail"]
    assert (await client.get("/metrics", headers=headers)).status_code == 403
    assert (await client.get("/healthz", headers=headers)).status_code == 200
    assert service.engine.calls == []


def test_without_a_key_nobody_comes_in_from_elsewhere() -> None:
    """Whatever a caller says of its host: it is where we listen that counts."""
    with pytest.raises(Unauthenticated):
        Gate("0.0.0.0").caller({b"host": b"localhost"}, Keyring(None, None))
    assert not is_local("0.0.0.0")
    assert not is_local("::")
    assert not is_local("no such host")
    assert is_local("::1")


async def test_a_key_is_known_by_its_hash() -> None:
    id, secret = new_id(), new_secret()
    ring = Keyring(FakeTable(live(id, secret)), None)  # type: ignore[arg-type]
    with pytest.raises(LedgerUnavailable):
        ring.caller(bearer(id, secret))
    await ring.read()
    for _ in range(2):
        found = ring.caller(bearer(id, secret))
        assert found is not None
        assert (found.id, found.name, found.channels) == (id, "till", None)
    assert ring.caller(bearer(id, secret).replace(b"Bearer", b"bearer")) is not None
    for wrong in (
        b"", b"Bearer", b"Bearer ", bearer(id, ""), bearer(id, secret[:-1]), bearer("", secret),
        bearer(id, secret + "a"), bearer(id, secret) + b", " + bearer(id, secret),
        b"Basic " + bearer(id, secret)[7:], bearer(id, secret) + b"\xff", b"Bearer " + b"x" * 9_000,
    ):  # fmt: skip
        assert ring.caller(wrong) is None


async def test_the_secret_before_counts_until_its_time(now: list[float]) -> None:
    id, secret, former = new_id(), new_secret(), new_secret()
    table = FakeTable(live(id, secret, former, 5.0))
    ring = Keyring(table, None)  # type: ignore[arg-type]
    await ring.read()
    assert ring.caller(bearer(id, former)) is not None
    table.away = True
    now[0] += 5_001
    await ring.read()
    assert ring.caller(bearer(id, former)) is None
    assert ring.caller(bearer(id, secret)) is not None


async def test_reading_goes_on_whatever_goes_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a table that may not be read for a while: else no revocation was felt any more."""
    monkeypatch.setattr(keyring, "READ_SECONDS", 0.001)
    id, secret = new_id(), new_secret()
    table = FakeTable(live(id, secret))
    ring = Keyring(table, None)  # type: ignore[arg-type]
    await ring.read()

    async def until(state: str) -> None:
        async with asyncio.timeout(20.0):
            while ring.shown()["state"] != state:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.001)

    reading = asyncio.create_task(ring.run(lambda: False))
    with monkeypatch.context() as broken:
        broken.setattr(table, "live", lambda: 1 / 0)
        await until("ZeroDivisionError: division by zero")
        assert ring.caller(bearer(id, secret)) is not None
    table.keys = []
    await until("ok")
    assert ring.caller(bearer(id, secret)) is None
    reading.cancel()


async def test_known_keys_outlive_the_ledger_for_a_day(now: list[float]) -> None:
    id, secret = new_id(), new_secret()
    table = FakeTable(live(id, secret))
    ring = Keyring(table, None)  # type: ignore[arg-type]
    await ring.read()
    table.away = True
    now[0] += 1_000 * keyring.KEPT_SECONDS
    await ring.read()
    assert ring.caller(bearer(id, secret)) is not None
    assert ring.shown()["state"] == "away"
    now[0] += 1_000
    await ring.read()
    with pytest.raises(LedgerUnavailable):
        ring.caller(bearer(id, secret))
    table.away = False
    table.keys = []
    await ring.read()
    assert ring.needed
    assert ring.caller(bearer(id, secret)) is None


async def test_headers_of_strangers_take_no_room() -> None:
    id, secret = new_id(), new_secret()
    ring = Keyring(FakeTable(live(id, secret)), None)  # type: ignore[arg-type]
    await ring.read()
    for n in range(3 * keyring.SPELLINGS_MAX):
        ring.caller(bearer(id, f"{n}"))
        spelled = b"".join(bytes([c ^ (32 * (n >> k & 1))]) for k, c in enumerate(b"bearer"))
        ring.caller(spelled + b" " * (n % 100) + b" " + bearer(id, secret)[7:])
    assert 0 < len(ring._by_header) <= keyring.SPELLINGS_MAX


async def test_who_pours_into_a_closed_door_hears_why(app: App, service: FakeService) -> None:
    """The answer goes out whole before the connection closes; a small body costs no connection."""
    service.keyring = Keyring(FakeTable(), None)  # type: ignore[arg-type]
    await service.keyring.read()
    for length, closes in ((10, False), (BODY_BYTES_MAX, True)):
        sent: list[dict[str, object]] = []
        left = [length]

        async def receive(left: list[int] = left) -> dict[str, object]:
            size = min(left[0], 65_536)
            left[0] -= size
            return {"type": "http.request", "body": b" " * size, "more_body": left[0] > 0}

        async def send(message: object, sent: list[dict[str, object]] = sent) -> None:
            sent.append(message)  # type: ignore[arg-type]

        scope = {
            "type": "http", "method": "POST", "path": "/v1/reservations",
            "raw_path": b"/v1/reservations", "query_string": b"",
            "headers": [(b"content-length", b"%d" % length)],
        }  # fmt: skip
        await app(scope, receive, send)
        assert sent[0]["status"] == 401
        assert ((b"connection", b"close") in sent[0]["headers"]) is closes  # type: ignore[operator]
        assert (left == [0]) is closes
