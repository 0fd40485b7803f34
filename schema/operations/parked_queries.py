"""What people do with events that wait for their case: find them, see for which cases they wait, and discard them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, text

from caselog.schema.recording.parking import Parked


class ParkedFilter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which parked events: those that match everything given. `msgspec.to_builtins` gives what was asked for.

    `since` and `until` (both included) are about when they were parked.
    """

    ids: tuple[int, ...] | None = None
    case: str | None = None
    key: str | None = None
    source: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """An event that waits. It is tried again at `due_at`, and given up once it is tried after `give_up_at`.

    `raw` is its bytes as sent.
    """

    id: int
    case_reference: str
    key: str
    source: str
    event_id: str
    parked_at: datetime
    attempts: int
    due_at: datetime
    give_up_at: datetime
    raw: bytes


_WHERE: Final = """
    (cast(:ids as bigint[]) is null or arrival = any(:ids))
    and (cast(:case as text) is null or case_reference = :case)
    and (cast(:key as text) is null or key = :key)
    and (cast(:source as text) is null or source = :source)
    and (cast(:since as timestamptz) is null or parked_at >= :since)
    and (cast(:until as timestamptz) is null or parked_at <= :until)
"""


def find(db: Connection, wanted: ParkedFilter, *, give_up_s: float, limit: int | None = None) -> Iterator[Waiting]:
    """The parked events that match, longest parked first, streamed."""
    found = db.execute(_FIND, {**_asked(wanted), "give_up_s": give_up_s, "limit": limit})
    return (Waiting(**row) for row in found.mappings())


_FIND: Final = text(
    f"""
    select arrival as id, case_reference, key, source, event_id, parked_at, attempts, due_at,
           parked_at + make_interval(secs => :give_up_s) as give_up_at, raw
    from parked where {_WHERE} order by arrival limit :limit
    """  # noqa: S608 - texts above
).execution_options(stream_results=True, max_row_buffer=500)


class Named(msgspec.Struct, frozen=True):
    """A parked event by its id and by its name: another one under the same name has another id."""

    id: int
    source: str
    event_id: str


def select(db: Connection, wanted: ParkedFilter) -> list[Named]:
    """Which events match, longest parked first."""
    return [Named(*row) for row in db.execute(_SELECT, _asked(wanted))]


_SELECT: Final = text(
    f"select arrival, source, event_id from parked where {_WHERE} order by arrival"  # noqa: S608 - texts above
)


def take(db: Connection, named: Sequence[Named]) -> list[Parked]:
    """These events as they are now, due or not, without those that are not parked any more. Not locked, as `due`."""
    return [Parked(**row) for row in db.execute(_TAKE, _names(named)).mappings()]


def cases_of(db: Connection, named: Sequence[Named]) -> list[str]:
    """The cases that these events wait for, each once."""
    return list(db.execute(_CASES_OF, _names(named)).scalars())


_NAMED: Final = """
    unnest(cast(:numbers as bigint[]), cast(:sources as text[]), cast(:ids as text[])) as named(id, source, event_id)
    where parked.source = named.source and parked.event_id = named.event_id and parked.arrival = named.id
"""
_CASES_OF: Final = text(
    f"select distinct case_reference from parked, {_NAMED}"  # noqa: S608 - a text above
)
_TAKE: Final = text(
    f"""
    select parked.source, parked.event_id, key, case_reference, raw, attempts, parked_at,
           extract(epoch from now() - parked_at)::float8 as age_s, due_at, arrival as id
    from parked, {_NAMED} order by arrival
    """  # noqa: S608 - texts above
)


class CaseWaited(msgspec.Struct, frozen=True, kw_only=True):
    """How many events wait for a case, since when, when the next is tried and when the first is given up.

    `is_there`: the case was created, and they are tried again within a second or so.
    """

    case_reference: str
    events: int
    since: datetime
    next_at: datetime
    give_up_at: datetime
    is_there: bool


def by_case(db: Connection, *, give_up_s: float, case: str | None = None, limit: int | None = None) -> list[CaseWaited]:
    """For which cases events wait, or for this one alone; the one that is waited for longest first."""
    found = db.execute(_BY_CASE, {"case": case, "give_up_s": give_up_s, "limit": limit})
    return [CaseWaited(**row) for row in found.mappings()]


_BY_CASE: Final = text(
    """
    select grouped.*, since + make_interval(secs => :give_up_s) as give_up_at,
           "case".reference is not null as is_there
    from (
        select case_reference, count(*) as events, min(parked_at) as since, min(due_at) as next_at
        from parked where cast(:case as text) is null or case_reference = :case
        group by case_reference order by since, case_reference limit :limit
    ) as grouped left join "case" on "case".reference = grouped.case_reference
    order by since, case_reference
    """
)


def count_cases(db: Connection) -> int:
    """For how many cases events wait."""
    count: int = db.execute(text("select count(distinct case_reference) from parked")).scalar_one()
    return count


class DiscardedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """What remains of a parked event that was discarded. `fingerprint` is the SHA-256 of its bytes, in hexadecimal."""

    id: int
    source: str
    event_id: str
    key: str
    case_reference: str
    fingerprint: str


def discard(db: Connection, named: Sequence[Named]) -> list[DiscardedEvent]:
    """Delete these events, but for those that are just being recorded, tried or made due. Does not block."""
    return [DiscardedEvent(**row) for row in db.execute(_DISCARD, _names(named)).mappings()]


_DISCARD: Final = text(
    f"""
    with chosen as (select arrival from parked, {_NAMED} for update of parked skip locked),
    discarded as (
        delete from parked using chosen, {_NAMED} and chosen.arrival = parked.arrival
        returning parked.arrival as id, parked.source, parked.event_id, key, case_reference,
                  encode(sha256(raw), 'hex') as fingerprint
    )
    select * from discarded order by id
    """  # noqa: S608 - texts above
)


def _names(named: Sequence[Named]) -> dict[str, list[Any]]:
    return {
        "numbers": [one.id for one in named],
        "sources": [one.source for one in named],
        "ids": [one.event_id for one in named],
    }


def _asked(wanted: ParkedFilter) -> dict[str, Any]:
    return {
        **{name: getattr(wanted, name) for name in wanted.__struct_fields__},
        "ids": None if wanted.ids is None else list(wanted.ids),
    }
