"""Every outcome, for those who count themselves."""

from caselog.events.model.codes import LogLevel
from caselog.schema.reports.terms.columns import CATEGORY, CODE, KEY, ORGANISATION, PROVIDER, REFERENCE, SOURCE, Column
from caselog.schema.reports.terms.report import Report

# Of a case's log `stop`, the timer that it stopped: the last log that carries a timer has. Among those of the very same
# moment, order decides.
_STOPPED = """
    timer.id = stop.timer_id and timer.stopped_at = stop.occurred_at and not timer.cancelled and not exists (
        select 1 from log as later
        where later.actor = timer.actor and later.occurred_at = timer.stopped_at and later.timer_id = timer.id
          and (later.source, later.event_id) > (stop.source, stop.event_id)
    )
"""
# Whose seconds these are: those of the log that stopped the timer, and where that is suppressed, of the one that it
# repeats, the case's latest outcome before it that stands at level HIGH or above. Empty: nobody's.
_OWNER = f"""
    select stop.occurred_at, stop.source, stop.event_id where not stop.suppressed and stop.type = 'outcome'
    union all
    (select of_case.occurred_at, of_case.source, of_case.event_id from log as of_case
     where stop.suppressed and of_case.case_reference = stop.case_reference and not of_case.suppressed
       and of_case.type = 'outcome' and of_case.level >= {int(LogLevel.HIGH)}
       and (of_case.occurred_at, of_case.source, of_case.event_id) < (stop.occurred_at, stop.source, stop.event_id)
     order by of_case.occurred_at desc, of_case.source desc, of_case.event_id desc limit 1)
"""  # noqa: S608 - a number of our own

REPORT = Report(
    name="outcome_extract",
    description="Every outcome: one row for each outcome log",
    period="day of the log",
    dimensions=(
        REFERENCE,
        Column(name="time", kind="moment", description="when it happened"),
        KEY,
        CODE,
        Column(name="actor", description="who did it"),
        CATEGORY,
        PROVIDER,
        ORGANISATION,
        SOURCE,
        Column(
            name="timer_seconds",
            kind="number",
            unit="seconds",
            description="time of the timer that this log stopped, and of those that suppressed repetitions of it "
            "stopped; empty where there is none",
        ),
        Column(
            name="billable_time",
            kind="number",
            unit="seconds",
            description="billable time of the case so far: timer_seconds of its rows up to this one",
        ),
    ),
    source=f"""
        select log.case_reference as reference, log.occurred_at as time, log.key, log.code, log.actor, log.category,
               log.provider, log.organisation, log.case_source as source, billed.its_own as timer_seconds,
               coalesce(billed.so_far, 0) as billable_time, log.source as log_source, log.event_id
        from log
        cross join lateral (
            select sum(seconds)::bigint as so_far, sum(seconds) filter (
                       where (owner.occurred_at, owner.source, owner.event_id)
                             = (log.occurred_at, log.source, log.event_id)
                   )::bigint as its_own
            from log as stop
            join lateral (
                select ceil(date_part('epoch', timer.stopped_at - timer.started_at))::bigint as seconds
                from timer where {_STOPPED}
            ) as stopped on true
            join lateral ({_OWNER}) as owner on true
            where stop.case_reference = log.case_reference and stop.timer_id is not null
              and (owner.occurred_at, owner.source, owner.event_id) <= (log.occurred_at, log.source, log.event_id)
        ) as billed
        where log.type = 'outcome' and not log.suppressed and log.case_reference is not null
          and log.occurred_at >= :start and log.occurred_at < :end
    """,  # noqa: S608 - said above
    order="time, log_source, event_id",
    fed_by="the log and the timers, read when asked",
)
