"""How long operators worked on cases: the timers, as they stand."""

from caselog.schema.reports.terms.columns import OPERATOR, Column, Measure
from caselog.schema.reports.terms.report import Report

REPORT = Report(
    name="handling_time",
    description="How long operators worked on cases, by the day on which their timers stopped",
    period="day on which the timer stopped",
    dimensions=(Column(name="day", kind="day", description="local day on which the timer stopped"), OPERATOR),
    measures=(
        Measure(name="timers", description="timers stopped, not cancelled", unit="timers", sql="count(*)"),
        Measure(
            name="seconds",
            description="their time, each timer rounded up to whole seconds",
            unit="seconds",
            sql="coalesce(sum(seconds), 0)::bigint",
        ),
        Measure(
            name="mean_seconds",
            description="seconds divided by timers",
            unit="seconds a timer",
            whole=False,
            sql="sum(seconds)::float8 / nullif(count(*), 0)",
        ),
        Measure(
            name="cases",
            description="different cases that the timers are linked to",
            unit="cases",
            sql="count(distinct case_reference)",
        ),
    ),
    source="""
        select (stopped_at at time zone :zone)::date as day, actor as operator, case_reference,
               ceil(date_part('epoch', stopped_at - started_at))::bigint as seconds
        from timer where stopped_at >= :start and stopped_at < :end and not cancelled
    """,
    fed_by="the timers, read when asked",
)
