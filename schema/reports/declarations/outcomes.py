"""Unsuppressed outcomes by day, code and what the case was at that moment."""

from caselog.schema.reports.terms.columns import CATEGORY, CODE, DAY, KEY, ORGANISATION, PROVIDER, SOURCE, Measure
from caselog.schema.reports.terms.conditions import Condition
from caselog.schema.reports.terms.report import sums

REPORT = sums(
    "outcomes",
    "What happened: outcomes by day, code and what the case was at that moment",
    first=DAY,
    dimensions=(KEY, CODE, CATEGORY, PROVIDER, ORGANISATION, SOURCE),
    measures=(Measure(name="outcomes", description="outcome logs", unit="logs", counts=Condition(outcomes=True)),),
)
