"""The values that there are to filter a report by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from sqlalchemy import Connection, text

from caselog.schema.reports.reading import Reading

MOST_CHOICES: Final = 100


def read_choices(db: Connection, reading: Reading) -> Mapping[str, Sequence[str | None]]:
    """The values, sorted, that each column to filter by has within the days; None is empty.

    Only of reports that sum up: a list can have as many values as rows. A column with more than `MOST_CHOICES` is left
    out. Conditions are disregarded, so that another value can be chosen.
    """
    names = [column.name for column in reading.filters]
    if not names or not reading.report.measures:
        return {}
    listed = ", ".join(names)
    query = f"""
        select {listed}, grouping({listed}) from ({reading.source}) as row
        group by grouping sets ({", ".join(f"({name})" for name in names)}) order by {listed}
    """  # noqa: S608 - names of our own declarations
    found: dict[str, list[str | None]] = {name: [] for name in names}
    # A bit of `grouping` is set for each column that is not the one; the first column's bit is the highest.
    every = 2 ** len(names) - 1
    owner = {every ^ 2 ** (len(names) - 1 - place): place for place in range(len(names))}
    streamed = text(query).execution_options(stream_results=True, max_row_buffer=MOST_CHOICES)
    every_row = msgspec.structs.replace(reading, where={})
    for *values, mask in db.execute(streamed, every_row.parameters(query)):
        place = owner[mask]
        if len(known := found[names[place]]) <= MOST_CHOICES:
            known.append(values[place])
    return {name: values for name, values in found.items() if 0 < len(values) <= MOST_CHOICES}
