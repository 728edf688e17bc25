"""The model's warehouse: policy, pools, and what happens to stock, planned by the reference.

``tests.model`` adds the reservations. Each verb returns what a caller is told: a refusal is an
``Answer`` whose ``code`` is the error's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from core.kernel import reference as rule
from core.kernel import reference_reserve as reserving
from core.kernel import reference_stock as stock
from core.kernel.reference import Pool
from core.policy_model import ChannelSpec, LocationSpec, SkuChannel, SkuSpec

Place = tuple[str, str]  # (SKU, location)


@dataclass(frozen=True)
class Answer:
    """What a caller is told: ``done``, ``already``, or the code of an error."""

    code: str
    state: str = ""
    lines: tuple[reserving.Shortfall, ...] = ()


DONE, ALREADY = Answer("done"), Answer("already")


def millionths(share: float | None) -> int:
    """A share as the whole number that it stands for."""
    return round((share or 0) * rule.SHARE_ONE)


def _ceiling(spec: ChannelSpec | SkuChannel) -> rule.Ceiling | None:
    if spec.ceiling_share is not None:
        return rule.Ceiling(share=millionths(spec.ceiling_share))
    return None if spec.ceiling_units is None else rule.Ceiling(units=spec.ceiling_units)


@dataclass
class Shelves:
    """Channels, locations, SKUs and pools."""

    channels: dict[str, ChannelSpec] = field(default_factory=dict)
    locations: dict[str, LocationSpec] = field(default_factory=lambda: {"main": LocationSpec()})
    skus: dict[str, tuple[int, SkuSpec]] = field(default_factory=dict)
    pools: dict[Place, Pool] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)  # channels that are being deleted
    keeps: int | None = None  # what each channel leaves in each pool, while stock is protected
    policy_number: int = 1

    # --- policy --------------------------------------------------------------------------------

    def policy(self) -> rule.Policy:
        """Channels and locations as the rule reads them."""
        channels = {
            name: rule.Channel(
                name, tuple(spec.locations), millionths(spec.floor_share), spec.floor_units or 0,
                _ceiling(spec), spec.borrow and self.keeps is None, self.keeps or 0, spec.split,
                name in self.closed,
            )
            for name, spec in self.channels.items()
        }  # fmt: skip
        sells = {name: spec.sells for name, spec in self.locations.items()}
        return rule.Policy(channels, sells, self.policy_number)

    def sku_policy(self, sku: str) -> rule.SkuPolicy:
        """A SKU's policy as the rule reads it."""
        number, spec = self.skus[sku]
        overrides = {
            name: rule.Override(
                None if each.floor_share is None else millionths(each.floor_share),
                each.floor_units,
                _ceiling(each),
            )
            for name, each in spec.channels.items()
        }
        return rule.SkuPolicy(number, spec.safety_stock, spec.safety_by_location, overrides)

    def sku_policies(self) -> dict[str, rule.SkuPolicy]:
        """The same of all."""
        return {sku: self.sku_policy(sku) for sku in self.skus}

    def put_channel(self, name: str, spec: ChannelSpec) -> None:
        """A channel is as ``spec`` says; pools meet that when they are next planned on."""
        self.channels[name] = spec
        self.closed.discard(name)
        self.policy_number += 1

    def delete_channel(self, name: str) -> Answer:
        """Closes a channel, takes it out of all pools, removes it; one in use stays open."""
        if name not in self.channels:
            return Answer("unknown_channel")
        named = {
            place: pool for place, pool in self.pools.items() if pool.quota(name) != rule.Quota()
        }
        in_use = any(p.quota(name).reserved + p.quota(name).committed for p in named.values())
        if in_use and name not in self.closed:
            return Answer("channel_in_use")
        if in_use or name not in self.closed:  # it is opened again, or closed
            self.policy_number += 1
        if in_use:
            self.closed.remove(name)
            return Answer("channel_in_use")
        self.closed.add(name)
        for (sku, _), pool in named.items():
            stock.drop_channel(self.policy(), self.sku_policy(sku), pool, name)
            pool.version += 1
        del self.channels[name]
        self.closed.remove(name)
        self.policy_number += 1
        return DONE

    def put_location(self, name: str, spec: LocationSpec) -> None:
        """A location sells, or takes returns, or not."""
        self.locations[name] = spec
        self.policy_number += 1

    def protect(self, keeps: int | None) -> None:
        """Nobody borrows and each channel leaves so many units, or (None) all is as it was."""
        self.policy_number += (keeps is None) is not (self.keeps is None)
        if keeps is None or self.keeps is None:
            self.keeps = keeps

    def put_sku(self, sku: str, spec: SkuSpec) -> Answer:
        """A SKU's policy; all its pools meet it at once."""
        number, before = self.skus.get(sku, (0, SkuSpec()))
        if not spec.channels.keys() <= self.channels.keys() | before.channels.keys():
            return Answer("validation_failed")
        self.skus[sku] = number + 1, spec
        for pool in self.pools.values():
            if pool.sku == sku:
                rule.meet(self.policy(), self.sku_policy(sku), pool)
                pool.version += 1
        return DONE

    # --- stock ---------------------------------------------------------------------------------

    def pool(self, place: Place) -> Pool:
        """A pool; one that is not there yet as it would be made."""
        return self.pools.get(place, Pool(*place))

    def _change(
        self, place: Place, units: int | None, change: Callable[[Pool], object]
    ) -> Answer:
        """Does something to a pool, which is made if there is none; it is about ``units``."""
        pool = self.pool(place).copy()
        try:
            change(pool)
        except stock.Shortage as error:
            return short_of(place, units, error)
        pool.version += 1
        self.pools[place] = pool
        return DONE

    def receive(self, place: Place, units: int) -> Answer:
        """Units arrive."""
        policies = self.policy(), self.sku_policy(place[0])
        return self._change(place, units, lambda pool: rule.receive(*policies, pool, units))

    def open_pool(self, place: Place) -> None:
        """A pool with nothing in it, if there is none."""
        if place not in self.pools:
            sku_policy = self.sku_policy(place[0])
            self._change(place, 0, lambda pool: rule.meet(self.policy(), sku_policy, pool))

    def adjust(self, place: Place, delta: int, account: str) -> Answer:
        """Units were found or lost."""
        policies = self.policy(), self.sku_policy(place[0])
        return self._change(
            place, abs(delta), lambda pool: stock.adjust(*policies, pool, delta, account)
        )

    def count(
        self, place: Place, counted: int, if_on_hand: int | None, if_version: int | None
    ) -> Answer:
        """All that lies there was counted."""
        pool = self.pool(place)
        if if_on_hand not in (None, pool.on_hand) or if_version not in (None, pool.version):
            return Answer("stale_version")
        policies = self.policy(), self.sku_policy(place[0])
        return self._change(place, counted, lambda pool: stock.count(*policies, pool, counted))

    def transfer(self, sku: str, source: str, target: str, units: int) -> Answer:
        """Unsold units go to another location."""
        if source == target:
            return Answer("validation_failed")
        here, there = self.pool((sku, source)).copy(), self.pool((sku, target)).copy()
        try:
            stock.transfer(self.policy(), self.sku_policy(sku), here, there, units)
        except stock.Shortage as error:
            return short_of((sku, source), units, error)
        for pool in (here, there):
            pool.version += 1
            self.pools[sku, pool.location] = pool
        return DONE

    def reallocate(self, place: Place, source: str, target: str, units: int | None) -> Answer:
        """Unsold units go to another account by hand; None: all that are there."""
        if source == target:
            return Answer("validation_failed")
        accounts = {"shared", "safety", "damaged", "quarantine"}
        for name in (source, target):
            if name not in accounts and name not in self.channels:
                return Answer("unknown_channel")
        if target not in accounts and place[1] not in self.channels[target].locations:
            return Answer("validation_failed")
        policies = self.policy(), self.sku_policy(place[0])
        draft = self.pool(place).copy()
        rule.meet(*policies, draft)
        here = stock.units(draft, stock.account_of(source))
        if place in self.pools and units is None and not here:
            return DONE  # all of nothing
        return self._change(
            place, units, lambda pool: stock.reallocate(*policies, pool, source, target, units)
        )

    def reallocate_by_policy(self, place: Place) -> Answer:
        """What is shared is apportioned as if it had just arrived."""
        policies = self.policy(), self.sku_policy(place[0])
        draft = self.pool(place).copy()
        rule.meet(*policies, draft)
        if place in self.pools and not draft.shared:
            return DONE
        return self._change(place, 0, lambda pool: stock.reallocate_by_policy(*policies, pool))

    def available(self, channel: str, sku: str) -> dict[str, int]:
        """What the channel can take of a SKU, by location."""
        return {
            location: stock.available(
                self.policy(), self.sku_policy(sku), self.pools[sku, location], channel
            )
            for location in self.channels[channel].locations
            if (sku, location) in self.pools
        }


def short_of(place: Place, units: int | None, error: stock.Shortage) -> Answer:
    """More than there is."""
    short = reserving.Shortfall(*place, units or 0, error.available, "on_hand")
    return Answer("insufficient_stock", lines=(short,))
