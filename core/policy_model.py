"""The values of policy that cross walls: channels, locations, SKUs, and the mode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from msgspec import Meta, Struct, field
from msgspec.structs import asdict

from core.model import (
    CUSTOMER_LIMIT_DAYS_MAX,
    HOLD_SECONDS_MAX,
    LOCATIONS_PER_CHANNEL_MAX,
    LimitDays,
    Name,
    Quantity,
    Request,
    Share,
    Timestamp,
    TtlSeconds,
    Units,
)


class ChannelSpec(Request, frozen=True, omit_defaults=False):
    """``PUT /v1/channels/{name}``. Absent floor = 0, absent ceiling = none."""

    floor_share: Share | None = None
    floor_units: Units | None = None
    ceiling_share: Share | None = None
    ceiling_units: Units | None = None
    borrow: bool = True
    split: bool = True
    locations: Annotated[
        list[Name], Meta(min_length=1, max_length=LOCATIONS_PER_CHANNEL_MAX)
    ] = field(default_factory=lambda: ["main"])
    ttl_seconds: TtlSeconds = 900
    max_hold_seconds: TtlSeconds = 3600
    late_window_seconds: Annotated[int, Meta(ge=0, le=HOLD_SECONDS_MAX)] = 86_400

    def reach(self, free: int, shared: int) -> int:
        """What it could take of a pool if it had no ceiling there."""
        return free + (shared if self.borrow else 0)


class ChannelEntry(ChannelSpec, frozen=True):
    """A channel's policy as the store keeps it.

    ``closed`` while it is being deleted: it takes nothing and is given nothing, and who asks for
    it is told that there is no such channel.
    """

    closed: bool = False


class ProtectedChannel(ChannelEntry, frozen=True):
    """A channel while stock is protected: it borrows nothing, and leaves its last units in a pool.
    """

    keeps: int = 0

    def reach(self, free: int, shared: int) -> int:
        return max(0, free - self.keeps)


class LocationSpec(Request, frozen=True):
    """``PUT /v1/locations/{name}``."""

    sells: bool = True
    returns: bool = True


class SkuChannel(Request, frozen=True):
    """A SKU's own floor and ceiling for one channel; they replace the channel's."""

    floor_share: Share | None = None
    floor_units: Units | None = None
    ceiling_share: Share | None = None
    ceiling_units: Units | None = None


class SkuSpec(Request, frozen=True):
    """``PUT /v1/skus/{sku}``: a SKU exists by this. ``customer_limit``: units that one customer may
    hold or have bought within ``customer_limit_days``."""

    safety_stock: Units = 0
    safety_by_location: dict[Name, Units] = field(default_factory=dict)
    channels: dict[Name, SkuChannel] = field(default_factory=dict)
    customer_limit: Quantity | None = None
    customer_limit_days: LimitDays = CUSTOMER_LIMIT_DAYS_MAX


class SkuEntry(SkuSpec, frozen=True, omit_defaults=True):
    """A SKU's policy as the store keeps it.

    ``counting``: the number of the policy with which counting of what its customers have began; 0
    while nobody is limited.
    """

    counting: int = 0


def sku_as_kept(spec: SkuSpec, counting: int) -> SkuEntry:
    """A SKU's policy as the store keeps it."""
    return SkuEntry(
        spec.safety_stock, spec.safety_by_location, spec.channels, spec.customer_limit,
        spec.customer_limit_days, counting,
    )  # fmt: skip


class Channel(Struct, frozen=True):
    """A channel as it is."""

    name: str
    version: int
    spec: ChannelEntry


class Mode(Struct, frozen=True):
    """Whether the shard protects what it has, since when, who said so and why.

    ``orders``: how many were oversold then; the alarm pulls again only at more. ``safety``: units
    of its own that each channel leaves in each pool meanwhile.
    """

    version: int = 0
    protect: bool = False
    reason: str = ""
    by: str = ""
    at: Timestamp | None = None
    orders: int = 0
    safety: int = 0

    def over(self, channels: Mapping[str, ChannelEntry]) -> dict[str, ChannelEntry]:
        """The channels as they are in this mode."""
        if not self.protect:
            return dict(channels)
        return {
            name: ProtectedChannel(**asdict(spec) | {"borrow": False, "keeps": self.safety})
            for name, spec in channels.items()
        }


class LocationView(Struct, frozen=True):
    """A location as it is."""

    name: str
    version: int
    sells: bool
    returns: bool


class SkuView(Struct, frozen=True):
    """A SKU's policy as it is."""

    sku: str
    version: int
    safety_stock: int
    safety_by_location: dict[str, int]
    channels: dict[str, SkuChannel]
    customer_limit: int | None = None
    customer_limit_days: int = CUSTOMER_LIMIT_DAYS_MAX
