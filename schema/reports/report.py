"""What a report is: its columns with their meaning and unit, and where its rows come from."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

from schema.reports.conditions import Condition

Kind: TypeAlias = Literal["day", "month", "text", "number", "moment", "flag", "json", "bytes"]
"""Days and months are local; a month is written 2026-11. Numbers are whole unless the column says otherwise."""

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


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """A column of a report or an export. `unit` says what its numbers count; not `whole`, they are fractions.

    `sql` is what is selected for it: from the rows of the report's source, or, of a measure, over the rows of a group.
    Empty: the column of its name.
    """

    name: str
    description: str
    kind: Kind = "text"
    unit: str = ""
    whole: bool = True
    sql: str = ""

    @property
    def expression(self) -> str:
        return self.sql or self.name


class Measure(Column, frozen=True, kw_only=True):
    """A number of a group of rows. `counts` says which logs add one to it, where the report is one of sums."""

    kind: Kind = "number"
    counts: Condition | None = None


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


# Columns that several reports have.
DAY: Final = Column(name="day", kind="day", description="local day of the log")
KEY: Final = Column(name="key", description="event key")
CODE: Final = Column(name="code", description="code under that key")
CATEGORY: Final = Column(name="category", description="the case's category of law at that log")
PRESENT_CATEGORY: Final = Column(name="category", description="the case's present category of law; it moves with it")
PROVIDER: Final = Column(name="provider", description="the case's provider at that log")
ORGANISATION: Final = Column(name="organisation", description="the organisation that sent the client, at that log")
SOURCE: Final = Column(name="source", description="how the case came in: PHONE, VOICEMAIL, SMS or WEB")
OPERATOR: Final = Column(name="operator", description="the operator's id")
REFERENCE: Final = Column(name="reference", description="the case's reference")
