"""Every route there is. Both routers, the documentation and the tests read these tables.

``ROUTES`` are those of ``/v1``, found by ``api.routing``; ``PAGES`` are served by Starlette.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from api import (
    audit,
    batch,
    events,
    metrics,
    pages,
    policy,
    reconciliations,
    records,
    reservations,
    stock,
)
from api.call import BATCH_BYTES_MAX, BODY_BYTES_MAX
from api.reconciliations import Document, Summary
from api.routing import Handler, PageHandler, Query, Route
from api.wire import ITEMS_DEFAULT, ITEMS_MAX, Page
from core.happenings import TYPES
from core.model import (
    ID_PATTERN,
    SKU_PATTERN,
    Amend,
    Cancel,
    Commit,
    DryRun,
    Extend,
    Fulfil,
    Release,
    Reservation,
    Reserve,
    Return,
    SkuStock,
)
from core.policy_model import ChannelSpec, LocationSpec, LocationView, SkuSpec, SkuView
from core.record_model import STATES, VERBS
from core.stock_model import Adjust, Count, Reallocate, Receive, Transfer

PAGE = (
    Query("cursor", {"type": "string"}, "Go on where `next_cursor` of the page before says."),
    Query(
        "limit",
        {"type": "integer", "minimum": 1, "maximum": ITEMS_MAX, "default": ITEMS_DEFAULT},
        "How many items at most.",
    ),
)
SKUS: dict[str, Any] = {
    "type": "array",
    "items": {"type": "string", "pattern": SKU_PATTERN},
    "maxItems": stock.SKUS_MAX,
}
CHANNEL = {"type": "string"}
NAMES = {"type": "array", "items": CHANNEL, "maxItems": events.NAMES_MAX}
TEXT = {"type": "string", "minLength": 1, "maxLength": 128}
SKU = {"type": "string", "pattern": SKU_PATTERN}
ID = {"type": "string", "pattern": ID_PATTERN}
TIME = {"type": "string", "format": "date-time"}
# Who may: one of these scopes is enough.
OPEN: frozenset[str] = frozenset()  # nothing of the shop is in it
ORDERS = frozenset({"reserve", "fulfil"})
RESERVE = frozenset({"reserve"})
FULFIL = frozenset({"fulfil"})
AVAILABILITY = frozenset({"reserve", "stock:read"})
EVENTS = frozenset({"reserve", "fulfil", "stock:read"})
STOCK = frozenset({"stock:read"})
STOCK_CHANGE = frozenset({"stock:write"})
POLICY = frozenset({"stock:read", "quota:write"})
POLICY_CHANGE = frozenset({"quota:write"})
OPERATE = frozenset({"operate"})
AUDIT = frozenset({"audit"})
UNVERSIONED = ("if_match_invalid", "stale_version")  # an If-Match there matches nothing


def _verb(
    verb: str,
    handler: Handler,
    summary: str,
    body: type[Struct],
    problems: tuple[str, ...],
    optional: bool = True,
    scopes: frozenset[str] = RESERVE,
) -> Route[Handler]:
    """A verb of a reservation."""
    return Route(
        "POST",
        f"/v1/reservations/{{id}}/{verb}",
        handler,
        summary,
        {200: Reservation},
        scopes,
        body=body,
        body_bytes_max=BODY_BYTES_MAX,
        body_optional=optional,
        key=True,
        if_match=True,
        problems=("unknown_reservation", "invalid_state", *problems),
    )


def _stock(
    verb: str,
    handler: Handler,
    summary: str,
    body: type[Struct],
    scopes: frozenset[str] = STOCK_CHANGE,
) -> Route[Handler]:
    """A verb of stock."""
    return Route(
        "POST",
        f"/v1/stock/{verb}",
        handler,
        summary,
        {200: stock.StockResults},
        scopes,
        body=body,
        body_bytes_max=BATCH_BYTES_MAX,
        key=True,
        problems=UNVERSIONED,
    )


def _put(
    path: str,
    handler: Handler,
    summary: str,
    body: type[Struct],
    view: type[Struct],
) -> Route[Handler]:
    """A policy, put whole."""
    return Route(
        "PUT",
        path,
        handler,
        summary,
        {200: view, 201: view},
        POLICY_CHANGE,
        body=body,
        body_bytes_max=BODY_BYTES_MAX,
        key=True,
        if_match=True,
    )


ROUTES: tuple[Route[Handler], ...] = (
    Route(
        "POST",
        "/v1/reservations",
        reservations.reserve,
        "Reserve a basket, all of it, or if partial what there is; or record what was sold already",
        {200: DryRun, 201: Reservation},
        RESERVE,
        body=Reserve,
        body_bytes_max=BODY_BYTES_MAX,
        query=(
            Query(
                "dry_run",
                {"type": "boolean", "default": False},
                "Only say what would be granted now (200); nothing is written.",
            ),
        ),
        key=True,
        problems=(
            "unknown_sku",
            "unknown_channel",
            "unknown_location",
            "insufficient_stock",
            "customer_limit",
            "customer_required",
            "durability_unavailable",
            *UNVERSIONED,
        ),
    ),
    Route(
        "POST",
        "/v1/reservations/batch",
        batch.batch,
        "Reserve many baskets, or other verbs of reservations, each on its own",
        {200: batch.BatchResults},
        ORDERS,
        body=batch.Batch,
        body_bytes_max=BATCH_BYTES_MAX,
        key=True,
        problems=UNVERSIONED,
    ),
    Route(
        "GET",
        "/v1/reservations",
        records.reservations,
        "Reservations, newest first, as the ledger has them",
        {200: records.ReservationPage},
        ORDERS,
        query=(
            Query("reference", TEXT, "With this reference."),
            Query(
                "state",
                {"enum": STATES},
                "In this state; one whose deadline has passed is `expired`.",
            ),
            Query("channel", CHANNEL, "Of this channel."),
            Query("sku", SKU, "With a line of this SKU."),
            Query("location", CHANNEL, "With a line at this location."),
            Query("customer", TEXT, "Of this customer."),
            Query("created_before", TIME, "Made before this."),
            Query(
                "at_risk",
                {"type": "boolean", "default": False},
                "With open units in a pool with a deficit: reserved ones first, then committed.",
            ),
            *PAGE,
        ),
        problems=("ledger_unavailable",),
    ),
    Route(
        "GET",
        "/v1/movements",
        records.movements,
        "Movements of units, in the order in which they happened",
        {200: records.MovementPage},
        STOCK,
        query=(
            Query("sku", SKU, "Of this SKU."),
            Query("location", CHANNEL, "At this location."),
            Query("channel", CHANNEL, "From or to an account of this channel."),
            Query("reservation", ID, "Of this reservation."),
            Query("reference", TEXT, "With this reference."),
            Query("verb", {"enum": VERBS}, "By this verb."),
            Query("since", TIME, "From this on."),
            Query("until", TIME, "Before this."),
            *PAGE,
        ),
        problems=("ledger_unavailable",),
    ),
    Route(
        "GET",
        "/v1/events",
        events.listen,
        "What happens, as server-sent events; `Last-Event-ID` goes on behind an earlier one",
        {200: events.CloudEvent},
        EVENTS,
        query=(
            Query(
                "type",
                {"type": "array", "items": {"enum": sorted(TYPES)}},
                "Of these types; repeat it.",
            ),
            Query("channel", NAMES, "That name one of these channels; repeat it."),
            Query("sku", SKUS, "That name one of these SKUs; repeat it."),
        ),
        problems=("ledger_unavailable", "draining"),
    ),
    Route(
        "GET",
        "/v1/reservations/{id}",
        reservations.read,
        "A reservation as it is now",
        {200: Reservation},
        ORDERS,
        if_match=True,
        problems=("unknown_reservation",),
    ),
    _verb(
        "amend",
        reservations.amend,
        "Change the basket: the open units as they shall be, all of them or none",
        Amend,
        (
            "insufficient_stock", "customer_limit", "customer_required", "hold_limit",
            "unknown_sku", "unknown_channel", "unknown_location",
        ),
        optional=False,
    ),
    _verb(
        "extend",
        reservations.extend,
        "Hold it longer: until now + ttl_seconds, if that is later",
        Extend,
        ("hold_limit",),
    ),
    _verb(
        "commit",
        reservations.commit,
        "Sold: reserved → committed; after the deadline the units are taken anew if they can be",
        Commit,
        ("expired", "durability_unavailable"),
    ),
    _verb("release", reservations.release, "Give it up: reserved → released", Release, ()),
    _verb(
        "cancel",
        reservations.cancel,
        "Committed units back; without lines all that is left",
        Cancel,
        ("idempotency_key_required", "invalid_quantity"),
    ),
    _verb(
        "fulfil",
        reservations.fulfil,
        "Shipped or handed over; without lines all that is left",
        Fulfil,
        ("idempotency_key_required", "invalid_quantity"),
        scopes=FULFIL,
    ),
    _verb(
        "return",
        reservations.return_,
        "Shipped units came back: sold again, damaged, or to be inspected",
        Return,
        ("idempotency_key_required", "invalid_quantity", "unknown_location"),
        optional=False,
        scopes=FULFIL,
    ),
    Route(
        "GET",
        "/v1/availability",
        stock.availability,
        "What a channel can take now, for product pages",
        {200: stock.Availability},
        AVAILABILITY,
        query=(
            Query("channel", CHANNEL, "The channel that asks.", required=True),
            Query("sku", SKUS | {"minItems": 1}, "The SKUs; repeat it.", required=True),
            Query("by_location", {"type": "boolean", "default": False}, "Per location as well."),
        ),
        problems=("unknown_sku", "unknown_channel"),
    ),
    Route(
        "GET",
        "/v1/stock",
        stock.read_many,
        "Stock of the SKUs asked for, or of all, page by page",
        {200: Page[SkuStock]},
        STOCK,
        query=(Query("sku", SKUS, "The SKUs; repeat it. Not with `cursor` or `limit`."), *PAGE),
        problems=("unknown_sku",),
    ),
    Route(
        "GET",
        "/v1/stock/{sku}",
        stock.read,
        "All pools of a SKU",
        {200: SkuStock},
        STOCK,
        query=(Query("channel", CHANNEL, "Of this channel alone."),),
        problems=("unknown_sku", "unknown_channel"),
    ),
    _stock("receive", stock.receive, "Units that arrived, each line on its own", Receive),
    _stock("adjust", stock.adjust, "Units that were found or lost, each line on its own", Adjust),
    _stock("count", stock.count, "What was counted, each line on its own", Count),
    _stock("transfer", stock.transfer, "Unsold units go to another location", Transfer),
    _stock("reallocate", stock.reallocate, "Unsold units go to another account", Reallocate,
           POLICY_CHANGE),
    _put("/v1/skus/{sku}", policy.put_sku, "Make or change a SKU", SkuSpec, SkuView),
    Route("GET", "/v1/skus/{sku}", policy.read_sku, "A SKU's policy", {200: SkuView}, POLICY,
          if_match=True, problems=("unknown_sku",)),
    _put("/v1/locations/{name}", policy.put_location, "Make or change a location",
         LocationSpec, LocationView),
    Route("GET", "/v1/locations/{name}", policy.read_location, "A location",
          {200: LocationView}, POLICY, if_match=True, problems=("unknown_location",)),
    Route("GET", "/v1/locations", policy.list_locations, "All locations, by name",
          {200: Page[LocationView]}, POLICY, query=PAGE),
    _put("/v1/channels/{name}", policy.put_channel, "Make or change a channel",
         ChannelSpec, policy.ChannelView),
    Route("GET", "/v1/channels/{name}", policy.read_channel, "A channel",
          {200: policy.ChannelView}, POLICY, if_match=True, problems=("unknown_channel",)),
    Route("DELETE", "/v1/channels/{name}", policy.delete_channel,
          "Remove a channel; what is left of its quota becomes shared", {204: None}, POLICY_CHANGE,
          if_match=True, problems=("unknown_channel", "channel_in_use")),
    Route("GET", "/v1/reconciliations", reconciliations.read_many,
          "Reconciliations, newest first", {200: Page[Summary]}, OPERATE, query=PAGE),
    Route("GET", "/v1/reconciliations/latest", reconciliations.read_latest,
          "The last reconciliation, with its first 1,000 differences", {200: Document}, OPERATE,
          problems=("unknown_reconciliation", "ledger_unavailable")),
    Route("GET", "/v1/audit", audit.audit,
          "Who changed what, and who read whose a reservation is", {200: audit.AuditPage}, AUDIT,
          query=(
              Query("actor", TEXT, "By this key, or whoever it was."),
              Query("target", TEXT, "Of this, as `channel/web`."),
              Query("since", TIME, "From this on."),
              Query("until", TIME, "Before this."),
              *PAGE,
          ),
          problems=("ledger_unavailable",)),
    Route("GET", "/v1/channels", policy.list_channels, "All channels, by name",
          {200: Page[policy.ChannelView]}, POLICY, query=PAGE),
)  # fmt: skip

PAGES: tuple[Route[PageHandler], ...] = (
    Route("GET", "/healthz", pages.healthz, "The process answers", {200: None}, OPEN),
    Route("GET", "/readyz", pages.readyz, "This worker can take reservations now",
          {200: None}, OPEN, problems=("stock_unavailable", "draining")),
    Route("GET", "/metrics", metrics.metrics, "What the service has counted, for Prometheus",
          {200: None}, OPERATE),
    Route("GET", "/openapi.json", pages.openapi, "This document", {200: None}, OPEN),
    Route("GET", "/docs", pages.docs, "This document, to be read and tried out", {200: None}, OPEN),
    Route("GET", "/problems/{code}", pages.problem, "What the type of a problem means",
          {200: None}, OPEN, problems=("unknown_route",)),
)  # fmt: skip
