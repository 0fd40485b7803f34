"""The outbox between recorder and reports: what a batch adds, and whose facts it moves (docs/design.md "Reports").

One row a batch. It is written in the batch's own transaction, and taken out in the one that adds it up.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, text

from caselog.schema.reports.tally import Row
from caselog.schema.reports.terms.report import DIMENSIONS, SUMS
from caselog.schema.sql.statement import Statement

TAKEN_ROWS: Final = 500
# About as much as is added up in a quarter of a second: then others see it, and a kill costs no more.
TAKEN_DELTAS: Final = 4000
_MARKED_CASES: Final = 500


def post(db: Connection, sums: Sequence[Row], cases: Collection[str]) -> int:
    """Put a batch's deltas into the outbox. Returns how many there were: rows to add to, and cases to look at."""
    deltas = len(sums) + len(cases)
    if deltas:
        _POST.run(db, deltas=deltas, sums=msgspec.json.encode(sums).decode(), cases=sorted(cases))
    return deltas


_POST: Final = Statement(
    "insert into report_outbox (deltas, sums, case_references) values (%(deltas)s, %(sums)s::json, %(cases)s)"
)


class Taken(msgspec.Struct, frozen=True):
    """What was taken out: `deltas`, of which the sums are added up; `cases` wait for their facts to be computed."""

    deltas: int
    cases: list[str]


def take(db: Connection, *, most_rows: int = TAKEN_ROWS, most_deltas: int = TAKEN_DELTAS) -> Taken:
    """Take some of the outbox, oldest first, and add its sums to the reports.

    In the caller's transaction: killed before its commit, all of it is in the outbox again. Several may take at once:
    each takes rows that no other holds.
    """
    (row,) = _TAKE.rows(db, rows=most_rows, deltas=most_deltas)
    return Taken(*row)


_KEY: Final = ", ".join(("report", "day", *DIMENSIONS))
_ELEMENTS: Final = ", ".join(
    [
        "element->>0 as report",
        "(element->>1)::date as day",
        *(f"element->>{at} as {name}" for at, name in enumerate(DIMENSIONS, 2)),
        *(f"sum((element->>{at})::bigint) as {name}" for at, name in enumerate(SUMS, 2 + len(DIMENSIONS))),
    ]
)
# By their place: joined by id, a backlog that came faster than the statistics (they say that the outbox is empty) would
# be looked through once for each row taken. The rows are locked, and rows of the outbox are never updated.
_TAKE: Final = Statement(
    f"""
    with locked as materialized (
        select ctid as place, id, deltas from report_outbox order by id limit %(rows)s for update skip locked
    ),
    taken as (
        delete from report_outbox where ctid = any(array(
            select place from (select place, sum(deltas) over (order by id) - deltas as before from locked) as so_far
            where before < %(deltas)s
        )) returning deltas, sums, case_references
    ),
    summed as (
        select {_ELEMENTS} from taken, jsonb_array_elements(sums::jsonb) as element
        group by {", ".join(str(at) for at in range(1, 3 + len(DIMENSIONS)))}
        order by {", ".join(str(at) for at in range(1, 3 + len(DIMENSIONS)))}
    ),
    added as (
        insert into report_sum ({_KEY}, {", ".join(SUMS)}) select * from summed
        on conflict on constraint report_sum_row_key
        do update set {", ".join(f"{name} = report_sum.{name} + excluded.{name}" for name in SUMS)}
    )
    select coalesce(sum(deltas), 0)::bigint as deltas,
           array(select distinct reference from taken, unnest(case_references) as reference order by reference) as cases
    from taken
    """  # noqa: S608 - names of our own columns
)


def mark_cases(db: Any, query: str, parameters: dict[str, Any] | None = None) -> None:
    """Have the facts computed anew of every case that the query names, some hundred cases a row of the outbox."""
    db.execute(
        f"""
        insert into report_outbox (deltas, sums, case_references)
        select count(*), '[]', array_agg(reference) from (
            select reference, row_number() over (order by reference) / {_MARKED_CASES} as part
            from ({query}) as marked(reference)
        ) as parts group by part order by part
        """.encode(),  # noqa: S608 - our own queries
        parameters,
    )


class OutboxLag(msgspec.Struct, frozen=True):
    """How far the reports are behind: deltas not added up yet, and the age of the oldest in seconds."""

    deltas: int
    oldest_age_s: float | None


def lag(db: Connection) -> OutboxLag:
    row = db.execute(
        text(
            """
            select coalesce(sum(deltas), 0)::bigint,
                   extract(epoch from clock_timestamp() - min(created_at))::float8 from report_outbox
            """
        )
    ).one()
    return OutboxLag(*row)


def mark(db: Connection) -> int:
    """The id of the newest row of the outbox; 0 where it is empty."""
    newest: int = db.execute(text("select coalesce(max(id), 0) from report_outbox")).scalar_one()
    return newest


def holds(db: Connection, mark: int) -> bool:
    """Whether a row up to that mark is still in the outbox."""
    found: bool = db.execute(
        text("select exists (select 1 from report_outbox where id <= :mark)"), {"mark": mark}
    ).scalar_one()
    return found
