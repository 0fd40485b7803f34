"""The ops page over HTTP: who may do what, from where, and that what was shown is what is done."""

from __future__ import annotations

import json
import re
import threading
from typing import Any

import pytest
from sqlalchemy import Engine
from support.processes.pipeline import Pipeline, event, eventually
from support.processes.pipeline import created as creation
from support.processes.served import ANNA, APP, Served, bearer

from caselog.schema.operations import audit, dead_letter_queries, parked_queries
from caselog.schema.operations import pause as pausing
from caselog.schema.operations.dead_letter_queries import Filter
from caselog.schema.operations.parked_queries import ParkedFilter
from caselog.schema.recording import dead_letters, parking
from caselog.schema.recording.dead_letters import DeadLetter
from caselog.schema.recording.parking import Parked
from caselog.schema.sessions.connection import make_engine
from caselog.workers.access.refusals import ATTEMPTS_MAX
from caselog.workers.access.sessions import COOKIE

PAGE = {"accept": "text/html"}


@pytest.fixture
def served(redis_pipeline: Pipeline) -> Served:
    return Served(redis_pipeline)


@pytest.fixture
def engine(database_url: str) -> Any:
    engine = make_engine(database_url)
    yield engine
    engine.dispose()


def set_aside(engine: Engine, *cases: str) -> str:
    """Dead letters of one fault, whose case is not there; its name."""
    letters = [
        DeadLetter(
            reason="unknown_case",
            message="no case with this event's subject",
            raw=json.dumps(event("accept_case", "SPOP", case, data={"notes": "SECRET"})).encode(),
            source="/tests",
            event_id=event("accept_case", "SPOP", case)["id"],
            key="accept_case",
            code="SPOP",
            case_reference=case,
        )
        for case in cases
    ]
    with engine.begin() as db:
        dead_letters.set_aside(db, letters)
        (group,) = dead_letter_queries.groups(db, Filter())
    return group.fault


def signed_in(served: Served) -> dict[str, str]:
    answer = served.post("/sign-in", data={"token": ANNA}, headers=PAGE)
    assert answer.status_code == 303
    return {COOKIE: answer.cookies[COOKIE]}


def entries(engine: Engine) -> list[tuple[str, str, str | None]]:
    with engine.connect() as db:
        return [(entry.who, entry.action, entry.why) for entry in audit.list_audit(db)]


def test_a_script_mends_with_its_token_what_it_was_shown(
    redis_pipeline: Pipeline, served: Served, engine: Engine
) -> None:
    fault = set_aside(engine, "HT-1", "HT-2")
    redis_pipeline.publish([creation("HT-1"), creation("HT-2")])
    redis_pipeline.start("recorder")
    redis_pipeline.recorded(2)
    shown = served.get(f"/dead/requeue?fault={fault}").json()
    assert (shown["chosen"], shown["total"]) == (2, 2)
    form = {"fault": fault, "mark": shown["mark"], "why": "the cases are there"}
    done = served.post("/dead/requeue", data=form, headers=bearer(ANNA))
    assert (done.status_code, done.json()["recorded"], done.json()["failed"]) == (200, 2, 0)
    assert redis_pipeline.logs() == 4
    assert entries(engine) == [("anna", "dead.requeue", "the cases are there")]


def test_only_what_was_shown_is_discarded_and_nothing_where_that_has_changed(served: Served, engine: Engine) -> None:
    """What came since stays; where one of them was tried again meanwhile, nobody guesses what was meant."""
    fault = set_aside(engine, "HT-1", "HT-2")
    mark = served.get(f"/dead/discard?fault={fault}").json()["mark"]
    set_aside(engine, "HT-3")
    form = {"fault": fault, "mark": mark, "why": "of a test"}
    assert served.post("/dead/discard", data={**form, "why": " "}, headers=bearer(ANNA)).status_code == 400
    assert served.post("/dead/discard", data={**form, "mark": "x"}, headers=bearer(ANNA)).status_code == 409
    assert served.post("/dead/discard", data=form, headers=bearer(ANNA)).json() == {"discarded": 2}
    assert served.post("/dead/discard", data=form, headers=bearer(ANNA)).status_code == 409
    assert served.get(f"/dead/discard?fault={fault}").json()["chosen"] == 1
    assert entries(engine) == [("anna", "dead.discard", "of a test")]


def park(engine: Engine, case: str, *ids: str) -> None:
    """Events that wait for this case."""
    with engine.begin() as db:
        raw = json.dumps(event("accept_case", "SPOP", case, data={"notes": "SECRET"})).encode()
        parking.park(
            db,
            [Parked(source="/tests", event_id=name, key="accept_case", case_reference=case, raw=raw) for name in ids],
        )


def test_what_waits_for_a_case_is_retried_or_discarded_as_it_was_shown(
    redis_pipeline: Pipeline, served: Served, engine: Engine
) -> None:
    """What came since waits on; and how often the tasks tried one meanwhile does not matter."""
    redis_pipeline.publish([event("accept_case", "SPOP", case, data={"notes": "SECRET"}) for case in ("HT-1", "HT-2")])
    redis_pipeline.start("recorder")
    eventually(lambda: redis_pipeline.one("select count(*) from parked") == 2, "two parked events")
    page = served.get("/?fresh").text
    assert re.search(r'id="waited-HT-1".*?HT-1.*?<td [^>]*class="number">1<', page, re.DOTALL)
    assert "SECRET" not in page
    redis_pipeline.publish([creation("HT-1")])
    redis_pipeline.recorded(1)
    shown = served.get("/parked/retry?case=HT-1").json()
    form = {"case": "HT-1", "mark": shown["mark"]}
    redis_pipeline.one("update parked set attempts = attempts + 1 returning 1")
    done = served.post("/parked/retry", data=form, headers=bearer(ANNA)).json()
    assert {name: done[name] for name in ("chosen", "recorded", "waiting", "dead")} == {
        "chosen": 1, "recorded": 1, "waiting": 0, "dead": 0,
    }  # fmt: skip
    assert served.post("/parked/retry", data=form, headers=bearer(ANNA)).status_code == 409

    shown = served.get("/parked/discard?case=HT-2").json()
    park(engine, "HT-2", "later")
    form = {"case": "HT-2", "mark": shown["mark"], "why": "misspelt"}
    assert served.post("/parked/discard", data={**form, "why": ""}, headers=bearer(ANNA)).status_code == 400
    assert served.post("/parked/discard", data={**form, "mark": "x"}, headers=bearer(ANNA)).status_code == 409
    assert served.post("/parked/discard", data=form, headers=bearer(ANNA)).json() == {"discarded": 1}
    assert served.get("/parked/discard?case=HT-2").json()["chosen"] == 1
    assert entries(engine) == [("anna", "parked.discard", "misspelt"), ("anna", "parked.retry", None)]
    assert served.get("/parked/requeue?case=HT-2").status_code == 404

    pause = {"why": "the database moves"}
    assert served.post("/pause", data=pause, headers=bearer(ANNA)).status_code == 200
    form = {"case": "HT-2", "mark": served.get("/parked/retry?case=HT-2").json()["mark"]}
    refused = served.post("/parked/retry", data=form, headers=bearer(ANNA))
    assert (refused.status_code, "the database moves" in refused.json()["detail"]) == (409, True)


@pytest.mark.parametrize(
    "path", ["/pause", "/resume", "/dead/requeue", "/dead/discard", "/parked/retry", "/parked/discard"]
)
def test_without_an_operators_token_nothing_changes_and_it_is_logged(served: Served, engine: Engine, path: str) -> None:
    fault = set_aside(engine, "HT-1")
    park(engine, "HT-1", "1")
    shown = "/parked/retry?case=HT-1" if path.startswith("/parked") else f"/dead/discard?fault={fault}"
    form = {"why": "x", "fault": fault, "case": "HT-1", "mark": served.get(shown).json()["mark"]}
    forged = f"{2**40}.{'0' * 64}"
    for status, headers, cookies in (
        (401, {}, {}),
        (401, bearer("wrong-wrong-wrong-wrong"), {}),
        (403, bearer(APP), {}),
        (401, {}, {COOKIE: forged}),
        (401, {}, {COOKIE: "\u00b2.x".encode().decode("latin-1").encode().hex()}),
    ):
        assert served.post(path, data=form, headers=headers, cookies=cookies).status_code == status
    assert entries(engine) == []
    with engine.connect() as db:
        assert pausing.find_pause(db) is None
        assert len(dead_letter_queries.select(db, Filter())) == 1
        assert len(parked_queries.select(db, ParkedFilter())) == 1
    assert served.worker.said().count('"a request was refused"') == 5


def test_a_session_acts_from_our_own_pages_alone(served: Served, engine: Engine) -> None:
    cookies = signed_in(served)
    host = served.url.removeprefix("http://")
    form = {"why": "the database moves"}
    for headers in (
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": f"http://{host}.evil.example"},
    ):
        assert served.post("/pause", data=form, headers=headers, cookies=cookies).status_code == 403, headers
    assert entries(engine) == []
    assert served.post("/pause", data=form, headers={"origin": served.url}, cookies=cookies).status_code == 200
    again = served.post("/pause", data=form, headers={"sec-fetch-site": "same-origin"}, cookies=cookies)
    assert again.status_code == 409
    assert "anna" in again.json()["detail"]
    assert served.post("/resume", cookies=cookies).status_code == 200
    assert entries(engine) == [("anna", "resume", None), ("anna", "pause", "the database moves")]


def test_a_pause_needs_a_reason(served: Served, engine: Engine) -> None:
    for why in ("", " \n", "x" * 501):
        assert served.post("/pause", data={"why": why}, headers=bearer(ANNA)).status_code == 400
    assert entries(engine) == []


def test_the_cookie_is_for_this_site_and_no_script_and_ends_with_its_token(
    redis_pipeline: Pipeline, served: Served
) -> None:
    answer = served.post("/sign-in", data={"token": ANNA}, headers=PAGE)
    told = answer.headers["set-cookie"].lower()
    assert {"httponly", "samesite=strict", "path=/", "max-age=28800"} <= {part.strip() for part in told.split(";")}
    assert "secure" not in told
    assert ANNA not in told
    proxied = served.post("/sign-in", data={"token": ANNA}, headers={**PAGE, "x-forwarded-proto": "https"})
    assert "secure" in proxied.headers["set-cookie"].lower()
    cookies = {COOKIE: answer.cookies[COOKIE]}
    assert "Sign out" in served.get("/", cookies=cookies).text
    other = Served(redis_pipeline, CASELOG_API_TOKENS="anna:operator:another-secret-of-anna")
    assert "Sign out" not in other.get("/", cookies=cookies).text
    assert "max-age=0" in served.post("/sign-out", cookies=cookies).headers["set-cookie"].lower()


def test_who_guesses_is_slowed_and_a_right_token_is_not_and_no_token_is_logged(served: Served) -> None:
    wrong = "wrong-wrong-wrong-wrong"
    statuses = [
        served.post("/sign-in", data={"token": token}, headers=PAGE).status_code
        for token in [wrong] * (ATTEMPTS_MAX - 1) + [APP, wrong, APP, ANNA]
    ]
    assert statuses == [403] * ATTEMPTS_MAX + [429, 429, 303]
    said = served.worker.said()
    assert said.count('"a request was refused"') == ATTEMPTS_MAX
    assert not re.search(f"{wrong}|{APP}|{ANNA}", said)


def test_the_page_and_the_command_line_say_the_same(redis_pipeline: Pipeline, served: Served, engine: Engine) -> None:
    set_aside(engine, "HT-1", "HT-2", "HT-3")
    redis_pipeline.publish([creation(f"HT-{number}") for number in range(7)], batch_events=1)
    page = _until(served, r'id="queue-caselog.events".*?class="number ready">7<')
    (group,) = json.loads(b"[" + redis_pipeline.run("dead", "list", "--group", "--json").stdout.strip() + b"]")
    assert f'id="fault-{group["fault"]}"' in page
    assert re.search(rf'id="fault-{group["fault"]}">\s*<td [^>]*class="number">{group["letters"]}<', page)
    queues = json.loads(redis_pipeline.run("queues", "--json").stdout)
    assert [line["queue"] for line in queues] == re.findall(r'<tr [^>]*id="queue-([^"]+)"', page)
    health = served.get("/healthcheck.json").json()
    assert {name for name in health if name != "*"} == set(re.findall(r'<tr [^>]*id="check-([^"]+)"', page))
    assert "SECRET" not in page


def test_while_its_servers_are_away_the_page_says_so_and_nothing_can_be_done(redis_pipeline: Pipeline) -> None:
    away = {"CASELOG_DATABASE_URL": "postgresql://x@127.0.0.1:1/x", "CASELOG_BROKER_URL": "redis://127.0.0.1:1/0"}
    served = Served(redis_pipeline, **away, CASELOG_REDIS_URL="redis://127.0.0.1:1/0")
    page = served.get("/")
    assert page.status_code == 200
    assert "checks are red" in page.text
    assert page.text.count("not known") >= 3
    for path in ("/audit", "/dead/discard?fault=x"):
        assert served.get(path, headers=PAGE).status_code == 503
    assert served.post("/pause", data={"why": "x"}, headers=bearer(ANNA)).status_code == 503


def test_every_page_forbids_what_it_does_not_need(served: Served) -> None:
    """No inline script or style, none from elsewhere, no frames."""
    for path in (
        "/",
        "/now",
        "/audit",
        "/pause",
        "/resume",
        "/sign-in",
        "/dead/requeue?fault=x",
        "/parked/retry?case=x",
    ):
        answer = served.get(path, headers=PAGE)
        policy = answer.headers["content-security-policy"]
        assert "unsafe" not in policy
        assert {"default-src 'none'", "frame-ancestors 'none'"} <= {part.strip() for part in policy.split(";")}
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["cache-control"] == "no-store"
        assert not re.search(r"<script(?! src=)|<style|\sstyle=|\son\w+=|//", answer.text), path
    for path in ("/", "/static/ops.js", "/static/ops.css", "/metrics", "/reports"):
        answer = served.get(path, headers=PAGE)
        assert answer.headers["content-type"].endswith("; charset=utf-8")
        assert answer.headers["content-type"].count("charset") == 1
    assert served.get("/static/ops.js").headers["content-type"] == "text/javascript; charset=utf-8"


def test_parameters_that_nobody_sends_are_one_line_and_no_failure(served: Served) -> None:
    assert served.get("/audit?until=yesterday").status_code == 400
    assert served.get("/audit?until=2026-01-01T00:00:00").status_code == 400
    assert served.get("/dead/nothing").status_code == 404
    assert served.get("/dead/discard?fault=%00%ff").json()["chosen"] == 0
    assert served.post("/pause", content=b"\xff" * 20_000, headers=bearer(ANNA)).status_code in (400, 413)
    assert served.post("/dead/discard", data={"mark": "9" * 99, "why": "x"}, headers=bearer(ANNA)).status_code == 409
    assert "a page failed" not in served.worker.said()


def _until(served: Served, pattern: str) -> str:
    for _ in range(300):
        text = served.get("/").text
        if re.search(pattern, text, re.DOTALL):
            return text
        threading.Event().wait(0.1)
    pytest.fail(f"the page never had {pattern}")
