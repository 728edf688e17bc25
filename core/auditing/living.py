"""Which reservations are counted as live ones of their customers, against their records.

Both are in the store and change in one script, so one look at both decides. What is live and not
counted is no difference: it may be older than the setting that has them counted.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from core.customers import live_member
from core.model import is_reservation_id
from core.store.survey import Survey


def id_of(member: str) -> str:
    """The reservation's id, if something of Stockade's wrote it."""
    return member.rpartition("@")[2]


async def stale_live(survey: Survey) -> AsyncIterator[list[str]]:
    """Those that are counted and not reserved any more, turn by turn."""
    async for turn in survey.all_live():
        named = {each: id_of(each) for each in turn if is_reservation_id(id_of(each))}
        look = await survey.live(named)
        stale = [each for each in turn if each not in named]
        stale += [each for each, record in look.items() if not _holds(record, each)]
        if stale:
            yield stale


def _holds(record: str, member: str) -> bool:
    words = record.split(" ", 8)
    return words[0] == "R" and live_member(words[7], id_of(member)) == member
