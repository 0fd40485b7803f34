"""Cases allocated to providers."""

from caselog.schema.reports.terms.columns import CATEGORY, PROVIDER, Column, Measure
from caselog.schema.reports.terms.report import Report

REPORT = Report(
    name="provider_allocation",
    description="How many cases each provider was given, by category, and how many of them while no operators worked",
    period="local day of the assignment",
    dimensions=(Column(name="day", kind="day", description="local day of the assignment"), CATEGORY, PROVIDER),
    measures=(
        Measure(
            name="assigned",
            description="cases assigned: REFSP, MANALC, SPOR; a course-correction (MANREF) is no allocation",
            unit="assignments",
            sql="count(*)",
        ),
        Measure(
            name="assigned_out_of_hours",
            description="of these, outside of the operators' hours, for which providers have a rota of their own",
            unit="assignments",
            sql="count(*) filter (where out_of_hours)",
        ),
    ),
    source="""
        select (assigned_at at time zone :zone)::date as day, category, provider, out_of_hours
        from assignment
        where assigned_at >= :start and assigned_at < :end and code in ('MANALC', 'REFSP', 'SPOR')
    """,
    fed_by="the facts of each case, which the aggregator computes anew when the case moves on",
)
