"""A policy, SKUs and pools, who holds what of them, and what came in less what left.

All that is done in a ``World`` is done by the reference; it only remembers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from core.kernel import reference as rule
from core.kernel import reference_orders as orders
from core.kernel import reference_reserve as reserving
from core.kernel import reference_stock as stock
from core.kernel.reference import Policy, Pool, SkuPolicy
from core.kernel.reference_reserve import Decision, Demand

Key = tuple[str, str]  # (SKU, location)
Account = Literal["reserved", "committed"]
State = Literal["reserved", "committed", "fulfilled"]


@dataclass
class Held:
    """What is left of one take, and the account that its units lie in."""

    key: Key
    channel: str
    own: int
    borrowed: int
    ceiling_number: int
    account: Account = "reserved"

    @property
    def quantity(self) -> int:
        """The units that are still held."""
        return self.own + self.borrowed

    @property
    def holding(self) -> orders.Holding:
        """The same, as what a record holds."""
        return orders.Holding(*self.key, self.own, self.borrowed, self.ceiling_number)


@dataclass(frozen=True)
class Order:
    """A demand in one of its ways: asked for, sold already, or planned again under a record.

    ``known``: the record exists already; ``held``: what it holds, by index in the world's list.
    """

    demand: Demand
    state: State = "reserved"
    fact: bool = False
    known: bool = False
    held: tuple[int, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What became of an order; the moves of a fact, each with its pool."""

    decision: Decision
    moves: tuple[tuple[Key, stock.Move], ...] | None = None


@dataclass
class World:
    """Pools, the policy they are planned with, who holds what, and what came in less what left."""

    policy: Policy
    skus: dict[str, SkuPolicy]
    pools: dict[Key, Pool] = field(default_factory=dict)
    held: list[Held] = field(default_factory=list)
    arrived: Counter[Key] = field(default_factory=Counter)

    def copy(self) -> World:
        """A world with the same numbers that shares no pool with this one."""
        pools = {key: pool.copy() for key, pool in self.pools.items()}
        held = [replace(held) for held in self.held]
        return World(self.policy, dict(self.skus), pools, held, self.arrived.copy())

    def met(self) -> World:
        """A copy where every pool has met the policy."""
        world = self.copy()
        for (sku, _), pool in world.pools.items():
            rule.meet(world.policy, world.skus[sku], pool)
        return world

    def receive(self, key: Key, quantity: int) -> rule.Receipt:
        """Units arrive; the first ones make the pool."""
        self.arrived[key] += quantity
        pool = self.pools.setdefault(key, Pool(*key))
        return rule.receive(self.policy, self.skus[key[0]], pool, quantity)

    def reserve(self, demands: Sequence[Demand]) -> list[Decision]:
        """Decide the demands and remember what was taken."""
        decisions = reserving.reserve(self.policy, self.skus, self.pools, demands)
        for demand, decision in zip(demands, decisions, strict=True):
            for t in decision.takes:
                key = t.sku, t.location
                self.held.append(Held(key, demand.channel, t.own, t.borrowed, t.ceiling_number))
        return decisions

    def give_back(self, held: Held, quantity: int) -> int:
        """A part of what is held goes back, borrowed units first."""
        borrowed = min(quantity, held.borrowed)
        own = quantity - borrowed
        held.borrowed -= borrowed
        held.own -= own
        pool = self.pools[held.key]
        number, account = held.ceiling_number, held.account
        return orders.give_back(pool, held.channel, own, borrowed, number, account)

    def commit(self, held: Held) -> None:
        """An order is placed."""
        quota = self.pools[held.key].quotas[held.channel]
        quota.reserved -= held.quantity
        quota.committed += held.quantity
        held.account = "committed"

    def ship(self, held: Held) -> None:
        """All that is held leaves; what was missing and yet leaves was there after all."""
        if held.account == "reserved":
            self.commit(held)
        pool = self.pools[held.key]
        self.moved(held.key, orders.ship(pool, held.channel, held.quantity))
        held.own = held.borrowed = 0

    def moved(self, key: Key, moves: Sequence[stock.Move]) -> list[stock.Move]:
        """Remember what came and what left."""
        for source, target, quantity in moves:
            self.arrived[key] += quantity * ((source == "outside") - (target == "outside"))
        return list(moves)

    def lose(self, key: Key, quantity: int) -> None:
        """A count finds fewer: what may be sold goes first, what is promised becomes a deficit."""
        self.verb("adjust", key, -min(quantity, self.pools[key].on_hand), "sellable")

    def spoil(self, key: Key, quantity: int) -> None:
        """Units come back broken, or nobody has looked at them yet."""
        self.verb("put_away", key, quantity - quantity // 2, "damaged")
        self.verb("put_away", key, quantity // 2, "quarantine")

    def verb(self, name: str, key: Key, *how: Any) -> Any:
        """A verb of stock; what the rule answers or raises. The first one makes the pool."""
        pool = self.pools.get(key, Pool(*key))
        if name == "receive":
            answer: Any = stock.told(rule.receive(self.policy, self.skus[key[0]], pool, *how))
        else:
            answer = getattr(stock, name)(self.policy, self.skus[key[0]], pool, *how)
        self.pools[key] = pool
        return self.moved(key, answer) if isinstance(answer, list) else answer

    def transfer(
        self, key: Key, location: str, quantity: int
    ) -> tuple[list[stock.Move], list[stock.Move]]:
        """Units go to another location, which may be a new one for them."""
        sku = key[0]
        source = self.pools.get(key, Pool(*key))
        target = self.pools.get((sku, location), Pool(sku, location))
        leaving, coming = stock.transfer(self.policy, self.skus[sku], source, target, quantity)
        self.pools[key], self.pools[sku, location] = source, target
        return self.moved(key, leaving), self.moved((sku, location), coming)

    def order(self, order: Order) -> Outcome:
        """Decide what is asked for in one of its ways, and remember what is held."""
        demand, state = order.demand, order.state
        moves = None
        if order.fact:
            takes, moved = orders.record_sale(self.policy, self.skus, self.pools, demand, state)
            decision = Decision(takes, ())
            moves = tuple(moved)
            for key, move in moves:
                self.moved(key, [move])
        elif order.held:
            held = [self.held[index] for index in order.held]
            decision = orders.plan_again(
                self.policy, self.skus, self.pools, demand, [each.holding for each in held],
                held[0].account,
            )  # fmt: skip
            for each in held if decision.takes else ():
                each.own = each.borrowed = 0
        else:
            (decision,) = reserving.reserve(self.policy, self.skus, self.pools, [demand])
        for take in decision.takes if not (order.fact and state == "fulfilled") else ():
            key = take.sku, take.location
            known = order.fact or order.held
            account: Account = "reserved" if state == "reserved" or not known else "committed"
            self.held.append(
                Held(key, demand.channel, take.own, take.borrowed, take.ceiling_number, account)
            )
            if account == "reserved" and state != "reserved":
                self.commit(self.held[-1])
            if state == "fulfilled":
                self.ship(self.held[-1])
        return Outcome(decision, moves)
