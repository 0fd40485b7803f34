"""Clients referred to help elsewhere."""

from caselog.schema.reports.terms.columns import CATEGORY, CODE, DAY, Measure
from caselog.schema.reports.terms.conditions import Condition
from caselog.schema.reports.terms.report import sums

REPORT = sums(
    "alternative_help",
    "How many clients were referred to help elsewhere",
    first=DAY,
    dimensions=(CODE, CATEGORY),
    measures=(
        Measure(
            name="referrals",
            description="referrals: IRKB, COSPF, SPFN, SPFM, EDFF",
            unit="logs",
            counts=Condition(codes=("COSPF", "EDFF", "IRKB", "SPFM", "SPFN")),
        ),
    ),
)
