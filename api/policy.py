"""Channels, locations, SKUs: what may be sold where, and how it is shared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import asdict, replace

from api import wire
from api.call import JSON, Call, Reply
from api.reservations import REPLAYED
from api.stock import path_sku
from api.wire import Body, Page, Parameters
from core.errors import StaleVersion, UnknownChannel, UnknownLocation, UnknownSku
from core.model import NAME_RULE, Key, is_name
from core.policy_model import Channel, ChannelSpec, LocationSpec, SkuSpec

if TYPE_CHECKING:
    from core.catalogue import Put

T = TypeVar("T", bound=Struct)

CHANNEL = Body(ChannelSpec)
LOCATION = Body(LocationSpec)
SKU = Body(SkuSpec)


class ChannelView(Struct, frozen=True):
    """A channel as it is: what was put, with its name and version; ``closed`` while it is being
    deleted: it takes nothing and is given nothing. A DELETE that was cut off leaves it so: a worker
    ends it within two minutes, the same DELETE at once, and a PUT opens it again."""

    name: str
    version: int
    floor_share: float | None
    floor_units: int | None
    ceiling_share: float | None
    ceiling_units: int | None
    borrow: bool
    split: bool
    locations: list[str]
    ttl_seconds: int
    max_hold_seconds: int
    late_window_seconds: int
    closed: bool | UnsetType = UNSET


def _channel_view(channel: Channel) -> ChannelView:
    members = asdict(channel.spec)
    if not channel.spec.closed:
        del members["closed"]
    return ChannelView(channel.name, channel.version, **members)


def _path_name(call: Call) -> str:
    """The name in the path. Raises InvalidRequest."""
    if not is_name(call.parameter):
        raise wire.invalid("{name}", NAME_RULE)
    return call.parameter


def _put(call: Call, body: Body[T], prefix: str) -> tuple[T, Key | None, int | None]:
    """The request of a PUT, its key, and the version that it names."""
    sent, request, version = body.read_versioned(call)
    if sent is None:
        return request, None, version
    path = (prefix + call.parameter).encode()
    return request, wire.scoped(call.owner, b"PUT", path, sent, request), version


def _put_reply(call: Call, put: Put[Any], view: Any) -> Reply:
    headers = [JSON, wire.etag(put.value.version)]
    if put.created:
        headers.append((b"location", call.raw_path))
    if put.replayed:
        headers.append(REPLAYED)
    return 201 if put.created else 200, headers, wire.encode(view)


def _read_reply(call: Call, version: int, view: Any) -> Reply:
    """``view``, if it is still of the version that If-Match names."""
    wanted = wire.if_match(call)
    if wanted is not None and wanted != version:
        raise StaleVersion
    return 200, [JSON, wire.etag(version)], wire.encode(view)


def _must_exist(call: Call) -> bool:
    """True for ``If-Match: *``: change it, never make it."""
    return call.headers.get(b"if-match") == b"*"


async def put_channel(call: Call) -> Reply:
    """``PUT /v1/channels/{name}``."""
    request, key, version = _put(call, CHANNEL, "/v1/channels/")
    name = _path_name(call)
    if _must_exist(call):
        try:
            await call.catalogue.channel(name)
        except UnknownChannel:
            raise StaleVersion from None
    put = await call.catalogue.put_channel(name, request, key, version)
    return _put_reply(call, put, _channel_view(put.value))


async def read_channel(call: Call) -> Reply:
    """``GET /v1/channels/{name}``."""
    wire.if_match(call)
    Parameters(call)
    name = _path_name(call)
    call.check_channel(name)
    channel = await call.catalogue.channel(name)
    return _read_reply(call, channel.version, _channel_view(channel))


async def delete_channel(call: Call) -> Reply:
    """``DELETE /v1/channels/{name}``: gone, or 409 if it has open units."""
    version = wire.if_match(call)
    Parameters(call)
    await call.catalogue.delete_channel(_path_name(call), version)
    return 204, [], b""


async def list_channels(call: Call) -> Reply:
    """``GET /v1/channels``, by name."""
    after, limit = Parameters(call, once=("cursor", "limit")).page()
    views = {
        channel.name: _channel_view(channel)
        for channel in await call.catalogue.channels()
        if call.caller.sees(channel.name)
    }
    return 200, [JSON], wire.encode(_page(views, after, limit))


async def put_location(call: Call) -> Reply:
    """``PUT /v1/locations/{name}``."""
    request, key, version = _put(call, LOCATION, "/v1/locations/")
    name = _path_name(call)
    if _must_exist(call):
        try:
            await call.catalogue.location(name)
        except UnknownLocation:
            raise StaleVersion from None
    put = await call.catalogue.put_location(name, request, key, version)
    return _put_reply(call, put, put.value)


async def read_location(call: Call) -> Reply:
    """``GET /v1/locations/{name}``."""
    wire.if_match(call)
    Parameters(call)
    location = await call.catalogue.location(_path_name(call))
    return _read_reply(call, location.version, location)


async def list_locations(call: Call) -> Reply:
    """``GET /v1/locations``, by name."""
    after, limit = Parameters(call, once=("cursor", "limit")).page()
    views = {location.name: location for location in await call.catalogue.locations()}
    return 200, [JSON], wire.encode(_page(views, after, limit))


async def put_sku(call: Call) -> Reply:
    """``PUT /v1/skus/{sku}``: a SKU exists by this."""
    request, key, version = _put(call, SKU, "/v1/skus/")
    sku = path_sku(call)
    if _must_exist(call):
        try:
            await call.catalogue.sku(sku)
        except UnknownSku:
            raise StaleVersion from None
    put = await call.catalogue.put_sku(sku, request, key, version)
    return _put_reply(call, put, put.value)


async def read_sku(call: Call) -> Reply:
    """``GET /v1/skus/{sku}``."""
    wire.if_match(call)
    Parameters(call)
    view = await call.catalogue.sku(path_sku(call))
    if call.caller.channels is not None:
        own = {name: each for name, each in view.channels.items() if call.caller.sees(name)}
        view = replace(view, channels=own)
    return _read_reply(call, view.version, view)


def _page(views: dict[str, T], after: str, limit: int) -> Page[T]:
    """The first ``limit`` of ``views`` whose names come after ``after``."""
    names = sorted(name for name in views if name > after)
    following = names[limit - 1] if len(names) > limit else None
    return Page([views[name] for name in names[:limit]], wire.cursor(following))
