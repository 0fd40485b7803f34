"""Whether complaints were answered in time."""

from caselog.schema.reports.terms.columns import REFERENCE, Column
from caselog.schema.reports.terms.report import Report

REPORT = Report(
    name="complaints",
    description="Whether complaints were answered in time: one row for each complaint",
    period="day on which the complaint was created",
    dimensions=(
        REFERENCE,
        Column(name="complaint", description="the complaint's name; empty: the case's one unnamed complaint"),
        Column(name="owner", description="who looks after it, as last set"),
        Column(name="created_at", kind="moment", description="when it was created"),
        Column(name="holding_letter_at", kind="moment", description="when the first holding letter was sent"),
        Column(name="full_response_at", kind="moment", description="when the first full response was sent"),
        Column(name="closed_at", kind="moment", description="when it was closed or voided; empty while it is open"),
        Column(name="voided", kind="flag", description="it was voided"),
        Column(
            name="within_holding_sla",
            kind="flag",
            description="the holding letter was sent, or can still be sent, within 1 working day of the creation; "
            "empty where the complaint is void",
        ),
        Column(
            name="within_sla",
            kind="flag",
            description="closed, or can still be closed, within 15 working days of the creation; "
            "empty where the complaint is void",
        ),
    ),
    source="""
        select case_reference as reference, complaint, owner, created_at, holding_letter_at, full_response_at,
               closed_at, voided,
               case when not voided then coalesce(holding_letter_at, :now) <= holding_letter_due_at end
               as within_holding_sla,
               case when not voided then coalesce(closed_at, :now) <= closing_due_at end as within_sla, log_id
        from complaint where created_at >= :start and created_at < :end
    """,
    order="created_at, log_id",
    fed_by="the facts of each case, which the aggregator computes anew when the case moves on",
)
