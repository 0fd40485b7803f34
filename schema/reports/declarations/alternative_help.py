"""Clients referred to help elsewhere."""

from schema.reports.conditions import Condition
from schema.reports.declaring import CATEGORY, CODE, DAY, Measure, sums

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
