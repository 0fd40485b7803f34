"""Reports of who is bound to a provider: his rows, in each form, and nothing of anybody else's."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from typing import Any, Final

import httpx
import pytest
from litestar.testing import TestClient
from support.processes.recorded import recorded
from support.processes.served import bearer

from caselog.schema.reports.catalogue import REPORTS
from caselog.schema.sessions.connection import make_engine
from caselog.workers.access.reads import ReadLog
from caselog.workers.producers.simulation import simulate
from caselog.workers.settings import Settings
from caselog.workers.web.app import make_app
from caselog.workers.web.reports.pages import ReportPages

ALL: Final = "everybody-everybody-everybody"
ONE: Final = "provider-provider-provider"
PERIOD: Final = "from=2025-01-06&to=2025-03-31&now=2025-06-01T00:00:00Z"
# Those whose rows have a provider, as docs/reports.md lists their columns.
THEIRS: Final = {"outcome_extract", "outcomes", "provider_allocation", "provider_performance"}

Get = Callable[..., httpx.Response]


@pytest.fixture(scope="module")
def told(make_database: Callable[[str], str], template: str) -> Iterator[str]:
    """The URL of a database that the tests here only read."""
    with recorded(make_database, template, [*simulate(120, 3)]) as database_url:
        yield database_url


@pytest.fixture(scope="module")
def provider(told: str) -> str:
    """The one of whom there is most."""
    engine = make_engine(told)
    with engine.connect() as db:
        found = db.exec_driver_sql(
            "select provider from log where provider is not null group by 1 order by count(*) desc, 1 limit 1"
        ).scalar_one()
    engine.dispose()
    return str(found)


@pytest.fixture
def get(told: str, provider: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Get]:
    monkeypatch.setenv("CASELOG_READING", "token")
    monkeypatch.setenv("CASELOG_API_TOKENS", f"all:reader:{ALL},one:reader@{provider}:{ONE}")
    settings = Settings()
    engine = make_engine(told, connections=4)
    more = ReportPages(engine, settings).handlers()
    app = make_app(settings, None, None, more=more, reads=ReadLog(redis_url))  # type: ignore[arg-type]  # no page that needs them is asked
    with TestClient(app, base_url="http://127.0.0.1") as client:
        yield lambda path, secret, **headers: client.get(path, headers={**bearer(secret), **headers})
    engine.dispose()


def rows(get: Get, name: str, secret: str, more: str = "") -> Any:
    answer = get(f"/reports/{name}?{PERIOD}&format=json{more}", secret)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("name", sorted(THEIRS))
def test_of_the_reports_that_tell_providers_apart_there_are_his_rows_alone(get: Get, name: str, provider: str) -> None:
    """The same as everybody's with his name: rows, sums, and over the months."""
    for more in ("", "&by=month") if REPORTS[name].measures else ("",):
        every, his = (rows(get, name, secret, more) for secret in (ALL, ONE))
        assert his["rows"] == [row for row in every["rows"] if row["provider"] == provider]
        assert 0 < len(his["rows"]) < len(every["rows"])
    assert his["totals"] == rows(get, name, ALL, f"{more}&where=provider={provider}")["totals"]
    written = list(csv.DictReader(io.StringIO(get(f"/reports/{name}?{PERIOD}&format=csv", ONE).text)))
    assert {row["provider"] for row in written} == {provider}
    # Whatever he asks besides, it is not another's.
    other = next(row["provider"] for row in every["rows"] if row["provider"] not in (None, provider))
    assert rows(get, name, ONE, f"&where=provider={other}")["rows"] == []
    assert rows(get, name, ONE, "&where=provider=")["rows"] == []
    # Nor is it among the choices of the page, or in what it draws.
    page = get(f"/reports/{name}?{PERIOD}", ONE, accept="text/html")
    assert page.status_code == 200
    others = {row["provider"] for row in every["rows"]} - {None, provider}
    assert not [name for name in others if name in page.text]


def test_the_others_are_not_listed_and_are_not_told_from_those_that_there_are_not(get: Get) -> None:
    assert {report["name"] for report in get("/reports?format=json", ONE).json()} == THEIRS
    assert {report["name"] for report in get("/reports?format=json", ALL).json()} == set(REPORTS)
    page = get(f"/reports/outcomes?{PERIOD}", ONE, accept="text/html").text
    for name in set(REPORTS) - THEIRS:
        assert f'value="{name}"' not in page
        refused = get(f"/reports/{name}?format=json", ONE)
        missing = get("/reports/nothing?format=json", ONE)
        assert (refused.status_code, refused.content) == (403, missing.content)
        assert get(f"/reports/{name}?format=json", ALL).status_code == 200
        assert get(f"/reports?report={name}&format=json", ONE).status_code == 403
