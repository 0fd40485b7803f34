"""Whether clients were called back when they were promised it."""

from caselog.schema.reports.terms.columns import ORGANISATION, REFERENCE, SOURCE, Column
from caselog.schema.reports.terms.report import Report

# docs/rules.md §7.4. What came in by text or voicemail is answered by a call; else any contact counts.
# Whether nobody called is known only once the time for it is over: that is the moment of asking.
CALLED = "source in ('SMS', 'VOICEMAIL')"
MISSED_SLA_1 = f"""
    case when {CALLED} then coalesce(call_started_at, :now) > sla_120
         when first_contact_at is null then :now > callback_at + interval '30 minutes'
         else first_contact_at not between callback_at and callback_at + interval '30 minutes' end
"""
MISSED_SLA_2 = f"coalesce(resolved_at, :now) > case when {CALLED} then sla_480 else sla_72h end"

REPORT = Report(
    name="callbacks",
    description="Whether clients were called back in time: one row for each first callback (CB1)",
    period="day of the callback",
    dimensions=(
        REFERENCE,
        SOURCE,
        ORGANISATION,
        Column(name="window_start", kind="moment", description="when the client was promised a call"),
        Column(name="window_end", kind="moment", description="30 minutes later"),
        Column(
            name="first_contact_at",
            kind="moment",
            description="first later outcome or event of the case at level HIGH or above by an operator or manager",
        ),
        Column(name="next_outcome", description="code of the first contact"),
        Column(name="call_started_at", kind="moment", description="first later start of a call (CALL_STARTED)"),
        Column(name="resolved_at", kind="moment", description="first later log with a code that settles the callback"),
        Column(
            name="missed_sla_1",
            kind="flag",
            description="no contact within the window; by SMS and voicemail: no call within 120 working minutes of the "
            "case's creation",
        ),
        Column(
            name="missed_sla_2",
            kind="flag",
            description="not resolved within 4,320 working minutes of the window's start; by SMS and voicemail: within "
            "480 of the case's creation",
        ),
    ),
    source=f"""
        select case_reference as reference, source, organisation, callback_at as window_start,
               callback_at + interval '30 minutes' as window_end, first_contact_at, next_outcome, call_started_at,
               resolved_at, {MISSED_SLA_1} as missed_sla_1, {MISSED_SLA_2} as missed_sla_2, log_id
        from callback where code = 'CB1' and callback_at >= :start and callback_at < :end
    """,  # noqa: S608 - said above
    order="window_start, log_id",
    fed_by="the facts of each case, which the aggregator computes anew when the case moves on",
)
