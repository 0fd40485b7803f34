"""Every callback that was arranged, and which attempt it was."""

from caselog.schema.reports.terms.columns import REFERENCE, SOURCE, Column
from caselog.schema.reports.terms.report import Report

REPORT = Report(
    name="callback_progression",
    description="Every callback that was arranged: one row for each CB1, CB2, CB3 and PCB",
    period="day of the callback",
    dimensions=(
        REFERENCE,
        Column(name="callback_at", kind="moment", description="when the client was promised a call"),
        Column(name="slot", description="its local time of day, HH:MM"),
        SOURCE,
        Column(name="code", description="CB1, CB2, CB3 or PCB"),
        Column(
            name="attempt", kind="number", unit="callbacks", description="the case's callbacks since the last reset"
        ),
        Column(name="logged_at", kind="moment", description="when it was arranged"),
    ),
    source="""
        select case_reference as reference, callback_at, to_char(callback_at at time zone :zone, 'HH24:MI') as slot,
               source, code, attempt, logged_at, log_id
        from callback where callback_at >= :start and callback_at < :end
    """,
    order="callback_at, log_id",
    fed_by="the facts of each case, which the aggregator computes anew when the case moves on",
)
