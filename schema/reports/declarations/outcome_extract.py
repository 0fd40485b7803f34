"""Every outcome, for those who count themselves."""

from schema.reports.declaring import CATEGORY, CODE, KEY, ORGANISATION, PROVIDER, REFERENCE, SOURCE, Column, Report

_SECONDS = "ceil(date_part('epoch', timer.stopped_at - timer.started_at))::bigint"

# The log that stops a timer is the last that carries it. Among those of the very same moment, order decides.
_STOPPED_BY_THEN = """not exists (
    select 1 from log as later
    where later.actor = timer.actor and later.occurred_at = timer.stopped_at and later.timer_id = timer.id
      and (later.source, later.event_id) > (log.source, log.event_id)
)"""

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
            description="time of the timer that this log stopped; empty where it stopped none",
        ),
        Column(
            name="billable_time",
            kind="number",
            unit="seconds",
            description="billable time of the case up to this log, this log's timer included",
        ),
    ),
    source=f"""
        select log.case_reference as reference, log.occurred_at as time, log.key, log.code, log.actor, log.category,
               log.provider, log.organisation, log.case_source as source, stopped.seconds as timer_seconds,
               billed.seconds as billable_time, log.source as log_source, log.event_id
        from log
        left join lateral (
            select {_SECONDS} as seconds from timer
            where timer.id = log.timer_id and timer.stopped_at = log.occurred_at and not timer.cancelled
              and {_STOPPED_BY_THEN}
        ) as stopped on true
        cross join lateral (
            select coalesce(sum({_SECONDS}), 0)::bigint as seconds from timer
            where timer.case_reference = log.case_reference and not timer.cancelled
              and (timer.stopped_at < log.occurred_at or timer.stopped_at = log.occurred_at and {_STOPPED_BY_THEN})
        ) as billed
        where log.type = 'outcome' and not log.suppressed and log.case_reference is not null
          and log.occurred_at >= :start and log.occurred_at < :end
    """,  # noqa: S608 - said above
    order="time, log_source, event_id",
    fed_by="the log and the timers, read when asked",
)
