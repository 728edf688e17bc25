"""The reference's words turned into the kernel's and back, written without the kernel's code.

A ``Kernel`` holds the rows of a ``World`` as texts. After the same thing was done to both, the
kernel's rows must be the texts of the world's pools.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Literal

from core import model, policy_model
from core.kernel import _plan as kernel
from core.kernel import _policy as known
from core.kernel import reference as rule
from core.kernel import reference_reserve as reserving
from core.kernel import reference_stock as stock
from core.kernel.reference import SHARE_ONE, Ceiling, Channel, Policy, Pool, Quota, SkuPolicy
from core.kernel.reference_orders import Holding
from core.kernel.reference_reserve import Decision, Shortfall, Take
from tests.property.world import Key, Order, World

STATES = {
    "reserved": kernel.RESERVED, "committed": kernel.COMMITTED, "fulfilled": kernel.FULFILLED,
}  # fmt: skip
VERSION = 7  # of every row before anything is done to it
NOW_MS = 1_700_000_000_123
TTL_MS = 900_000
TAIL = b"web cust ref"


HEAD = ("shared", "safety", "damaged", "quarantine", "deficit", "shared_credit")
QUOTA = ("free", "reserved", "committed", "credit", "", "", "ceiling_left", "ceiling_remainder")
TOKEN = re.compile(r"([^@ ]*)@(\d)([:=>])(-?\d+)")


def share(millionths: int | None) -> float | None:
    """A share as a spec has it."""
    return None if millionths is None else millionths / SHARE_ONE


def policy_of(policy: rule.Policy) -> known.Policy:
    """A policy as the kernel plans with it."""
    specs = {
        name: policy_model.ProtectedChannel(
            floor_share=share(channel.floor_share),
            floor_units=channel.floor_units,
            ceiling_share=ceiling_share(channel.ceiling),
            ceiling_units=channel.ceiling.units if channel.ceiling else None,
            borrow=channel.borrow,
            split=channel.split,
            locations=list(channel.locations),
            closed=channel.closed,
            keeps=channel.keeps,
        )
        for name, channel in policy.channels.items()
    }
    places = {name: (sells, True) for name, sells in policy.locations.items()}
    return known.Policy(policy.number, specs, places)


def ceiling_share(ceiling: Ceiling | None) -> float | None:
    """The share of a ceiling that is one by share."""
    return share(ceiling.share) if ceiling else None


def spec_of(sku_policy: rule.SkuPolicy) -> policy_model.SkuSpec:
    """A SKU's policy as its spec."""
    channels = {
        name: policy_model.SkuChannel(
            floor_share=share(override.floor_share),
            floor_units=override.floor_units,
            ceiling_share=ceiling_share(override.ceiling),
            ceiling_units=override.ceiling.units if override.ceiling else None,
        )
        for name, override in sku_policy.overrides.items()
    }
    return policy_model.SkuSpec(sku_policy.safety, dict(sku_policy.safety_by_location), channels)


def demand_of(demand: reserving.Demand) -> kernel.Demand:
    """A demand as the kernel plans it."""
    lines = [
        model.Line(x.sku, x.quantity, x.location, None if x.locations is None else [*x.locations])
        for x in demand.lines
    ]
    return kernel.Demand(demand.channel, lines, TAIL, TTL_MS, demand.partial, demand.split)


def row_text(pool: Pool, version: int = VERSION) -> bytes:
    """A pool as the store's row."""
    words = [f"{version} {pool.sku_number} {pool.policy_number}"]
    head = (pool.shared, pool.safety, pool.damaged, pool.quarantine, pool.deficit)
    words.append(",".join(map(str, (*head, pool.shared_credit))))
    for name in sorted(pool.quotas):
        quota = pool.quotas[name]
        if quota == Quota():
            continue
        numbers: list[object] = [quota.free, quota.reserved, quota.committed, quota.credit]
        if quota.ceiling_number:
            limit = "-"
            if quota.ceiling is not None and quota.ceiling.units is not None:
                limit = f"u{quota.ceiling.units}"
            elif quota.ceiling is not None:
                limit = f"s{quota.ceiling.share}"
            numbers += [quota.ceiling_number, limit, quota.ceiling_left, quota.ceiling_remainder]
        words.append(f"{name}@{','.join(map(str, numbers))}")
    return " ".join(words).encode()


def pool_of(key: Key, text: bytes) -> Pool:
    """The pool that a row says."""
    words = text.decode().split(" ")
    pool = Pool(*key, *row_numbers(text))
    for account, number in zip(HEAD, words[3].split(","), strict=True):
        setattr(pool, account, int(number))
    for word in words[4:]:
        name, _, body = word.partition("@")
        numbers = body.split(",")
        free, reserved, committed, credit = map(int, numbers[:4])
        quota = pool.quotas[name] = Quota(free, reserved, committed, credit)
        if numbers[4:]:
            number, limit, left, remainder = numbers[4:]
            quota.ceiling_number = int(number)
            quota.ceiling_left, quota.ceiling_remainder = int(left), int(remainder)
            if limit != "-":
                value = int(limit[1:])
                quota.ceiling = Ceiling(value) if limit[0] == "u" else Ceiling(share=value)
    return pool


def apply_deltas(pool: Pool, deltas: bytes) -> bool:
    """Do to ``pool`` what a plan's deltas say; False if a condition does not hold."""
    _, _, rest = deltas.decode().partition(" ")
    tokens = [TOKEN.fullmatch(token) for token in rest.split(" ") if token]
    changes, least = [], []
    for token in tokens:
        assert token is not None, deltas
        channel, number, sign, value = token.groups()
        holder = pool.quotas.setdefault(channel, Quota()) if channel else pool
        account = (QUOTA if channel else HEAD)[int(number) - 1]
        if sign == "=" and getattr(holder, account) != int(value):
            return False
        if sign == ":":
            changes.append((holder, account, int(value)))
        if sign == ">":
            least.append((holder, account, int(value)))
    for holder, account, change in changes:
        setattr(holder, account, getattr(holder, account) + change)
    return all(getattr(holder, account) >= bound for holder, account, bound in least)


def one_pool(*channels: Channel, sku_policy: SkuPolicy | None = None) -> World:
    """A world of ``tee`` at ``main``, with nothing there yet."""
    policy = Policy({channel.name: channel for channel in channels}, {"main": True})
    return World(policy, {"tee": sku_policy or SkuPolicy(1)})


@dataclass
class Answer:
    """What the kernel made of one demand."""

    code: int
    decision: Decision | None = None
    moves: tuple[tuple[Key, stock.Move], ...] | None = None


class Kernel:
    """The kernel with the rows of a world."""

    def __init__(self, world: World) -> None:
        self.policy = policy_of(world.policy)
        self.rows: dict[Key, known.Row] = {}
        for key, pool in world.pools.items():
            self.rows[key] = known.Row(*key)
            pool.version = VERSION  # a ceiling's first number follows from it
            self.rows[key].text = row_text(pool)
        self.skus = {
            name: known.Sku(
                name,
                sku_policy.number,
                b"",
                spec_of(sku_policy),
                [place for sku, place in self.rows if sku == name],
                {place: row for (sku, place), row in self.rows.items() if sku == name},
            )
            for name, sku_policy in world.skus.items()
        }
        self.batch = kernel.Batch()
        self.begin()

    def begin(self) -> None:
        """The next round."""
        self.batch.begin(self.policy, self.skus)

    def row(self, key: Key) -> known.Row:
        """The row of a pool, which may be a new one."""
        if key not in self.rows:
            self.rows[key] = self.skus[key[0]].rows[key[1]] = known.Row(*key)
        return self.rows[key]

    def pack(self) -> kernel.Stage:
        """Print what the stage changed. Where it may be rebased the deltas lead to the new row."""
        stage = self.batch.pack()
        assert stage.pools == [row.pool for row in stage.rows]
        for row, old, new, deltas in zip(
            stage.rows, stage.old, stage.new, stage.deltas, strict=True
        ):
            assert row.text == new
            key = row.sku, row.location
            if not deltas:
                continue
            pool = pool_of(key, old)
            before = pool.on_hand
            assert apply_deltas(pool, deltas), (old, deltas)
            assert row_text(pool, pool.version + 1) == new
            assert pool.on_hand - before == int(deltas.split(b" ")[0])
        return stage

    def reserve(
        self, demands: Sequence[reserving.Demand], late: bool = False
    ) -> tuple[list[Answer], kernel.Stage]:
        """Plan demands as a stage of their own, as late commits if ``late``."""
        state: Literal["committed", "reserved"] = "committed" if late else "reserved"
        return self.order([(Order(each, state, known=late), []) for each in demands])

    def order(
        self, orders: Sequence[tuple[Order, Sequence[Holding]]]
    ) -> tuple[list[Answer], kernel.Stage]:
        """Plan orders, each with what its record holds, as a stage of their own."""
        self.batch.begin_stage()
        answers: list[Answer] = []
        asked: list[tuple[Order, Answer, kernel.Demand]] = []
        for order, held in orders:
            op = demand_of(order.demand)
            op.state, op.fact = STATES[order.state], order.fact
            op.id = f"id-{len(asked)}" if order.known else None
            if held:
                op.held = [astuple(each) for each in held]
            answers.append(Answer(self.batch.add(op)))
            if answers[-1].code == kernel.ADDED:
                asked.append((order, answers[-1], op))
        assert self.batch.demands == [op for _, _, op in asked]
        count = self.batch.plan()
        granted, due = self.batch.pack_reservations(NOW_MS, bytes(8 * len(asked)), 0)
        assert len(granted) == count
        for number, (order, answer, op) in enumerate(asked):
            takes: tuple[Take, ...] = ()
            shortfalls = self.batch.shortfalls(number)
            got = self.batch.granted(number)
            assert (op.record is not None) == (got and not order.known)
            assert (op.takes is not None) == (got and (order.known or order.fact))
            assert (op.moves is not None) == (got and order.fact)
            if got:
                assert op is granted.pop(0)
                assert (op.shortfalls or []) == shortfalls
                takes = told(op.takes) if op.takes is not None else ()
                if op.record is not None:
                    recorded = takes_of(op.record, order.state)
                    assert op.takes is None or takes == recorded
                    takes = recorded
            answer.decision = Decision(
                takes, tuple(shortfall(order.demand, *each) for each in shortfalls)
            )
            if op.moves is not None:
                answer.moves = tuple(
                    ((key[0], key[1]), (source, target, units))
                    for pool, source, target, units in op.moves
                    for key in [pool.decode().split("@")]
                )
        ids = [o.id for x, _, o in asked if o.record is not None and x.state == "reserved"]
        assert due == ({(NOW_MS + TTL_MS) // 1000: ids} if ids else {})
        assert len(set(ids)) == len(ids)
        return answers, self.pack()

    def verb(self, name: str, key: Key, *how: Any) -> Any:
        """A verb of stock."""
        return getattr(self.batch, name)(self.row(key), self.skus[key[0]], *how)

    def transfer(
        self, key: Key, location: str, quantity: int
    ) -> tuple[list[stock.Move], list[stock.Move]]:
        """What it moves here, and what it moves there."""
        row, target = self.row(key), self.row((key[0], location))
        moves = self.batch.transfer(row, target, self.skus[key[0]], quantity)
        assert moves is not None
        assert [each[0] for each in moves] == sorted(
            (each[0] for each in moves), key=lambda pool: pool == target.pool
        )
        return (
            [each[1:] for each in moves if each[0] == row.pool],
            [each[1:] for each in moves if each[0] == target.pool],
        )


def row_numbers(text: bytes) -> tuple[int, int, int]:
    """Version, number of the SKU's policy, number of the channels'."""
    version, sku, policy = map(int, text.split(b" ")[:3])
    return version, sku, policy


def told(takes: list[tuple[bytes, int, int, int, int]]) -> tuple[Take, ...]:
    """What a demand says that it took."""
    return tuple(
        Take(sku, location, *numbers)
        for pool, *numbers in takes
        for sku, location in [pool.decode().split("@")]
    )


def takes_of(record: bytes, state: str) -> tuple[Take, ...]:
    """The lines of a record that was just made."""
    heads = {"reserved": f"R 1 - {NOW_MS + TTL_MS} - - "}
    head = heads.get(state, f"{state[0].upper()} 1 - - {NOW_MS} - ")
    start = head.encode() + TAIL + b" "
    assert record.startswith(start), record
    takes = []
    for word in record.removeprefix(start).decode().split(" "):
        sku, location, body = word.split("@")
        own, borrowed, *rest = map(int, body.split(","))
        shipped, cancelled, returned, number, short = (
            (*rest, 0) if len(rest) == 4 else rest or [0] * 5
        )
        assert shipped == (own + borrowed if state == "fulfilled" else 0)
        assert cancelled == returned == 0
        assert len(rest) == (5 if short else 4 if number or shipped else 0)
        takes.append(Take(sku, location, own, borrowed, number, short))
    return tuple(takes)


def shortfall(
    demand: reserving.Demand,
    line: int,
    sku: str,
    location: str | None,
    requested: int,
    available: int,
    granted: int,
    limited_by: str,
) -> Shortfall:
    """A failing line as the reference tells it."""
    assert (demand.lines[line].sku, demand.lines[line].location) == (sku, location)
    assert granted == (available if demand.partial else 0)
    return Shortfall(sku, location, requested, available, limited_by)  # type: ignore[arg-type]


def orphans(world: World) -> list[Key]:
    """Pools where a channel has something that the policy does not know."""
    return [
        key
        for key, pool in world.pools.items()
        if any(quota != Quota() and name not in world.policy.channels
               for name, quota in pool.quotas.items())
    ]  # fmt: skip


def assert_same(
    world: World, plan: Kernel, stage: kernel.Stage, versions: Mapping[Key, int]
) -> None:
    """The kernel's rows are the world's pools; what it left alone only met the policy there."""
    changed = {(row.sku, row.location) for row in stage.rows}
    for key, pool in world.pools.items():
        text = plan.rows[key].text
        if key in changed:
            assert text == row_text(pool, versions.get(key, 0) + 1)
        elif text:
            before = pool_of(key, text)
            if pool.policy_number != before.policy_number or pool.sku_number != before.sku_number:
                rule.meet(world.policy, world.skus[key[0]], before)
            assert row_text(before, 0) == row_text(pool, 0)


def versions(plan: Kernel, keys: Iterable[Key]) -> dict[Key, int]:
    """The versions of rows; 0 for a pool that has none."""
    return {key: row_numbers(plan.rows[key].text)[0] for key in keys if plan.row(key).text}
