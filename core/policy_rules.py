"""What a channel or a SKU may not say of floors and ceilings: (JSON pointer, why) of each."""

from __future__ import annotations

from core.errors import InvalidRequest
from core.policy_model import ChannelSpec, SkuChannel


def check_walls(where: str, spec: ChannelSpec | SkuChannel) -> list[tuple[str, str]]:
    """What one floor and one ceiling may not say: (pointer, why)."""
    wrong = []
    if spec.floor_share is not None and spec.floor_units is not None:
        wrong.append((f"{where}/floor_units", "Expected either floor_share or floor_units"))
    if spec.ceiling_share is not None and spec.ceiling_units is not None:
        wrong.append((f"{where}/ceiling_units", "Expected either ceiling_share or ceiling_units"))
    for name in ("floor_share", "ceiling_share"):
        share = getattr(spec, name)
        if share is not None and abs(share * 1e6 - round(share * 1e6)) > 1e-4:
            wrong.append((f"{where}/{name}", "Expected at most 6 decimals"))
    for kind in ("share", "units"):
        floor, ceiling = getattr(spec, f"floor_{kind}"), getattr(spec, f"ceiling_{kind}")
        if floor is not None and ceiling is not None and floor > ceiling:
            wrong.append((f"{where}/floor_{kind}", "Expected a floor of at most the ceiling"))
    return wrong


def check_shares(
    where: str, channels: dict[str, ChannelSpec], shares: dict[str, float | None]
) -> list[tuple[str, str]]:
    """Floors by share may not pass 1 at any location."""
    totals: dict[str, int] = {}
    for name, spec in channels.items():
        share = round((shares.get(name) or 0) * 1_000_000)
        for location in set(spec.locations):
            totals[location] = totals.get(location, 0) + share
    return [
        (where, f"Expected floor shares of at most 1 at {location}, not {total / 1e6}")
        for location, total in sorted(totals.items())
        if total > 1_000_000
    ]


def refuse(wrong: list[tuple[str, str]]) -> None:
    """Raises InvalidRequest with what is wrong, if anything is."""
    if wrong:
        raise InvalidRequest("; ".join(why for _, why in wrong[:3]), wrong)
