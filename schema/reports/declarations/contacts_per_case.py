"""How many contacts a case takes, by the month in which it was created."""

from caselog.schema.reports.terms.columns import PRESENT_CATEGORY, Column, Measure
from caselog.schema.reports.terms.conditions import Condition
from caselog.schema.reports.terms.report import sums

REPORT = sums(
    "contacts_per_case",
    "How many contacts the cases of a month took, whenever these were",
    first=Column(name="month", kind="month", description="month in which the case was created"),
    dimensions=(PRESENT_CATEGORY,),
    measures=(
        Measure(
            name="cases",
            description="cases created, with a contact or without",
            unit="cases",
            counts=Condition(creates_case=True),
        ),
        Measure(
            name="contacts",
            description="outcomes whose code stops the operator's timer",
            unit="logs",
            counts=Condition(outcomes=True, stops_timer=True),
        ),
        Measure(
            name="contacts_per_case",
            description="contacts divided by cases; empty where no case was created",
            unit="contacts a case",
            whole=False,
            sql="sum(contacts)::float8 / nullif(sum(cases), 0)::float8",
        ),
    ),
)
