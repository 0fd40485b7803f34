"""What people do with dead letters: find them, see which share a fault, and discard them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, text

from caselog.schema.recording.dead_letters import DeadLetter


class Filter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which dead letters: those that match everything given. `msgspec.to_builtins` gives what was asked for.

    `code` is the code given in the event. `fault` is that of `groups`. `since` and `until` (both included) are about
    when they were set aside. `text` is any part of message, event id, source or case, in upper or lower case.
    """

    ids: tuple[int, ...] | None = None
    reason: str | None = None
    key: str | None = None
    code: str | None = None
    case: str | None = None
    source: str | None = None
    fault: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    text: str | None = None


_WHERE: Final = """
    (cast(:ids as bigint[]) is null or id = any(:ids))
    and (cast(:reason as text) is null or reason = :reason)
    and (cast(:key as text) is null or key = :key)
    and (cast(:code as text) is null or code = :code)
    and (cast(:case as text) is null or case_reference = :case)
    and (cast(:source as text) is null or source = :source)
    and (cast(:fault as text) is null or fault = :fault)
    and (cast(:since as timestamptz) is null or received_at >= :since)
    and (cast(:until as timestamptz) is null or received_at <= :until)
    and (cast(:text as text) is null
         or position(lower(:text) in lower(concat_ws(chr(10), message, event_id, source, case_reference))) > 0)
"""
_SELECTED: Final = "id, reason, message, source, event_id, key, code, case_reference, received_at, attempts, fault, raw"


def find(db: Connection, wanted: Filter, *, limit: int | None = None) -> Iterator[DeadLetter]:
    """The dead letters that match, oldest first, streamed."""
    found = db.execute(_FIND, {**_asked(wanted), "limit": limit})
    return (DeadLetter(**row) for row in found.mappings())


_FIND: Final = text(
    f"select {_SELECTED} from dead_letter where {_WHERE} order by id limit :limit"  # noqa: S608 - texts above
).execution_options(stream_results=True, max_row_buffer=500)


def select(db: Connection, wanted: Filter) -> dict[int, int]:
    """Of each dead letter that matches, by id and oldest first, how often it was tried."""
    found = db.execute(_SELECT, _asked(wanted))
    return {row.id: row.attempts for row in found}


_SELECT: Final = text(f"select id, attempts from dead_letter where {_WHERE} order by id")  # noqa: S608 - texts above


def cases_of(db: Connection, ids: Collection[int]) -> list[str]:
    """The cases of these dead letters, as far as they could be read, each once."""
    found = db.execute(
        text("select distinct case_reference from dead_letter where id = any(:ids) and case_reference is not null"),
        {"ids": list(ids)},
    )
    return list(found.scalars())


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Dead letters with the same fault. `example` is the id of the newest, `message` is that one's."""

    fault: str
    reason: str
    key: str | None
    code: str | None
    letters: int
    first: datetime
    last: datetime
    example: int
    message: str


def groups(db: Connection, wanted: Filter, *, limit: int | None = None) -> list[Group]:
    """The faults of the dead letters that match, the one with the most letters first."""
    found = db.execute(_GROUPS, {**_asked(wanted), "limit": limit})
    return [Group(**row) for row in found.mappings()]


_GROUPS: Final = text(
    f"""
    select grouped.*, dead_letter.message from (
        select fault, reason, key, code, count(*) as letters, min(received_at) as first, max(received_at) as last,
               max(id) as example
        from dead_letter where {_WHERE} group by fault, reason, key, code
        order by letters desc, example desc limit :limit
    ) as grouped join dead_letter on dead_letter.id = grouped.example
    order by letters desc, example desc
    """  # noqa: S608 - texts above
)


class Discarded(msgspec.Struct, frozen=True, kw_only=True):
    """What remains of a dead letter that was discarded. `fingerprint` is the SHA-256 of its bytes, in hexadecimal."""

    id: int
    source: str | None
    event_id: str | None
    case_reference: str | None
    reason: str
    fingerprint: str


def discard(db: Connection, ids: Collection[int]) -> list[Discarded]:
    """Delete these dead letters, oldest first, but for those that somebody else is just requeueing. Does not block."""
    return [Discarded(**row) for row in db.execute(_DISCARD, {"ids": list(ids)}).mappings()]


_DISCARD: Final = text(
    """
    with chosen as (select id from dead_letter where id = any(:ids) for update skip locked),
    discarded as (
        delete from dead_letter using chosen where dead_letter.id = chosen.id
        returning dead_letter.id, source, event_id, case_reference, reason, encode(fingerprint, 'hex') as fingerprint
    )
    select * from discarded order by id
    """
)


def older_than(db: Connection, days: int, *, limit: int) -> list[int]:
    """The ids of dead letters that were set aside more than so many days ago, oldest first."""
    found = db.execute(
        text(
            """
            select id from dead_letter where received_at < now() - make_interval(days => :days)
            order by id limit :limit
            """
        ),
        {"days": days, "limit": limit},
    )
    return list(found.scalars())


def with_logged_names(db: Connection, *, after: int, limit: int) -> list[DeadLetter]:
    """Dead letters with the (source, event_id) of an event in the log, by id from the first behind `after`.

    That event may be this one, sent again, or another one under the same name.
    """
    return [DeadLetter(**row) for row in db.execute(_WITH_LOGGED_NAMES, {"after": after, "limit": limit}).mappings()]


# `collate`: so that the index of the log serves.
_WITH_LOGGED_NAMES: Final = text(
    f"""
    select {_SELECTED} from dead_letter where id > :after and exists (
        select from log
        where log.source = dead_letter.source collate "C" and log.event_id = dead_letter.event_id collate "C"
    )
    order by id limit :limit
    """  # noqa: S608 - texts above
)


def _asked(wanted: Filter) -> dict[str, Any]:
    return {
        **{name: getattr(wanted, name) for name in wanted.__struct_fields__},
        "ids": None if wanted.ids is None else list(wanted.ids),
    }
