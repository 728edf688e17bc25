"""The use cases of policy: channels, locations, SKUs. Rare, so each is a read, a check, a script.

A channel or location changes the policy's number: every plan that was made on the number before is
refused by its script and made anew. A SKU's policy stands in its entry, and its rows are brought
under it in the same script.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Generic, TypeVar

from msgspec.structs import replace

from core.channels import Sweep
from core.counting import PAST, Counting
from core.errors import (
    ChannelInUse,
    InvalidRequest,
    KeyReused,
    Overloaded,
    StaleVersion,
    StockUnavailable,
    UnknownChannel,
    UnknownLocation,
    UnknownSku,
)
from core.kernel._plan import Batch, Stage
from core.kernel._policy import Policy, Row, Sku
from core.kernel._pool import ChannelUnknown
from core.lane import Lane
from core.model import CHANNELS_MAX, NAME_RULE, SKU_RULE, Key, is_name, is_sku
from core.noting import who
from core.policy_model import (
    Channel,
    ChannelSpec,
    LocationSpec,
    LocationView,
    SkuEntry,
    SkuSpec,
    SkuView,
    sku_as_kept,
)
from core.policy_rules import check_shares, check_walls, refuse
from core.store import keys, scripts, wording
from core.store.shard import PolicyEntries, Shard

TRIES_MAX = 64  # facts and policy should get through, also during a sale

T = TypeVar("T")


class Put(Generic[T]):
    """What a PUT left: the resource, whether it is new, whether the key was used before."""

    __slots__ = ("created", "replayed", "value")

    def __init__(self, value: T, created: bool, replayed: bool = False) -> None:
        self.value = value
        self.created = created
        self.replayed = replayed


def kernel_policy(entries: PolicyEntries) -> Policy:
    """The policy as the kernel plans with it, in the mode that the shard is in."""
    return Policy(
        entries.number,
        entries.mode.over({name: each.spec for name, each in entries.channels.items()}),
        {name: (place.sells, place.returns) for name, place in entries.locations.items()},
    )


class Catalogue:
    """Channels, locations and SKUs of one shard."""

    def __init__(
        self,
        lane: Lane,
        shard: Shard,
        use_policy: Callable[[PolicyEntries], None],
        counting: Counting,
    ) -> None:
        """``use_policy`` is told every policy that was read; ``counting`` knows what customers had
        of a SKU before it got a limit."""
        self._counting = counting
        self._lane = lane
        self._shard = shard
        self._use_policy = use_policy

    # --- channels and locations ----------------------------------------------------------------

    async def put_channel(
        self, name: str, spec: ChannelSpec, key: Key | None = None, if_version: int | None = None
    ) -> Put[Channel]:
        """Creates or replaces a channel. Raises InvalidRequest, StaleVersion, KeyReused."""

        def entry(policy: PolicyEntries, version: int) -> bytes:
            self._check_channel(name, spec, policy)
            return wording.channel_entry(version, spec)

        created, replayed = await self._put(
            "channel", keys.CHANNELS, name, entry, key, if_version, lambda p: p.channels.get(name)
        )
        return Put(await self.channel(name), created, replayed)

    @staticmethod
    def _check_channel(name: str, spec: ChannelSpec, policy: PolicyEntries) -> None:
        wrong = check_walls("", spec)
        if spec.ttl_seconds > spec.max_hold_seconds:
            wrong.append(("/ttl_seconds", "Expected at most max_hold_seconds"))
        for number, location in enumerate(spec.locations):
            if location not in policy.locations:
                wrong.append((f"/locations/{number}", f"There is no location {location!r}"))
        if len(set(spec.locations)) < len(spec.locations):
            wrong.append(("/locations", "Expected each location once"))
        channels = {n: c.spec for n, c in policy.channels.items()} | {name: spec}
        if len(channels) > CHANNELS_MAX:
            wrong.append(("", f"Expected at most {CHANNELS_MAX} channels"))
        shares = {n: c.floor_share for n, c in channels.items()}
        refuse(wrong + check_shares("/floor_share", channels, shares))

    async def delete_channel(self, name: str, if_version: int | None = None) -> None:
        """Closes a channel, empties its accounts, removes it. One that was left half way goes on.

        Raises UnknownChannel, StaleVersion, or ChannelInUse: then it is open again.
        """
        sweep = Sweep(self._shard, self._run, name)
        _, seen = await self._channel_of(name, if_version)
        await self._lane.tidy()  # what is due keeps no units open
        if not seen.spec.closed:
            await sweep.check()
        closed = await self._set_closed(name, True, if_version)
        await self._lane.tidy()
        for _ in range(TRIES_MAX):
            entries = await self._entries()
            known = entries.channels.get(name)
            if known is None:  # another DELETE was faster
                return
            if known.version != closed:  # what was swept may have units again
                raise ChannelInUse("It was opened again meanwhile")
            try:
                swept = await sweep.run(kernel_policy(entries))
            except ChannelInUse:
                with suppress(StaleVersion, UnknownChannel):  # somebody else has changed it
                    await self._set_closed(name, False, closed)
                raise
            if swept and await self._set(entries, "channel", keys.CHANNELS, name, b""):
                return
        raise Overloaded("Others keep changing the policy; try again")

    async def _set_closed(self, name: str, closed: bool, if_version: int | None = None) -> int:
        """Closes a channel, or opens it again; its version then."""
        for _ in range(TRIES_MAX):
            entries, known = await self._channel_of(name, if_version)
            if known.spec.closed == closed:
                return known.version
            text = wording.channel_entry(known.version + 1, replace(known.spec, closed=closed))
            if await self._set(entries, "channel", keys.CHANNELS, name, text):
                return known.version + 1
        raise Overloaded("Others keep changing the policy; try again")

    async def _channel_of(self, name: str, if_version: int | None) -> tuple[PolicyEntries, Channel]:
        """The policy and a channel of it. ``if_version`` of one that is closed already may be the
        version that was closed. Raises UnknownChannel, StaleVersion."""
        entries = await self._entries()
        known = entries.channels.get(name)
        if known is None:
            raise UnknownChannel()
        if if_version not in (None, known.version, known.version - known.spec.closed):
            raise StaleVersion()
        return entries, known

    async def _set(
        self, entries: PolicyEntries, kind: str, hash_name: bytes, name: str, text: bytes
    ) -> bool:
        """One entry of the policy, if that is still as it was read."""
        reply = await self._run(
            scripts.POLICY,
            [keys.META, hash_name, keys.EVENTS, *self._lane.short_window],
            entries.number,
            [kind, name, text, b"", b""],
        )
        if reply[0] != b"applied":
            return False
        await self._entries()
        return True

    async def put_location(
        self, name: str, spec: LocationSpec, key: Key | None = None, if_version: int | None = None
    ) -> Put[LocationView]:
        """Creates or replaces a location."""
        created, replayed = await self._put(
            "location", keys.LOCATIONS, name,
            lambda _, version: wording.location_entry(version, spec), key, if_version,
            lambda p: p.locations.get(name),
        )  # fmt: skip
        return Put(await self.location(name), created, replayed)

    async def channel(self, name: str) -> Channel:
        """A channel as it is. Raises UnknownChannel."""
        found = (await self._entries()).channels.get(name)
        if found is None:
            raise UnknownChannel()
        return found

    async def channels(self) -> list[Channel]:
        """All channels by name."""
        found = (await self._entries()).channels
        return [found[name] for name in sorted(found)]

    async def location(self, name: str) -> LocationView:
        """A location as it is. Raises UnknownLocation."""
        found = (await self._entries()).locations.get(name)
        if found is None:
            raise UnknownLocation()
        return found

    async def locations(self) -> list[LocationView]:
        """All locations by name."""
        found = (await self._entries()).locations
        return [found[name] for name in sorted(found)]

    async def _entries(self) -> PolicyEntries:
        self._lane.check_readable()
        entries = await self._shard.policy()
        self._use_policy(entries)
        return entries

    async def _put(
        self,
        kind: str,
        hash_name: bytes,
        name: str,
        entry: Callable[[PolicyEntries, int], bytes],
        key: Key | None,
        if_version: int | None,
        current: Callable[[PolicyEntries], Channel | LocationView | None],
    ) -> tuple[bool, bool]:
        """(created, replayed) of one entry of the policy, whatever others do meanwhile."""
        if not is_name(name):
            raise InvalidRequest(NAME_RULE, [("{name}", NAME_RULE)])
        for _ in range(TRIES_MAX):
            entries = await self._entries()
            known = current(entries)
            replay = await self._replay(key)
            if replay is not None:
                return replay, True
            if if_version is not None and (known is None or known.version != if_version):
                raise StaleVersion()
            text = entry(entries, known.version + 1 if known else 1)
            status = 200 if known else 201
            field, value = self._key(key, status, name)
            reply = await self._run(
                scripts.POLICY,
                [keys.META, hash_name, keys.EVENTS, *self._lane.short_window],
                entries.number,
                [kind, name, text, field, value],
            )
            if reply[0] == b"known":
                return self._known(key, reply[5]), True
            if reply[0] == b"applied":
                await self._entries()
                return known is None, False
        raise Overloaded("Others keep changing the policy; try again")

    # --- SKUs ----------------------------------------------------------------------------------

    async def put_sku(
        self, name: str, spec: SkuSpec, key: Key | None = None, if_version: int | None = None
    ) -> Put[SkuView]:
        """Creates a SKU or changes its policy, at once for all its pools."""
        if not is_sku(name):
            raise InvalidRequest(SKU_RULE, [("{sku}", SKU_RULE)])
        for _ in range(TRIES_MAX):
            replay = await self._replay(key)
            if replay is not None:
                await self._finish_past(name)
                return Put(await self.sku(name), replay, True)
            old = (await self._shard.skus([name]))[0] or b""
            if if_version is not None and (not old or wording.parse_sku(old)[0] != if_version):
                raise StaleVersion()
            put = await self._set_sku(name, spec, old, key)
            if put is not None:
                return put
        raise Overloaded("This SKU's pools keep changing; try again")

    async def _set_sku(
        self, name: str, spec: SkuSpec, old: bytes, key: Key | None, anew: bool = False
    ) -> Put[SkuView] | None:
        """A SKU's policy, if that is still ``old``; None if it is to be tried again. ``anew``: what
        customers have of it is counted from the beginning."""
        policy = self._lane.snapshot.policy  # if it is out of date the script says so
        assert policy is not None
        number, locations, before = wording.parse_sku(old) if old else (0, (), SkuEntry())
        known = {*policy.specs, *before.channels}  # of a channel that was deleted it may stay
        counting, past = 0, ""
        if old:
            counting = await self._counting.begins(
                name, 0 if anew else before.counting, spec.customer_limit
            )
            past = "" if counting else PAST
        if spec.customer_limit is not None and not counting:
            counting = number + 1
        new = wording.sku_entry(number + 1, locations, sku_as_kept(spec, counting))
        try:
            self._check_sku(spec, policy, known)
            stage = await self._meet(policy, name, new, locations)
        except InvalidRequest:
            if (await self._entries()).number == policy.number:
                raise
            return None
        except ChannelUnknown:  # a row has met a policy that is newer than this worker's
            await self._entries()
            return None
        field, value = self._key(key, 200 if old else 201, name)
        reply = await self._run(
            scripts.SKU,
            [
                keys.META, keys.POOLS, keys.SKUS, keys.CATALOG, keys.EVENTS,
                *self._lane.short_window, keys.LIMITS,
            ],
            policy.number,
            [
                len(stage.pools), name, old, new, field, value,
                f"{counting}{past}" if counting else "",
                *stage.pools, *stage.old, *stage.new, *stage.deltas,
            ],
        )  # fmt: skip
        if reply[0] == b"known":
            return Put(await self.sku(name), self._known(key, reply[5]), True)
        if reply[0] == b"applied":
            self._lane.snapshot.doubt(name)
            if counting and past:
                await self._counting.count_past(name, counting, new, int(reply[1]))
            return Put(wording.sku_view(name, new), not old)
        if reply[0] == b"policy":
            await self._entries()
        return None

    async def _finish_past(self, name: str) -> None:
        """What an earlier request could not finish: the past of a SKU that got a limit."""
        if (await self._shard.limit_of(name)).endswith(PAST):
            await self.recount(name)

    async def recount(self, name: str) -> None:
        """Counting of what customers have of a SKU begins anew. Raises LedgerUnavailable."""
        for _ in range(TRIES_MAX):
            old = (await self._shard.skus([name]))[0]
            spec = wording.parse_sku(old)[2] if old is not None else None
            if old is None or spec is None or spec.customer_limit is None:
                return
            if await self._set_sku(name, spec, old, None, anew=True) is not None:
                return
        raise Overloaded("Others keep changing this SKU; try again")

    async def sku(self, name: str) -> SkuView:
        """A SKU's policy as it is. Raises UnknownSku."""
        self._lane.check_readable()
        entry = (await self._shard.skus([name]))[0]
        if entry is None:
            await self._entries()  # an empty store is no proof
            raise UnknownSku(lines=[{"sku": name}])
        return wording.sku_view(name, entry)

    async def _meet(
        self, policy: Policy, name: str, entry: bytes, locations: Iterable[str]
    ) -> Stage:
        """The SKU's rows as its new policy makes them."""
        number, _, spec = wording.parse_sku(entry)
        places = list(locations)
        rows: dict[str, Row] = {}
        for location, text in zip(
            places, await self._shard.rows([f"{name}@{x}" for x in places]), strict=True
        ):
            rows[location] = Row(name, location)
            rows[location].text = text or b""
        sku = Sku(name, number, entry, spec, places, rows)
        batch = Batch()
        batch.begin(policy, {name: sku})
        for row in rows.values():
            if row.text and not batch.meet(row, sku):
                raise InvalidRequest("A SKU may lie at 2,000 locations at most")
        return batch.pack()

    @staticmethod
    def _check_sku(spec: SkuSpec, policy: Policy, channels: set[str]) -> None:
        """``channels``: that it may name."""
        wrong = []
        for location in spec.safety_by_location:
            if location not in policy.locations:
                wrong.append((f"/safety_by_location/{location}", "There is no such location"))
        for name, override in spec.channels.items():
            if name not in channels:
                wrong.append((f"/channels/{name}", "There is no such channel"))
            wrong += check_walls(f"/channels/{name}", override)
        shares = {n: o.floor_share for n, o in spec.channels.items()}
        refuse(wrong + check_shares("/channels", policy.specs, shares))

    # --- how -----------------------------------------------------------------------------------

    async def _replay(self, key: Key | None) -> bool | None:
        """For a key that was used: was the resource created then. None for a new one."""
        if key is None:
            return None
        value = await self._shard.key(self._lane.short_window, key.field)
        return None if value is None else self._known(key, value)

    @staticmethod
    def _known(key: Key | None, value: bytes) -> bool:
        fingerprint, status, _ = wording.parse_key(value)
        if key is None or fingerprint != key.fingerprint:
            raise KeyReused()
        return status == 201

    @staticmethod
    def _key(key: Key | None, status: int, resource: str) -> tuple[bytes, bytes]:
        if key is None:
            return b"", b""
        return wording.pack_key(key, status, resource)

    async def _run(
        self, script: scripts.Script, names: list[bytes], number: int, args: list[Any]
    ) -> list[Any]:
        """One script. Its reply, also if it says that another try is needed."""
        head = self._lane.head(self._lane.now_ms, number, who())
        reply: list[Any] = await self._shard.run(script, names, [*head, *args])
        if reply[0] == b"epoch":
            raise StockUnavailable("the store is not the one that this worker knows")
        if reply[0] == b"clock":
            self._lane.told_windows(reply)
        return reply
