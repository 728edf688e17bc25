"""A store as a model, and how far a model is from it."""

from __future__ import annotations

from dataclasses import replace

from core.kernel import reference as rule
from core.policy_model import LocationSpec
from core.store import wording
from tests import stored
from tests.model import Model
from tests.planned import Held, Record


def model_of(found: stored.Audit) -> Model:
    """The model that has exactly what the store has."""
    entry = found.store.hash
    model = Model(policy_number=int(found.meta["policy"]))
    for name, text in entry("channels").items():
        channel = wording.parse_channel(name, text.encode())
        model.channels[name] = channel.spec
        if channel.spec.closed:
            model.closed.add(name)
    for text in entry("modes").values():
        mode = wording.parse_mode(text.encode())
        model.keeps = mode.safety if mode.protect else None
    for name, text in entry("locations").items():
        place = wording.parse_location(name, text.encode())
        model.locations[name] = LocationSpec(place.sells, place.returns)
    for name, text in entry("skus").items():
        number, _, spec = wording.parse_sku(text.encode())
        model.skus[name] = number, spec
    for name, row in found.rows.items():
        sku, location = name.split("@")
        model.pools[sku, location] = rule.Pool(
            sku, location, row.version, row.sku_number, row.policy_number, row.shared, row.safety,
            row.damaged, row.quarantine, row.deficit, row.credit,
            {channel: _quota(quota) for channel, quota in row.quotas.items()},
        )  # fmt: skip
    model.records = {id: _record(record) for id, record in found.records.items()}
    return model


def differences(model: Model, found: stored.Audit) -> list[str]:
    """Where the store is not as the model, field by field; times are the store's own."""
    there = model_of(found)
    wrong = [
        f"{what}: the model has {one}, the store {other}"
        for what, one, other in (
            ("policy", model.policy_number, there.policy_number),
            ("protect mode", model.keeps, there.keeps),
            ("channels", sorted(model.channels), sorted(there.channels)),
            ("closed channels", model.closed, there.closed),
        )
        if one != other
    ]
    pools = {place: _without_empty(pool) for place, pool in model.pools.items()}
    wrong += [
        f"pool {place}: the model has {pools.get(place)}, the store {there.pools.get(place)}"
        for place in sorted(pools.keys() | there.pools.keys())
        if pools.get(place) != there.pools.get(place)
    ]
    return wrong + [
        f"record {id}: the model has {model.records.get(id)}, the store {there.records.get(id)}"
        for id in sorted(model.records.keys() | there.records.keys())
        if model.records.get(id) != there.records.get(id)
    ]


def _without_empty(pool: rule.Pool) -> rule.Pool:
    """A row does not name a channel that has nothing there and never had a ceiling."""
    quotas = {name: quota for name, quota in pool.quotas.items() if quota != rule.Quota()}
    return replace(pool, quotas=quotas)


def _quota(quota: stored.Quota) -> rule.Quota:
    ceiling = None
    if quota.ceiling.startswith("u"):
        ceiling = rule.Ceiling(units=int(quota.ceiling[1:]))
    elif quota.ceiling.startswith("s"):
        ceiling = rule.Ceiling(share=int(quota.ceiling[1:]))
    return rule.Quota(
        quota.free, quota.reserved, quota.committed, quota.credit, quota.number, ceiling,
        quota.left, quota.remainder,
    )  # fmt: skip


def _record(record: stored.Record) -> Record:
    return Record(
        record.channel, stored.decoded(record.customer), stored.decoded(record.reference),
        [_held(line) for line in record.lines], record.state, record.version,
    )  # fmt: skip


def _held(line: stored.Line) -> Held:
    """How much of a line is left follows from its counters: own ships first, borrowed goes back
    first."""
    sku, location = line.pool.split("@")
    shipped_borrowed = max(0, line.fulfilled - line.own)
    back_borrowed = min(line.cancelled, line.borrowed - shipped_borrowed)
    borrowed_left = line.borrowed - shipped_borrowed - back_borrowed
    return Held(
        (sku, location), line.own, line.borrowed, line.ceiling, line.fulfilled, line.cancelled,
        line.returned, line.short, line.open - borrowed_left, borrowed_left,
    )  # fmt: skip
