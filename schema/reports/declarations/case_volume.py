"""Cases created, by where they came from."""

from schema.reports.conditions import Condition
from schema.reports.declaring import CATEGORY, DAY, ORGANISATION, SOURCE, Measure, sums

REPORT = sums(
    "case_volume",
    "How many cases came in, and how",
    first=DAY,
    dimensions=(SOURCE, ORGANISATION, CATEGORY),
    measures=(
        Measure(name="cases", description="cases created", unit="cases", counts=Condition(creates_case=True)),
        Measure(
            name="web_callback_only",
            description="of these, from the web without a state of eligibility: only a callback was asked for",
            unit="cases",
            counts=Condition(creates_case=True, case_source="WEB", lacks="eligibility_state"),
        ),
    ),
)
