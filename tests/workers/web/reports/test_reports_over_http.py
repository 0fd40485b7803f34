"""Reports over HTTP: what programs are told, in which form, and what they are told where there is no answer."""

from __future__ import annotations

import csv
import io
import json
import re
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import httpx
import psycopg
import pytest
from litestar import Litestar
from litestar.testing import TestClient
from sqlalchemy import Engine
from support.processes.patience import DEADLINE_S
from support.processes.pipeline import created, event
from support.processes.recorded import printed, recorded

from caselog.schema.reports.catalogue import REPORTS, get_report
from caselog.schema.reports.reading import Reading
from caselog.schema.sessions.connection import make_engine
from caselog.workers.producers.simulation import simulate
from caselog.workers.settings import Settings
from caselog.workers.web.app import make_app
from caselog.workers.web.reports import documents
from caselog.workers.web.reports.documents import NoAnswer, asking, written_answer
from caselog.workers.web.reports.pages import ReportPages

HOSTILE = "</td><script>alert(1)</script>\x1b[31m\u202e&amp;\"'"
FORMULA = '=HYPERLINK("http://x.example","x")'
HOSTILE_CASE = "AB<b>1"
EVENTS = [
    *simulate(100, 7),
    created(HOSTILE_CASE, "2025-01-20T10:00:00Z", data={"context": {"category": HOSTILE, "organisation": FORMULA}}),
    event("accept_case", "SPOP", HOSTILE_CASE, "2025-01-20T11:00:00Z"),
]
DAYS = "from=2025-01-06&to=2025-03-31"
PERIOD = f"{DAYS}&now=2025-06-01T00:00:00Z"
ASKED = ["--from", "2025-01-06", "--to", "2025-03-31", "--now", "2025-06-01T00:00:00Z"]
LONDON = ZoneInfo("Europe/London")


@pytest.fixture(scope="module")
def told(make_database: Callable[[str], str], template: str) -> Iterator[str]:
    """The URL of a database that the tests here only read."""
    with recorded(make_database, template, EVENTS) as database_url:
        yield database_url


Get = Callable[..., httpx.Response]


def app_on(engine: Engine) -> Litestar:
    """The pages, with nothing but the reports' engine behind them."""
    more = ReportPages(engine, Settings()).handlers()
    return make_app(Settings(), None, None, more=more)  # type: ignore[arg-type]  # no page that needs them is asked


def served(database_url: str, turn_s: float = 5, connections: int = 4) -> Iterator[Get]:
    """Asks the pages, in this process."""
    engine = make_engine(database_url, connections=connections, turn_s=turn_s)
    app = app_on(engine)

    with TestClient(app, base_url="http://127.0.0.1") as client:

        def get(path: str, **headers: str) -> httpx.Response:
            return client.get(path, headers=headers, follow_redirects=False)

        yield get
    engine.dispose()


@pytest.fixture(scope="module")
def get(told: str) -> Iterator[Get]:
    yield from served(told)


def test_the_list_tells_what_each_report_has_and_can_be_asked(get: Get) -> None:
    for answer in (get("/reports?format=json"), get("/reports", accept="application/json")):
        assert answer.status_code == 200
        listed = {report["name"]: report for report in answer.json()}
        assert listed.keys() == REPORTS.keys()
        volume = listed["case_volume"]
        assert volume["columns"][-2] == {
            "name": "cases", "kind": "number", "unit": "cases", "description": "cases created",
        }  # fmt: skip
        assert (volume["filters"], volume["by"]) == (["source", "organisation", "category"], ["day", "week", "month"])
        assert (listed["callbacks"]["by"], listed["contacts_per_case"]["by"]) == ([], ["month"])
    assert get("/reports", accept="text/html,*/*;q=0.8").headers["content-type"].startswith("text/html")
    assert get("/reports").headers["content-type"].startswith("text/html")


@pytest.mark.parametrize("name", sorted(REPORTS))
def test_json_and_csv_are_what_the_command_line_prints(told: str, get: Get, name: str) -> None:
    rows = [json.loads(line) for line in printed(told, "report", name, *ASKED, "--format", "jsonl").splitlines()]
    assert rows
    document = get(f"/reports/{name}?{PERIOD}&format=json")
    assert (document.status_code, document.headers["content-type"]) == (200, "application/json")
    found = document.json()
    assert found["rows"] == rows
    assert (found["report"], found["from"], found["to"]) == (name, "2025-01-06", "2025-03-31")
    assert (found["by"], found["now"], found["where"]) == (None, "2025-06-01T00:00:00Z", {})
    assert [column["name"] for column in found["columns"]] == list(rows[0])
    main = REPORTS[name].main_measure
    assert found["totals"].get(main and main.name) == (main and sum(row[main.name] for row in rows))

    sheet = get(f"/reports/{name}?{PERIOD}&format=csv")
    assert (sheet.status_code, sheet.headers["content-type"]) == (200, "text/csv; charset=utf-8")
    assert sheet.headers["content-disposition"] == f'attachment; filename="{name}_2025-01-06_2025-03-31.csv"'
    assert int(sheet.headers["content-length"]) == len(sheet.content)
    assert sheet.content == printed(told, "report", name, *ASKED, "--format", "csv")


def test_periods_and_conditions_are_those_of_the_query(get: Get) -> None:
    found = get(f"/reports/outcomes?{PERIOD}&by=month&where=key=accept_case&where=organisation=&format=json").json()
    assert (found["by"], found["where"]) == ("month", {"key": "accept_case", "organisation": None})
    assert found["rows"]
    for row in found["rows"]:
        assert (row["key"], row["organisation"], row["month"][:4]) == ("accept_case", None, "2025")
    assert found == get(f"/reports/outcomes?{PERIOD}&by=month&key=accept_case&where=organisation=&format=json").json()


def test_what_a_case_says_is_text_on_a_page_and_in_a_spreadsheet(get: Get) -> None:
    page = get(f"/reports/case_volume?{PERIOD}&from=2025-01-20&to=2025-01-20").text
    assert "<script" not in page
    assert "&lt;/td&gt;&lt;script&gt;alert(1)&lt;/script&gt;\\x1b[31m\\u202e&amp;amp;&#34;&#39;" in page
    assert "\x1b" not in re.sub("<[^>]*>", "", page)
    again = get("/reports/case_volume", accept="text/html").text
    assert "<script" not in again
    refused = get("/reports/case_volume?by=<script>alert(1)</script>&category=<script>")
    assert (refused.status_code, "<script" in refused.text) == (400, False)
    sheet = get(f"/reports/case_volume?{PERIOD}&format=csv").text
    organisations = {row["organisation"] for row in csv.DictReader(io.StringIO(sheet))}
    assert f"'{FORMULA}" in organisations
    assert FORMULA not in organisations


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("/reports/outcoms", 404, "Did you mean 'outcomes'?"),
        ("/reports?report=outcoms", 404, "Did you mean 'outcomes'?"),
        ("/reports?format=csv", 400, "choose html, json"),
        ("/reports/outcomes?format=xml", 400, "choose html, json, csv"),
        ("/reports/outcomes?from=x", 400, "'x' is no day"),
        ("/reports/outcomes?by=wek", 400, "Did you mean 'week'?"),
        ("/reports/outcomes?where=categry=debt", 400, "Did you mean 'category'?"),
        ("/reports/callbacks?by=week", 400, "leave out the period"),
    ],
)
def test_a_question_that_has_no_answer_gets_one_clear_line(get: Get, path: str, status: int, says: str) -> None:
    """As JSON for programs, and on the page for people."""
    answer = get(path, accept="application/json")
    assert answer.status_code == status
    assert answer.json()["status"] == status
    assert says in answer.json()["detail"]
    assert len(answer.json()["detail"].splitlines()) == 1
    if "format" not in path:
        page = get(path, accept="text/html")
        assert (page.status_code, page.headers["content-type"]) == (status, "text/html; charset=utf-8")
        assert 'role="alert"' in page.text


def test_every_day_that_there_is_can_be_asked_for(get: Get) -> None:
    for first, last in [("0001-01-01", "0001-01-01"), ("9999-12-31", "9999-12-31"), ("0001-01-01", "9999-12-31")]:
        for name in REPORTS:
            for form in ("html", "json"):
                answer = get(f"/reports/{name}?from={first}&to={last}&format={form}")
                assert answer.status_code == 200, (name, first, last, answer.text)


def test_the_form_leads_to_the_chosen_report_with_what_it_can_be_asked(get: Get) -> None:
    answer = get(f"/reports?report=callbacks&{PERIOD}&by=week&where=&where=category=debt&where=source=WEB")
    assert answer.status_code == 303
    assert answer.headers["location"] == (
        "reports/callbacks?from=2025-01-06&to=2025-03-31&where=source%3DWEB&now=2025-06-01T00%3A00%3A00Z"
    )
    assert get("/reports/?report=outcomes").headers["location"].startswith("../reports/outcomes?")


def test_the_page_shows_so_many_rows_and_says_where_all_of_them_are(get: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = get(f"/reports/outcomes?{PERIOD}").text
    rows = whole.count("<tr>") - 2
    assert f"{rows} rows." in whole
    monkeypatch.setattr("caselog.workers.web.reports.pages.MOST_ROWS", 10)
    page = get(f"/reports/outcomes?{PERIOD}").text
    assert page.count("<tr>") == 10 + 2
    assert "The first 10 rows." in page
    total = "".join(page.partition("<tfoot>")[2].split())
    assert total == "".join(whole.partition("<tfoot>")[2].split())


def test_a_database_that_is_away_is_503_with_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        for get in served(f"postgresql://x@127.0.0.1:{taken.getsockname()[1]}/x"):
            for form in ("json", "csv"):
                answer = get(f"/reports/outcomes?format={form}")
                assert (answer.status_code, answer.headers["content-type"]) == (503, "application/json")
                assert "the database does not answer" in answer.json()["detail"]
            page = get("/reports/outcomes")
            assert page.status_code == 503
            assert "the database does not answer" in page.text
            assert get("/reports").status_code == 200


def test_a_database_without_tables_is_503_and_says_what_to_run(empty_database_url: str) -> None:
    for get in served(empty_database_url):
        answer = get("/reports/outcomes?format=json")
        assert answer.status_code == 503
        assert "caselog migrate" in answer.json()["detail"]


def test_a_report_that_takes_too_long_is_cancelled(told: str, get: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here it waits for a lock. The page, JSON and CSV say the same, and none is an answer cut short."""
    monkeypatch.setattr(documents, "STATEMENT_TIMEOUT_MS", 50)
    with psycopg.connect(told) as db:
        db.execute("lock table report_sum in access exclusive mode")
        for form in ("html", "json", "csv"):
            answer = get(f"/reports/outcomes?{PERIOD}&format={form}")
            assert answer.status_code == 503
            assert "ask for fewer days" in answer.text


def test_who_finds_too_many_readers_is_told_so_soon(told: str) -> None:
    engine = make_engine(told, connections=1, turn_s=0.05)
    with asking(engine), pytest.raises(NoAnswer, match="too many reports"), asking(engine):
        pass
    with asking(engine):
        pass
    engine.dispose()


def test_a_client_that_goes_away_leaves_no_connection_in_use(told: str) -> None:
    """And a slow one holds none: the answer is written to its end without being read."""
    engine = make_engine(told, connections=1, turn_s=5)
    reading = Reading(
        report=get_report("outcomes"),
        first=date(2025, 1, 6),
        last=date(2025, 3, 31),
        now=datetime.now(UTC),
        zone=LONDON,
    )
    unread = written_answer(engine, reading, "csv")
    size = unread.size(within_s=DEADLINE_S)
    with asking(engine):
        sent = unread.chunks()
        first = next(sent)
        sent.close()  # type: ignore[attr-defined]  # a generator
    again = written_answer(engine, reading, "csv")
    assert b"".join(again.chunks())[: len(first)] == first
    assert size == sum(len(chunk) for chunk in written_answer(engine, reading, "csv").chunks())
    engine.dispose()


def test_head_answers_as_get_without_the_body(told: str) -> None:
    engine = make_engine(told)
    with TestClient(app_on(engine), base_url="http://127.0.0.1") as client:
        for path in ("/reports", f"/reports/outcomes?{PERIOD}", f"/reports/outcomes?{PERIOD}&format=csv"):
            got, head = client.get(path), client.head(path)
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-length"] == str(len(got.content))
    engine.dispose()


def test_openapi_describes_every_path_and_every_answer(get: Get) -> None:
    answer = get("/openapi.json")
    assert answer.status_code == 200
    described = answer.json()
    assert described["openapi"].startswith("3.1")
    assert set(described["paths"]) == {
        "/ping.json", "/livez", "/readyz", "/healthcheck.json", "/metrics", "/reports", "/reports/{name}",
    }  # fmt: skip
    identities = [
        operation["operationId"]
        for path in described["paths"].values()
        for method, operation in path.items()
        if method in {"get", "head"}
    ]
    assert len(set(identities)) == len(identities) == 14
    report = described["paths"]["/reports/{name}"]["get"]
    schemas = {parameter["name"]: parameter["schema"] for parameter in report["parameters"]}
    assert schemas["name"]["enum"] == list(REPORTS)
    empty = {"type": "string", "maxLength": 0}  # as a form sends a field that says nothing
    assert schemas["by"]["anyOf"] == [{"type": "string", "enum": ["day", "week", "month"]}, empty]
    assert schemas["format"]["anyOf"] == [{"type": "string", "enum": ["html", "json", "csv"]}, empty]
    assert set(schemas) == {"name", "from", "to", "by", "where", "now", "format"}
    assert set(report["responses"]) == {"200", "400", "403", "404", "421", "429", "503"}
    assert set(report["responses"]["200"]["content"]) == {"text/html", "application/json", "text/csv"}
    assert set(described["paths"]["/readyz"]["get"]["responses"]) == {"200", "400", "403", "421", "429", "503"}
    assert "http" not in json.dumps(described["paths"])


def test_the_stylesheet_and_the_icon_are_served_and_nothing_else_is(get: Get) -> None:
    assert get("/static/caselog.css").headers["content-type"].startswith("text/css")
    assert get("/static/caselog.svg").headers["content-type"].startswith("image/svg+xml")
    for path in ("/static/nope.css", "/static/..%2fpages.py", "/static/__init__.py", "/nope"):
        answer = get(path)
        assert (answer.status_code, answer.json()["status"]) == (404, 404)
