"""Suspects: events whose rules took too long, or ended their process. Kept for the next process (decision 99)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, TypeAlias

import msgspec
from sqlalchemy import Connection, text

Identity: TypeAlias = tuple[str, str]
"""(source, id)"""
# Nobody takes so long for an innocent reason. But a process may be killed from outside, and whose rules were called
# just then is chance: so that counts less.
TOO_LONG_MOST: Final = 2
ENDINGS_MOST: Final = 3
# An event that never came again, or was settled by a process that died right then, is no suspect for ever.
KEPT_DAYS: Final = 7


class Suspect(msgspec.Struct, frozen=True):
    """How often an event's rules took too long, how often a process ended in them, and what happened the last time."""

    too_long: int
    endings: int
    why: str

    @property
    def is_condemned(self) -> bool:
        """Whether it is not to be tried again."""
        return self.too_long >= TOO_LONG_MOST or self.too_long + self.endings >= ENDINGS_MOST


def find(db: Connection) -> dict[Identity, Suspect]:
    """All suspects. There are few: each is acquitted when it comes again, or condemned and here for a week."""
    found = db.execute(text("select source, event_id, too_long, endings, why from suspect"))
    return {(row.source, row.event_id): Suspect(row.too_long, row.endings, row.why) for row in found}


def strike(
    db: Connection, events: Collection[Identity], why: str, *, is_ending: bool = False
) -> dict[Identity, Suspect]:
    """Their rules took too long once more, or (`is_ending`) their process ended in them.

    Returns them as they are by now. What is older than a week begins anew.
    """
    counted = {"too_long": int(not is_ending), "endings": int(is_ending)}
    found = db.execute(_STRIKE, {**_identities(events), **counted, "why": why, "days": KEPT_DAYS})
    return {(row.source, row.event_id): Suspect(row.too_long, row.endings, why) for row in found}


_STRIKE: Final = text(
    """
    insert into suspect as stands (source, event_id, too_long, endings, why)
    select distinct source, event_id, cast(:too_long as integer), cast(:endings as integer), cast(:why as text)
    from unnest(cast(:sources as text[]), cast(:ids as text[])) as event(source, event_id)
    order by source, event_id
    on conflict (source, event_id) do update set why = excluded.why, struck_at = now(),
        too_long = excluded.too_long
            + stands.too_long * cast(stands.struck_at >= now() - make_interval(days => :days) as integer),
        endings = excluded.endings
            + stands.endings * cast(stands.struck_at >= now() - make_interval(days => :days) as integer)
    returning source, event_id, too_long, endings
    """
)


def forget(db: Connection, events: Collection[Identity]) -> None:
    """They did no harm, or somebody wants them tried again, or has discarded their dead letters."""
    db.execute(
        text(
            """
            delete from suspect using unnest(cast(:sources as text[]), cast(:ids as text[])) as event(source, event_id)
            where suspect.source = event.source and suspect.event_id = event.event_id
            """
        ),
        _identities(events),
    )


def forget_old(db: Connection) -> None:
    """Those that were not seen for a week."""
    db.execute(text("delete from suspect where struck_at < now() - make_interval(days => :days)"), {"days": KEPT_DAYS})


def _identities(events: Collection[Identity]) -> dict[str, list[str]]:
    return {"sources": [source for source, _ in events], "ids": [event_id for _, event_id in events]}
