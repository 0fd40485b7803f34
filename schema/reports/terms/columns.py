"""The columns of reports and exports, each with its meaning and unit, and those that several reports have."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

from caselog.schema.reports.terms.conditions import Condition

Kind: TypeAlias = Literal["day", "month", "text", "number", "moment", "flag", "json", "bytes"]
"""Days and months are local; a month is written 2026-11. Numbers are whole unless the column says otherwise."""


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
