"""Unsuppressed outcomes by day, code and what the case was at that moment."""

from schema.reports.conditions import Condition
from schema.reports.declaring import CATEGORY, CODE, DAY, KEY, ORGANISATION, PROVIDER, SOURCE, Measure, sums

REPORT = sums(
    "outcomes",
    "What happened: outcomes by day, code and what the case was at that moment",
    first=DAY,
    dimensions=(KEY, CODE, CATEGORY, PROVIDER, ORGANISATION, SOURCE),
    measures=(Measure(name="outcomes", description="outcome logs", unit="logs", counts=Condition(outcomes=True)),),
)
