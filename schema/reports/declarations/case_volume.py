"""Cases created, by where they came from and what they are about."""

from caselog.events.model.codes import Role
from caselog.schema.reports.terms.columns import ORGANISATION, PRESENT_CATEGORY, SOURCE, Column, Measure
from caselog.schema.reports.terms.conditions import Condition
from caselog.schema.reports.terms.report import sums

REPORT = sums(
    "case_volume",
    "How many cases came in, and how",
    first=Column(name="day", kind="day", description="local day on which the case was created"),
    # Of who rings up, nobody knows at first what it is about.
    dimensions=(SOURCE, ORGANISATION, PRESENT_CATEGORY),
    measures=(
        Measure(name="cases", description="cases created", unit="cases", counts=Condition(creates_case=True)),
        Measure(
            name="web_callback_only",
            description="of these, from the web and by its form (role web) without a state of eligibility: only a "
            "callback was asked for",
            unit="cases",
            counts=Condition(creates_case=True, roles=(Role.WEB.value,), case_source="WEB", lacks="eligibility_state"),
        ),
    ),
)
