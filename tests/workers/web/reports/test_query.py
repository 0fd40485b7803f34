"""What a query asks of a report, and what is said where it cannot be."""

from __future__ import annotations

from datetime import UTC, date, datetime
from urllib.parse import parse_qsl
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caselog.schema.reports.catalogue import REPORTS, get_report
from caselog.schema.reports.reading import BadRequest, Reading, periods
from caselog.workers.web.reports.query import ReportQuery, question

LONDON = ZoneInfo("Europe/London")
# In London it is the 2nd already.
ASKED_AT = datetime(2026, 7, 1, 23, 30, tzinfo=UTC)


def asked(query: str, name: str = "outcomes") -> ReportQuery:
    return question(get_report(name), parse_qsl(query, keep_blank_values=True), LONDON, ASKED_AT)


def read(query: str, name: str = "outcomes") -> Reading:
    return asked(query, name).reading()


def refused(query: str, name: str = "outcomes") -> str:
    with pytest.raises(BadRequest) as error:
        read(query, name)
    said = str(error.value)
    assert len(said.splitlines()) == 1
    return said


def test_without_a_word_it_asks_for_the_last_thirty_local_days() -> None:
    reading = read("")
    assert (reading.first, reading.last) == (date(2026, 6, 3), date(2026, 7, 2))
    assert (reading.by, reading.where, reading.now) == (None, {}, ASKED_AT)
    assert read("to=2026-01-30").first == date(2026, 1, 1)
    assert read("from=&to=&by=&where=&now=&category=") == reading


def test_conditions_add_up_and_a_columns_own_name_is_one_too() -> None:
    said = "where=category=debt&where=source=&organisation=a=b&where=category=debt"
    assert read(said).where == {"category": "debt", "source": None, "organisation": "a=b"}


def test_now_is_a_moment_or_a_local_time() -> None:
    assert read("now=2026-06-01T10:00:00Z").now == datetime(2026, 6, 1, 10, tzinfo=UTC)
    assert read("now=2026-06-01T10:00").now == datetime(2026, 6, 1, 9, tzinfo=UTC)


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("from=x", "from: 'x' is no day"),
        ("to=2026-02-30", "to: '2026-02-30' is no day"),
        ("from=20260101", "no day"),
        ("from=2026-02-02&to=2026-02-01", "swap them"),
        ("by=wek", "Did you mean 'week'?"),
        ("form=csv", "Did you mean 'format'?"),
        ("categry=debt", "Did you mean 'category'?"),
        ("where=categry=debt", "Did you mean 'category'?"),
        ("where=debt", "where: 'debt' is no condition"),
        ("where=category=debt&category=housing", "category cannot be both 'debt' and 'housing'"),
        ("category=%00", "NUL"),
        ("now=yesterday", "now: 'yesterday' is no moment"),
    ],
)
def test_what_it_cannot_ask_is_one_line_with_the_remedy(query: str, says: str) -> None:
    assert says in refused(query)


def test_a_list_is_summed_up_by_nothing_and_what_is_kept_by_month_by_months() -> None:
    assert "leave out the period 'week'" in refused("by=week", "callbacks")
    assert "leave out the period 'week'" in refused("by=week", "contacts_per_case")
    for report in REPORTS.values():
        for by in ("day", "week", "month"):
            if by in periods(report):
                read(f"by={by}", report.name)
            else:
                refused(f"by={by}", report.name)


def test_another_report_is_asked_what_it_can_be_asked() -> None:
    said = asked("from=2026-01-01&by=week&where=category=debt&where=key=case&now=2026-06-01&report=x")
    assert said.about(get_report("callbacks")).reading().where == {}
    volume = said.about(get_report("case_volume")).reading()
    assert (volume.by, volume.where, volume.first) == ("week", {"category": "debt"}, date(2026, 1, 1))


@given(
    where=st.dictionaries(st.sampled_from(["category", "source", "key"]), st.text().filter(lambda t: "\0" not in t)),
    by=st.sampled_from(["", "day", "week", "month"]),
    now=st.sampled_from(["", "2026-01-01T00:00:00+01:00"]),
)
def test_the_query_of_a_question_asks_the_same(where: dict[str, str], by: str, now: str) -> None:
    """Links to the CSV ask for what the page shows."""
    one = question(
        get_report("outcomes"),
        [("by", by), ("now", now), *(("where", f"{name}={value}") for name, value in where.items())],
        LONDON,
        ASKED_AT,
    )
    again = question(get_report("outcomes"), parse_qsl(one.query(), keep_blank_values=True), LONDON, ASKED_AT)
    assert again.reading() == one.reading()
