"""A world of one pool, and what tests of the rule ask of it."""

from __future__ import annotations

from dataclasses import replace

from core.kernel.reference import Channel, Policy, Pool, Quota, SkuPolicy
from core.kernel.reference_reserve import Decision, Demand, Line
from tests.property.world import Key, World

SELLS = {"main": True}
TEE = SkuPolicy(1)


def one_pool(*channels: Channel, sku_policy: SkuPolicy = TEE) -> World:
    """A world of the SKU ``tee`` at ``main``, with nothing there yet."""
    policy = Policy({channel.name: channel for channel in channels}, SELLS)
    return World(policy, {"tee": sku_policy}, {("tee", "main"): Pool("tee", "main")})


def main(world: World) -> Pool:
    """The one pool of ``one_pool``."""
    return world.pools["tee", "main"]


def ask(channel: str, quantity: int, **how: bool) -> Demand:
    """A demand for so many of ``tee``, wherever the channel sells from."""
    return Demand(channel, (Line("tee", quantity),), **how)


def stock(pool: Pool) -> Pool:
    """The numbers of ``pool`` without the quotas that hold nothing, to be compared."""
    quotas = {name: quota for name, quota in pool.copy().quotas.items() if quota != Quota()}
    return replace(pool, quotas=quotas)


def stocks(world: World) -> dict[Key, Pool]:
    """All pools of ``world``, to be compared."""
    return {key: stock(pool) for key, pool in world.pools.items()}


def granted(decision: Decision) -> int:
    """The units that a decision took."""
    return sum(take.own + take.borrowed for take in decision.takes)
