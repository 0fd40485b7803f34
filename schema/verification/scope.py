"""What is proved again, where not everything is: one case, or what logs recorded meanwhile can have changed.

Logs are selected first, then the stretches of their actors' logs, then, the timers being proved, the cases.
A stretch ends with a log that ends any timer, since no timer runs after it, with the selected logs as without them. So
it has to be one that was proved already, up to the `mark`: without a new one, the timer that it ends ran on.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeAlias

from caselog.events.model.state import OrderKey
from caselog.schema.verification.session import Session

NO_MARK: Final = 2**63 - 1


def select_new(session: Session, mark: int) -> int:
    """Select the logs with ids above the mark, instead of those selected before. Returns how many."""
    session.execute("truncate proof_new")
    return session.execute("insert into proof_new select id from log where id > %s", (mark,)).rowcount


def select_case(session: Session, reference: str) -> None:
    """Select the logs of one case, and those that started timers which are said to be the case's."""
    session.execute("truncate proof_new")
    session.execute(
        """
        insert into proof_new select id from log where case_reference = %(reference)s
        union select log.id from timer join log using (id) where timer.case_reference = %(reference)s
        """,
        {"reference": reference},
    )


def stretch_by_log(session: Session, timer_ends: Iterable[tuple[str, str]], *, mark: int = NO_MARK) -> None:
    """Select the part of each actor's log that the selected logs stand in, said by the log alone: one an actor.

    It begins after the last log before them that ended any timer, and goes up to the last of them or the next such log
    after it. An actor who never ends a timer has it read from the beginning. `NO_MARK` where none of them is new.
    """
    ends = list(timer_ends)
    keys, codes = [key for key, _ in ends], [code for _, code in ends]
    session.execute("truncate proof_stretch")
    session.execute(_BY_LOG.encode(), {"keys": keys, "codes": codes, "mark": mark})
    _forget_stretched(session)


_BY_LOG: Final = """
    with ends as (select * from unnest(%(keys)s::text[], %(codes)s::text[]) as code(key, code)),
    selected as (
        select actor, occurred_at, source, event_id from proof_new join log using (id) where actor is not null
    ),
    first as (select distinct on (actor) * from selected order by actor, occurred_at, source, event_id),
    last as (select distinct on (actor) * from selected order by actor, occurred_at desc, source desc, event_id desc)
    insert into proof_stretch
    select first.actor,
           coalesce(start.occurred_at, first.occurred_at), coalesce(start.source, first.source),
           coalesce(start.event_id, first.event_id), after.occurred_at, after.source, after.event_id
    from first join last using (actor)
    left join lateral (
        select occurred_at, source, event_id from log
        where log.actor = first.actor and log.occurred_at <= first.occurred_at
          and (log.occurred_at, log.source, log.event_id) < (first.occurred_at, first.source, first.event_id)
          and (key, code) in (select * from ends)
        order by occurred_at desc, source desc, event_id desc limit 1
    ) as before on true
    left join lateral (
        select occurred_at, source, event_id from log
        where log.actor = first.actor and log.occurred_at >= coalesce(before.occurred_at, '-infinity')
          and (before.occurred_at is null
               or (log.occurred_at, log.source, log.event_id) > (before.occurred_at, before.source, before.event_id))
        order by occurred_at, source, event_id limit 1
    ) as start on true
    left join lateral (
        select occurred_at, source, event_id from log
        where log.actor = last.actor and log.occurred_at >= last.occurred_at
          and (log.occurred_at, log.source, log.event_id) >= (last.occurred_at, last.source, last.event_id)
          and (key, code) in (select * from ends) and log.id <= %(mark)s
        order by occurred_at, source, event_id limit 1
    ) as after on true
"""

Stretch: TypeAlias = tuple[str, OrderKey, OrderKey | None]
"""An actor, and the order keys of the first and the last log; None: to the end of the log."""


def stretch_by_timers(
    session: Session, timer_starts: Iterable[tuple[str, str]], timer_ends: Iterable[tuple[str, str]], *, mark: int
) -> None:
    """Select the parts of actors' logs that the selected logs can have changed, where all else is proved.

    Where a timer ran, or one was started: from the log that started it up to the next log that ends any timer. Else
    the log alone. What was staged about these parts is forgotten.
    """
    starts, ends = list(timer_starts), list(timer_ends)
    names = {
        "start_keys": [key for key, _ in starts],
        "start_codes": [code for _, code in starts],
        "end_keys": [key for key, _ in ends],
        "end_codes": [code for _, code in ends],
        "mark": mark,
    }
    found = session.execute(_BY_TIMERS.encode(), names)
    stretches = [(row[0], row[1:4], row[4:7] if row[4] is not None else None) for row in found]
    session.execute("truncate proof_stretch")
    with session.cursor() as cursor:
        cursor.executemany(
            "insert into proof_stretch values (%s, %s, %s, %s, %s, %s, %s)",
            [(actor, *first, *(last or (None, None, None))) for actor, first, last in merged(stretches)],
        )
    _forget_stretched(session)


# Timers as they ought to be: the stored ones, and what is staged in their place. An actor's do not overlap, so
# besides those that began at the very moment only the last one before can have run.
_BY_TIMERS: Final = """
    with starts as (select * from unnest(%(start_keys)s::text[], %(start_codes)s::text[]) as code(key, code)),
    ends as (select * from unnest(%(end_keys)s::text[], %(end_codes)s::text[]) as code(key, code)),
    selected as (
        select actor, occurred_at, source, event_id, (key, code) in (select * from starts) as starts
        from proof_new join log using (id) where actor is not null
    )
    select selected.actor,
           coalesce(first.occurred_at, selected.occurred_at), coalesce(first.source, selected.source),
           coalesce(first.event_id, selected.event_id),
           case when alone then selected.occurred_at else last.occurred_at end,
           case when alone then selected.source else last.source end,
           case when alone then selected.event_id else last.event_id end
    from selected
    left join lateral (
        select start.occurred_at, start.source, start.event_id
        from (
            (select id, stopped_at from timer
             where timer.actor = selected.actor and started_at < selected.occurred_at
               and not exists (select 1 from proof_timer where proof_timer.id = timer.id)
             order by started_at desc, stopped_at desc nulls first limit 1)
            union all
            select id, stopped_at from timer
            where timer.actor = selected.actor and started_at = selected.occurred_at
              and not exists (select 1 from proof_timer where proof_timer.id = timer.id)
            union all
            (select id, stopped_at from proof_timer
             where proof_timer.actor = selected.actor and started_at < selected.occurred_at and not gone
             order by started_at desc, stopped_at desc nulls first limit 1)
            union all
            select id, stopped_at from proof_timer
            where proof_timer.actor = selected.actor and started_at = selected.occurred_at and not gone
        ) as near join log as start on start.id = near.id
        where (near.stopped_at is null or near.stopped_at >= selected.occurred_at)
          and (start.occurred_at, start.source, start.event_id)
              <= (selected.occurred_at, selected.source, selected.event_id)
        order by start.occurred_at, start.source, start.event_id limit 1
    ) as first on true
    cross join lateral (select first.occurred_at is null and not selected.starts) as what(alone)
    left join lateral (
        select occurred_at, source, event_id from log
        where not alone and log.actor = selected.actor and log.occurred_at >= selected.occurred_at
          and (log.occurred_at, log.source, log.event_id)
              > (selected.occurred_at, selected.source, selected.event_id)
          and (key, code) in (select * from ends) and log.id <= %(mark)s
        order by occurred_at, source, event_id limit 1
    ) as last on true
"""


def merged(stretches: Iterable[Stretch]) -> list[Stretch]:
    """The stretches in order, those of an actor that overlap made one."""
    result: list[Stretch] = []
    for actor, first, last in sorted(stretches, key=lambda stretch: stretch[:2]):
        if result and result[-1][0] == actor and (result[-1][2] is None or first <= result[-1][2]):
            _, start, end = result[-1]
            result[-1] = (actor, start, None if end is None or last is None else max(end, last))
        else:
            result.append((actor, first, last))
    return result


def _forget_stretched(session: Session) -> None:
    session.execute("analyze proof_stretch")
    for table, column in (("proof_timer", "id"), ("proof_link", "log_id")):
        session.execute(
            f"delete from {table} where {column} in (select log.id from {STRETCHED_LOGS})".encode()  # noqa: S608 - ours
        )


STRETCHED_LOGS: Final = """proof_stretch join log on log.actor = proof_stretch.actor
    and log.occurred_at between first_time and coalesce(last_time, 'infinity')
    and (log.occurred_at, log.source, log.event_id) >= (first_time, first_source, first_id)
    and (last_time is null or (log.occurred_at, log.source, log.event_id) <= (last_time, last_source, last_id))"""


def select_cases(session: Session, only: str | None = None) -> None:
    """Select the cases that the selected logs and stretches can have changed, or `only` one of them.

    What was staged about these cases and their logs is forgotten.
    """
    session.execute("truncate proof_scope")
    if only is not None:
        session.execute("insert into proof_scope values (%s)", (only,))
    else:
        session.execute(_SCOPE.encode())
    session.execute("analyze proof_scope")
    session.execute("delete from proof_case where reference in (select reference from proof_scope)")
    session.execute(
        """
        delete from proof_flags
        where log_id in (select id from log where case_reference in (select reference from proof_scope))
        """
    )


_SCOPE: Final = f"""
    with stretched as materialized (select log.id, case_reference from {STRETCHED_LOGS})
    insert into proof_scope
    select case_reference from proof_new join log using (id) where case_reference is not null
    union select case_reference from stretched where case_reference is not null
    union select timer.case_reference from stretched join timer using (id) where timer.case_reference is not null
    union select proof_timer.case_reference from stretched join proof_timer using (id)
          where proof_timer.case_reference is not null
"""  # noqa: S608 - our own tables
