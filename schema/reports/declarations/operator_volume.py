"""What each operator got done in a day."""

from caselog.events.folding.facts import ASSIGNMENT_CODES, OPERATORS
from caselog.schema.reports.terms.columns import DAY, OPERATOR, Measure
from caselog.schema.reports.terms.conditions import Condition
from caselog.schema.reports.terms.report import sums

_OPERATORS = tuple(sorted(OPERATORS))

REPORT = sums(
    "operator_volume",
    "What each operator and operator manager got done",
    first=DAY,
    dimensions=(OPERATOR,),
    measures=(
        Measure(
            name="cases_created",
            description="cases created",
            unit="cases",
            counts=Condition(creates_case=True, roles=_OPERATORS),
        ),
        Measure(
            name="outcomes",
            description="outcome logs",
            unit="logs",
            counts=Condition(outcomes=True, roles=_OPERATORS),
        ),
        Measure(
            name="assignments",
            description="cases given to a provider: REFSP, MANALC, MANREF, SPOR",
            unit="logs",
            counts=Condition(codes=tuple(sorted(ASSIGNMENT_CODES)), roles=_OPERATORS),
        ),
    ),
)
