"""What OpenAPI has no words for, told to Schemathesis, which loads this module by its name (see test_openapi_holds)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import schemathesis
from hypothesis import strategies as st

from caselog.events.model.message import EARLIEST_YEAR, LATEST_YEAR
from caselog.schema.reports.catalogue import REPORTS
from caselog.schema.reports.reading import PERIODS, filters, periods
from caselog.workers.web.cloudevents import JSON_TYPE

FIRST, LAST = datetime(EARLIEST_YEAR + 1, 1, 1), datetime(LATEST_YEAR - 1, 12, 31)  # noqa: DTZ001 - Hypothesis wants it so
BINARY = {
    "ce-specversion": "1.0",
    "ce-id": "1",
    "ce-source": "/fuzz",
    "ce-type": "timer",
    "ce-time": "2026-03-02T09:00:00Z",
}

schemathesis.openapi.format(
    "date-time", st.datetimes(FIRST, LAST, timezones=st.just(UTC)).map(lambda at: at.isoformat().replace("+00:00", "Z"))
)


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: Any) -> None:
    """Make what is valid in each part valid as a whole; what is not valid in a part stays so."""
    if case.path == "/events" and case.media_type == JSON_TYPE:
        case.headers = {**BINARY, **dict(case.headers or {})}
    if case.path.startswith("/reports") and isinstance(case.query, dict):
        _agree(case.query, (case.path_parameters or {}).get("name") or case.query.get("report"))


def _agree(query: dict[str, Any], name: Any) -> None:
    """The first day is not after the last, and only what this report has is asked of it, once."""
    if all(isinstance(query.get(day), str) and len(query[day]) == len("2026-11-23") for day in ("from", "to")):
        query["from"], query["to"] = sorted((query["from"], query["to"]))
    elif query.get("from"):
        query["to"] = query.get("to") or "9999-12-31"
    report = REPORTS.get(name) if isinstance(name, str) else None
    if report is not None and query.get("by") in PERIODS and query["by"] not in periods(report):
        query["by"] = next(iter(periods(report)), "")
    if isinstance(query.get("where"), list):
        every = {column.name for one in REPORTS.values() for column in filters(one)}
        own = every if report is None else {column.name for column in filters(report)}
        said: dict[Any, Any] = {}
        for condition in query["where"]:
            column = condition.partition("=")[0] if isinstance(condition, str) and "=" in condition else repr(condition)
            if column in own or column not in every:
                said[column] = condition
        query["where"] = list(said.values())
