"""What a report is: its columns, and where its rows come from."""

from __future__ import annotations

from typing import Final

import msgspec

from caselog.schema.reports.terms.columns import PRESENT_CATEGORY, PROVIDER, REFERENCE, Column, Measure

# The dimensions that a report of sums may have, as columns of `report_sum`, each with what it is of a log in SQL.
DIMENSIONS: Final = {
    "key": "log.key",
    "code": "log.code",
    "category": "log.category",
    "provider": "log.provider",
    "organisation": "log.organisation",
    "source": "log.case_source",
    "operator": "log.actor",
}
# The sums of a row are in columns of these names.
SUMS: Final = ("n1", "n2", "n3")


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A report. With measures it has one row for each combination of its dimensions; without, one a thing it lists.

    `source` is a query whose rows are selected or grouped. It may use the parameters first and last (local days, both
    included), start and end (the moments at which they begin and are over), now and zone. `period` says what the first
    day and the last select by, in words. `order` sorts a list: first by the moment that these days select by. Groups
    are sorted by their dimensions.
    """

    name: str
    description: str
    period: str
    dimensions: tuple[Column, ...]
    measures: tuple[Measure, ...] = ()
    source: str
    order: str = ""
    fed_by: str = "what is recorded, read when asked"

    @property
    def columns(self) -> tuple[Column, ...]:
        return self.dimensions + self.measures

    @property
    def main_measure(self) -> Measure | None:
        """What a plot shows."""
        return self.measures[0] if self.measures else None

    @property
    def depends_on_now(self) -> bool:
        """Whether the moment of asking changes what it says."""
        return ":now" in self.source

    @property
    def moment(self) -> str | None:
        """The column of a list that the first and the last day select by; None of groups."""
        return None if self.measures else self.order.partition(",")[0]

    @property
    def counted(self) -> tuple[Measure, ...]:
        """The measures that logs add to; each has its place in `SUMS`."""
        return tuple(measure for measure in self.measures if measure.counts is not None)

    @property
    def by_present_category(self) -> bool:
        """Whether what a case's logs add to moves with the case's category."""
        return PRESENT_CATEGORY in self.dimensions

    @property
    def by_provider(self) -> bool:
        """Whether each row is one provider's."""
        return any(column.name == PROVIDER.name for column in self.dimensions)

    @property
    def names_cases(self) -> bool:
        """Whether its rows name cases: to read it is to read of these."""
        return any(column.name == REFERENCE.name for column in self.dimensions)

    @property
    def is_monthly(self) -> bool:
        return self.dimensions[0].kind == "month"


def sums(
    name: str,
    description: str,
    *,
    first: Column,
    dimensions: tuple[Column, ...],
    measures: tuple[Measure, ...],
) -> Report:
    """A report whose sums are kept in `report_sum`: the recorder sends what logs add, the aggregator adds it up.

    `first` is the day of the log, or the month in which its case was created. The dimensions are those of
    `DIMENSIONS`, and mean the case as folded at the log, but for `PRESENT_CATEGORY`.
    """
    counted = [measure for measure in measures if measure.counts is not None]
    # No day has two billion logs; and to sum up bigints takes numerics, a tenth of the time of a long report.
    kept = ", ".join(f"{column}::integer as {measure.name}" for column, measure in zip(SUMS, counted, strict=False))
    some = " or ".join(f"{column} <> 0" for column, _ in zip(SUMS, counted, strict=False))
    start = "date_trunc('month', cast(:first as timestamp))::date" if first.kind == "month" else ":first"
    return Report(
        name=name,
        description=description,
        period=first.description,
        dimensions=(first, *dimensions),
        measures=tuple(
            msgspec.structs.replace(m, sql=f"sum({m.name})::bigint") if m.counts is not None else m for m in measures
        ),
        source=f"""
            select day as {first.name}, {", ".join(column.name for column in dimensions)}, {kept}
            from report_sum where report = '{name}' and day between {start} and :last and ({some})
        """,  # noqa: S608 - names of our own declarations
        fed_by="deltas that the recorder posts and the aggregator adds up",
    )
