"""How many callbacks were made in time."""

from caselog.schema.reports.declarations.callbacks import MISSED_SLA_1, MISSED_SLA_2
from caselog.schema.reports.terms.columns import ORGANISATION, SOURCE, Column, Measure
from caselog.schema.reports.terms.report import Report

REPORT = Report(
    name="callback_sla",
    description="How many first callbacks (CB1) were made in time",
    period="day of the callback",
    dimensions=(
        Column(name="day", kind="day", description="local day of the callback"),
        SOURCE,
        ORGANISATION,
    ),
    measures=(
        Measure(name="callbacks", description="first callbacks", unit="callbacks", sql="count(*)"),
        Measure(
            name="missed_sla_1",
            description="of these, without contact in time (see report callbacks)",
            unit="callbacks",
            sql="count(*) filter (where missed_sla_1)",
        ),
        Measure(
            name="missed_sla_2",
            description="of these, not resolved in time (see report callbacks)",
            unit="callbacks",
            sql="count(*) filter (where missed_sla_2)",
        ),
        Measure(
            name="within_sla_1_percent",
            description="share that has not missed the first",
            unit="percent",
            whole=False,
            sql="100.0::float8 * count(*) filter (where not missed_sla_1) / nullif(count(*), 0)",
        ),
    ),
    source=f"""
        select (callback_at at time zone :zone)::date as day, source, organisation,
               {MISSED_SLA_1} as missed_sla_1, {MISSED_SLA_2} as missed_sla_2
        from callback where code = 'CB1' and callback_at >= :start and callback_at < :end
    """,  # noqa: S608 - said in `callbacks`
    fed_by="the facts of each case, which the aggregator computes anew when the case moves on",
)
