"""What became of the cases that providers were given."""

from caselog.schema.reports.terms.columns import Column, Measure
from caselog.schema.reports.terms.report import Report

_FROM_TO = "extract(epoch from avg({} - {}))::float8"

REPORT = Report(
    name="provider_performance",
    description="What became of the cases that providers were given, by the day of the assignment",
    period="day of the assignment",
    dimensions=(
        Column(name="day", kind="day", description="local day of the assignment"),
        Column(name="provider", description="the provider that was given the case"),
    ),
    measures=(
        Measure(
            name="assigned",
            description="assignments: REFSP, MANALC, MANREF, SPOR",
            unit="assignments",
            sql="count(*)",
        ),
        Measure(
            name="viewed",
            description="of these, viewed by the provider",
            unit="assignments",
            sql="count(viewed_at)",
        ),
        Measure(
            name="accepted",
            description="of these, accepted by the provider",
            unit="assignments",
            sql="count(accepted_at)",
        ),
        Measure(
            name="rejected",
            description="of these, rejected by the provider (reject_case) and not taken up again",
            unit="assignments",
            sql="count(rejected_at)",
        ),
        Measure(
            name="closed",
            description="of these, closed by the provider and not reopened",
            unit="assignments",
            sql="count(closed_at)",
        ),
        Measure(
            name="mean_seconds_to_view",
            description="mean time from assignment to view",
            unit="seconds",
            whole=False,
            sql=_FROM_TO.format("viewed_at", "assigned_at"),
        ),
        Measure(
            name="mean_seconds_to_accept",
            description="mean time from assignment to acceptance",
            unit="seconds",
            whole=False,
            sql=_FROM_TO.format("accepted_at", "assigned_at"),
        ),
        Measure(
            name="mean_seconds_to_close",
            description="mean time from acceptance to closure",
            unit="seconds",
            whole=False,
            sql=_FROM_TO.format("closed_at", "accepted_at"),
        ),
    ),
    source="""
        select (assigned_at at time zone :zone)::date as day, provider, assigned_at, viewed_at, accepted_at,
               rejected_at, closed_at
        from assignment where assigned_at >= :start and assigned_at < :end
    """,
    fed_by="the facts of each case, which the aggregator computes anew when the case moves on",
)
