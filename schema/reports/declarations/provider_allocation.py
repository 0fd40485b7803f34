"""Cases allocated to providers."""

from schema.reports.conditions import Condition
from schema.reports.declaring import CATEGORY, DAY, PROVIDER, Measure, sums

REPORT = sums(
    "provider_allocation",
    "How many cases each provider was given, by category",
    first=DAY,
    dimensions=(CATEGORY, PROVIDER),
    measures=(
        Measure(
            name="assigned",
            description="cases assigned: REFSP, MANALC, SPOR; a course-correction (MANREF) is no allocation",
            unit="logs",
            counts=Condition(codes=("MANALC", "REFSP", "SPOR")),
        ),
    ),
)
