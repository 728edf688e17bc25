"""The mechanics in Lua against the kernel and the reference: rows and units given back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from core.errors import StockUnavailable
from core.kernel import reference as rule
from core.kernel.reference import ACCOUNT_MAX, Ceiling, Channel, Policy, Pool, Quota, SkuPolicy
from core.model import Release
from core.service import Service
from core.stock_model import Receive, ReceiveLine
from core.store import keys, scripts
from tests.lua import PARTS
from tests.property import strategies as drawn
from tests.property.kernel_world import pool_of, row_numbers, row_text
from tests.property.world import Held, Key, World
from tests.workers import Store, Workers, accounts, demand, furnish

# The event loop's guard of this folder is no part of these examples; the store is theirs alone.
examples = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

AGAIN = PARTS + """
local answers = {}
for i = 1, #ARGV do
  local row, whole = parse_row(ARGV[i]), parse_row(ARGV[i])
  local text = row and open_all(whole) and print_row(whole)
  answers[i] = text and text == print_row(row) and text or false
end
return answers
"""


# Rows.


@examples
@given(drawn.worlds())
def test_a_row_is_read_and_printed_as_the_kernel_does(server: Store, world: World) -> None:
    """Byte for byte, one version on, whether its quotas were opened or not."""
    pools = list(world.pools.values())
    answers = server.eval(AGAIN, 0, *(row_text(pool) for pool in pools))
    assert answers == [row_text(pool, 8) for pool in pools]


def test_the_largest_and_the_smallest_numbers_are_kept(server: Store) -> None:
    """A double holds every account; credits may be negative."""
    quota = Quota(0, ACCOUNT_MAX, 1, -999_999, 12, Ceiling(share=1_000_000), ACCOUNT_MAX, 999_999)
    for pool in (
        Pool("tee", "main", damaged=ACCOUNT_MAX, shared_credit=-(2**40)),
        Pool("tee", "main", quotas={"web": quota}),
        Pool("tee", "main", quotas={f"c{number:02d}": quota for number in range(64)}),
    ):
        assert server.eval(AGAIN, 0, row_text(pool, 10**15)) == [row_text(pool, 10**15 + 1)]


# Units given back, through the scripts themselves.

DAY_MS = 86_400_000


@dataclass
class Order:
    """A reservation of one line, and what may still happen to it."""

    held: Held
    id: str


class Settler:
    """A shard whose rows and records are a world's, and the scripts that settle."""

    def __init__(self, server: Store, world: World) -> None:
        self.server = server
        self.world = world
        server.flushall()
        started = server.eval(
            scripts.START.text.decode(), 2, keys.META, keys.LOCATIONS, scripts.FORMAT, b"1 {}", 1
        )
        self.epoch, self.now_ms = started[1], int(started[8])
        self.windows = [b"0", b"0", b"3600000", b"0", b"0", b"604800000"]
        server.hset(
            keys.POOLS,
            mapping={"@".join(k): row_text(pool) for k, pool in world.pools.items()},
        )
        self.orders: list[Order] = []
        for number, held in enumerate(each for each in world.held if each.quantity):
            time = f"{self.now_ms:012x}"
            order = Order(held, f"{time[:8]}-{time[8:]}-7{number:03x}-8000-{0:012x}")
            self.orders.append(order)
            state = f"R 1 - {self.now_ms + DAY_MS} - -"
            if held.account == "committed":
                state = f"C 2 {self.now_ms} - {self.now_ms} -"
            self.plant(order, state)

    def plant(self, order: Order, state: str) -> None:
        """Put an order's record into the store."""
        held = order.held
        line = f"{'@'.join(held.key)}@{held.own},{held.borrowed},0,0,0,{held.ceiling_number}"
        record = f"{state} {held.channel} - - {line}"
        self.server.hset(keys.bucket_of(order.id), order.id, record)

    def run(self, script: scripts.Script, *ops: tuple[Order, str, bytes]) -> list[Any]:
        """One verb on each of some orders, as one script: code and detail for each."""
        names = [keys.META, keys.POOLS, keys.EVENTS, keys.done_at(0)]
        for window in (keys.short_keys, keys.long_keys):
            names += [window(f"{number}") for number in (0, 1)]
        names.append(keys.LIVE)
        args: list[Any] = [len(ops), script.name]
        for order, verb, parts in ops:
            bucket = keys.bucket_of(order.id)
            if bucket not in names:
                names.append(bucket)
            args += [names.index(bucket) + 1, order.id, verb, b"", parts, *[b""] * 4]
        if script is scripts.GIVEBACK:
            day = keys.created_ms(ops[0][0].id) // keys.DAY_MS
            names += [keys.LIMITS, keys.customers_on(day)]
            args += [len(names) - 1, *[len(names), day] * len(ops)]
        while True:
            head = [self.epoch, b"", b"", *self.windows, b"1"]
            reply = self.server.eval(script.text.decode(), len(names), *names, *head, *args)
            if reply[0] != b"clock":
                break
            self.windows[0:2], self.windows[3:5] = reply[5:7], reply[7:9]
        assert reply[0] == b"applied", reply
        return list(reply[5])

    def rows(self) -> dict[Key, bytes]:
        """The rows in the store."""
        found = cast("dict[bytes, bytes]", self.server.hgetall(keys.POOLS))
        rows: dict[Key, bytes] = {}
        for name, text in found.items():
            sku, location = name.decode().split("@")
            rows[sku, location] = text
        return rows

    def assert_same(self) -> None:
        """The rows in the store are the world's pools."""
        rows = self.rows()
        assert rows.keys() == self.world.pools.keys()
        for key, pool in self.world.pools.items():
            text = rows[key]
            assert text == row_text(pool, row_numbers(text)[0])
            rule.check(pool)


def ship(world: World, held: Held, quantity: int) -> None:
    """A part leaves, own units first; what was missing and yet leaves was there after all."""
    pool = world.pools[held.key]
    own = min(quantity, held.own)
    held.own -= own
    held.borrowed -= quantity - own
    pool.quotas[held.channel].committed -= quantity
    pool.deficit -= max(0, -pool.on_hand)


def lose_some(data: st.DataObject, world: World) -> None:
    """Counts find less than is promised: deficits, and with them nothing left to be sold."""
    for key in data.draw(st.sets(st.sampled_from(sorted(world.pools)))):
        world.lose(key, data.draw(st.integers(1, world.pools[key].on_hand + 1)))


@examples
@given(drawn.worlds(), st.data())
def test_units_are_given_back_as_the_reference_does(
    server: Store, world: World, data: st.DataObject
) -> None:
    """Release, expire and cancel, one after the other or many in one script, into deficits and
    into ceilings that were followed by others."""
    assume(any(held.quantity for held in world.held))
    lose_some(data, world)
    shop = Settler(server, world)
    left = data.draw(st.permutations(shop.orders))
    while left:
        count = data.draw(st.integers(1, len(left)))
        ops, left = left[:count], left[count:]
        todo = []
        for order in ops:
            verb = "cancel"
            if order.held.account == "reserved":
                verb = data.draw(st.sampled_from(["release", "expire"]))
                if verb == "expire":
                    shop.plant(order, f"R 1 - {shop.now_ms - 1} - -")
            todo.append((order, verb, b""))
            world.give_back(order.held, order.held.quantity)
        answers = shop.run(scripts.GIVEBACK, *todo)
        assert answers[::2] == [b"done"] * len(todo)
        shop.assert_same()
        states = {"release": b"L", "expire": b"X", "cancel": b"K"}
        assert [text[:1] for text in answers[1::2]] == [states[verb] for _, verb, _ in todo]


@examples
@given(drawn.worlds(), st.data())
def test_parts_end_in_the_same_accounts_in_any_order(
    server: Store, world: World, data: st.DataObject
) -> None:
    """Cancelled in parts, borrowed units go back first; shipped in parts, own ones leave first."""
    for held in world.held:
        if held.quantity and held.account == "reserved":
            world.commit(held)
    assume(any(held.quantity for held in world.held))
    lose_some(data, world)
    shop = Settler(server, world)
    order = data.draw(st.sampled_from(shop.orders))
    pool = "@".join(order.held.key).encode()
    cancelled = fulfilled = 0
    while order.held.quantity:
        part = data.draw(st.integers(1, order.held.quantity))
        parts = b"%s %d" % (pool, part)
        if data.draw(st.booleans()):
            world.give_back(order.held, part)
            cancelled += part
            answers = shop.run(scripts.GIVEBACK, (order, "cancel", parts))
        else:
            ship(world, order.held, part)
            fulfilled += part
            answers = shop.run(scripts.FULFIL, (order, "fulfil", parts))
        assert answers[0] == b"done"
        _, _, tail = answers[1].rpartition(b"@")
        assert list(map(int, tail.split(b",")))[2:4] == [fulfilled, cancelled]
        shop.assert_same()
    assert answers[1][:1] == (b"F" if fulfilled else b"K")


@examples
@given(drawn.worlds())
def test_commits_move_units_between_the_accounts_of_a_channel(server: Store, world: World) -> None:
    """All of them in one script."""
    shop = Settler(server, world)
    orders = [order for order in shop.orders if order.held.account == "reserved"]
    assume(orders)
    for order in orders:
        world.commit(order.held)
    answers = shop.run(scripts.COMMIT, *((order, "commit", b"") for order in orders))
    assert answers[::2] == [b"done"] * len(orders)
    shop.assert_same()


def one_order(server: Store, deficit: int = 0) -> Settler:
    """A shard with one reservation of 2 own and 3 borrowed units."""
    policy = Policy({"web": Channel("web", ("main",))}, {"main": True})
    quota = Quota(reserved=5, ceiling_number=2, ceiling=Ceiling(9), ceiling_left=4)
    key: Key = "tee", "main"
    pool = Pool(*key, deficit=deficit, quotas={"web": quota})
    world = World(policy, {"tee": SkuPolicy(1)}, {key: pool})
    world.held.append(Held(key, "web", own=2, borrowed=3, ceiling_number=2))
    return Settler(server, world)


@pytest.mark.parametrize(
    ("deficit", "shared", "free"), [(0, 3, 2), (2, 1, 2), (3, 0, 2), (4, 0, 1), (5, 0, 0)]
)
def test_borrowed_units_pay_a_deficit_before_own_ones(
    server: Store, deficit: int, shared: int, free: int
) -> None:
    """And the allowance comes back whole."""
    shop = one_order(server, deficit)
    shop.run(scripts.GIVEBACK, (shop.orders[0], "release", b""))
    pool = pool_of(("tee", "main"), shop.rows()["tee", "main"])
    assert (pool.deficit, pool.shared, pool.quotas["web"].free) == (0, shared, free)
    assert pool.quotas["web"].ceiling_left == 9


def test_a_record_that_claims_more_than_its_row_holds_is_left_alone(server: Store) -> None:
    """Nothing of the order moves; another one in the same script goes on."""
    shop = one_order(server)
    good = shop.orders[0]
    bad = replace(good, held=replace(good.held, own=4), id=good.id[:-3] + "100")
    shop.plant(bad, f"R 1 - {shop.now_ms + DAY_MS} - -")
    answers = shop.run(scripts.GIVEBACK, (bad, "release", b""), (good, "release", b""))
    assert answers[::2] == [b"corrupt", b"done"]
    shop.world.give_back(good.held, 5)
    shop.assert_same()


# What a worker does with a row that is not one.


async def test_a_corrupt_row_stops_only_who_needs_it(
    worker: Service, store: Store, store_url: str, workers: Workers
) -> None:
    """It is told, nothing is written, others go on, and once it is mended so does everybody."""
    await furnish(worker, {"tee": 5, "mug": 9})
    good = store.hget(keys.POOLS, "tee@main")
    assert good is not None
    lines = Receive([ReceiveLine("tee", "main", 1), ReceiveLine("mug", "main", 1)])
    for bad in (b"not a row", b"3 1 2 -5,0,0,0,0,0", b"3 1 2 5,0,0,0,1,0"):
        cold = await workers(store_url, reaper=False, staleness_ms=0)
        for service in (worker, cold):
            store.hset(keys.POOLS, "tee@main", bad)
            with pytest.raises(StockUnavailable, match="not one"):
                await service.engine.reserve(demand("tee"), None)
            tee, mug = await service.stock.receive(lines, [None] * 2)
            assert isinstance(tee.error, StockUnavailable)
            assert mug.error is None
            await service.engine.reserve(demand("mug"), None)
            assert store.hget(keys.POOLS, "tee@main") == bad
            store.hset(keys.POOLS, "tee@main", good)
            with pytest.raises(StockUnavailable, match="not one"):
                await service.engine.reserve(demand("tee"), None)
            receipt = await service.engine.reserve(demand("tee"), None)
            await service.engine.release(receipt.id, Release())
            good = store.hget(keys.POOLS, "tee@main")
            assert good is not None
    assert await accounts(worker, "tee") == (0, 0, 0, 5, 5)
