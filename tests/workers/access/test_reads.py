"""Who read what: kept before the first byte of the answer, and once in the audit, whoever is killed."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any, Final

import httpx
import pytest
from litestar import Response, get
from litestar.params import FromPath
from litestar.testing import TestClient
from redis import Redis
from sqlalchemy import Engine
from support.processes.patience import DEADLINE_S
from support.processes.pipeline import Pipeline, created, event, eventually
from support.processes.served import Served, bearer

from caselog.schema.operations import audit, dead_letter_queries, reads
from caselog.schema.operations.dead_letter_queries import Filter
from caselog.schema.recording import dead_letters
from caselog.schema.recording.dead_letters import DeadLetter
from caselog.schema.sessions.connection import make_engine
from caselog.workers.access.callers import NOBODY, Need
from caselog.workers.access.reads import MOVED_AT_ONCE, STREAM, Read, ReadLog, forget_reads, move_all_reads
from caselog.workers.servers.locate import redis_py_url
from caselog.workers.settings import Settings
from caselog.workers.web.app import make_app
from caselog.workers.web.ops.overview import AUDIT_SHOWN

ANN: Final = "ann-ann-ann-ann-ann-ann"
BOB: Final = "bob-bob-bob-bob-bob-bob"
OTTO: Final = "otto-otto-otto-otto-otto"
PIA: Final = "pia-pia-pia-pia-pia-pia-"
CLOSED: Final = {
    "CASELOG_READING": "token",
    "CASELOG_API_TOKENS": f"ann:reader:{ANN},bob:reader+personal:{BOB},otto:operator:{OTTO},pia:reader@prov-1:{PIA}",
    "CASELOG_TRUSTED_PROXY": "addresses=127.7.0.1 user=X-User roles=X-Roles",
}
EXTRACT: Final = "/reports/outcome_extract?format=csv&from=2026-03-01&to=2026-03-31&where=category=debt"
PAGE: Final = {"accept": "text/html"}


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = make_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def redis(redis_pipeline: Pipeline) -> Iterator[Redis]:
    with Redis.from_url(redis_py_url(redis_pipeline.broker_url)) as client:
        yield client


def kept(redis: Redis) -> list[dict[str, Any]]:
    """What is in the stream, oldest first."""
    found: Any = redis.xrange(STREAM)
    return [json.loads(fields[b"read"]) for _, fields in found]


def in_audit(engine: Engine, **which: Any) -> list[tuple[str, dict[str, Any]]]:
    with engine.connect() as db:
        return [(entry.who, entry.detail) for entry in audit.list_audit(db, action=reads.ACTION, **which)]


def test_what_was_not_asked_for_is_in_no_filter() -> None:
    assert Read(what="audit", filter={"until": None, "reads": None}).detail(NOBODY) == {"what": "audit"}
    said = Read(what="audit", filter={"until": None, "reads": True}).detail(NOBODY)
    assert said == {"what": "audit", "filter": {"reads": True}}


def test_what_a_named_reader_is_shown_of_cases_is_kept_and_what_names_none_is_not(
    redis_pipeline: Pipeline, redis: Redis
) -> None:
    """With its filter and how many rows; also a page, a proxy's user, and HEAD."""
    redis_pipeline.publish([created("HT-1"), event("accept_case", "SPOP", "HT-1")])
    redis_pipeline.start("recorder")
    redis_pipeline.recorded(2)
    served = Served(redis_pipeline, **CLOSED)
    for path in (
        "/reports",
        "/reports/outcomes?format=json",
        "/livez",
        "/healthcheck.json",
        "/metrics",
        "/openapi.json",
    ):
        served.get(path, headers=bearer(ANN))
    for path in ("/reports/nothing", "/reports/outcome_extract?from=x", "/nothing", "/dead/nothing", "/audit?until=x"):
        assert served.get(path, headers=bearer(ANN)).status_code in (400, 404)
    assert served.get("/reports?report=outcome_extract", headers=bearer(ANN)).status_code == 303
    assert kept(redis) == []
    assert served.get(EXTRACT.partition("&where")[0], headers=bearer(ANN)).text.count("\nHT-1,") == 1
    (first,) = kept(redis)
    asked = {"report": "outcome_extract", "from": "2026-03-01", "to": "2026-03-31"}
    assert (first["who"], first["detail"]) == ("ann", {"what": "report", "filter": asked, "rows": 1})
    served.get(EXTRACT, headers={**bearer(BOB), **PAGE})
    httpx.head(served.url + EXTRACT, headers=bearer(BOB), timeout=DEADLINE_S)
    transport = httpx.HTTPTransport(local_address="127.7.0.1")
    with httpx.Client(transport=transport) as proxy:
        assert proxy.get(served.url + EXTRACT, headers={b"x-user": "zoé".encode(), b"x-roles": b"reader"}).is_success
    nothing = {"what": "report", "filter": {**asked, "category": "debt"}, "rows": 0}
    assert [(read["who"], read["detail"]) for read in kept(redis)[1:]] == [
        ("bob", nothing), ("bob", nothing), ("zoé", {**nothing, "through": "proxy"}),
    ]  # fmt: skip
    open_ = Served(redis_pipeline)
    assert open_.get(EXTRACT).is_success
    assert len(kept(redis)) == 4


def test_what_cannot_be_kept_is_not_shown(redis_pipeline: Pipeline) -> None:
    """Not even its length, its first row or its headers. What names no case is shown all the same."""
    redis_pipeline.publish([created("HT-1"), event("accept_case", "SPOP", "HT-1")])
    redis_pipeline.start("recorder")
    redis_pipeline.recorded(2)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        served = Served(redis_pipeline, **CLOSED, CASELOG_REDIS_URL=f"redis://127.0.0.1:{nobody.getsockname()[1]}/0")
        answer = served.get(EXTRACT, headers=bearer(ANN))
        assert (answer.status_code, answer.json()["status"]) == (503, 503)
        assert "HT-1" not in answer.text
        assert "content-disposition" not in answer.headers
        page = served.get("/reports/outcome_extract?from=2026-03-01&to=2026-03-31", headers={**bearer(ANN), **PAGE})
        assert (page.status_code, "HT-1" in page.text, page.text.startswith("<!doctype html>")) == (503, False, True)
        assert served.get("/reports/outcomes?format=json", headers=bearer(ANN)).is_success


def test_a_status_worker_that_is_killed_after_its_answer_loses_no_read(
    redis_pipeline: Pipeline, engine: Engine
) -> None:
    served = Served(redis_pipeline, **CLOSED)
    assert served.get(EXTRACT, headers=bearer(ANN)).is_success
    served.worker.kill()
    redis_pipeline.start("tasks")
    eventually(lambda: in_audit(engine), "the read is in the audit")
    assert [who for who, _ in in_audit(engine)] == ["ann"]


@pytest.mark.parametrize("point", ["reads.before_commit", "reads.committed"])
def test_a_tasks_worker_that_is_killed_while_it_moves_reads_loses_none_and_doubles_none(
    redis_pipeline: Pipeline, redis: Redis, engine: Engine, point: str
) -> None:
    served = Served(redis_pipeline, **CLOSED)
    for _ in range(3):
        assert served.get(EXTRACT, headers=bearer(ANN)).is_success
    dying = redis_pipeline.start("tasks", CASELOG_CRASH_AT=point)
    assert dying.process.wait(DEADLINE_S) == -9
    assert len(in_audit(engine)) == (3 if point == "reads.committed" else 0)
    assert len(kept(redis)) == 3
    assert served.get(EXTRACT, headers=bearer(BOB)).is_success
    redis_pipeline.start("tasks")
    eventually(lambda: not kept(redis), "the stream is empty")
    assert [who for who, _ in in_audit(engine)] == ["bob", "ann", "ann", "ann"]


def test_the_audit_is_asked_by_case_and_by_who(redis_pipeline: Pipeline, engine: Engine, redis: Redis) -> None:
    """A case is also found in a short list that named it, and in what was done to its events."""
    redis_pipeline.publish([event("accept_case", "SPOP", case) for case in ("HT-1", "HT-2")])
    redis_pipeline.start("recorder")
    eventually(lambda: redis_pipeline.one("select count(*) from parked") == 2, "two parked events")
    served = Served(redis_pipeline, **CLOSED)
    shown = served.get("/parked/discard?case=HT-1", headers=bearer(ANN)).json()
    served.get("/parked/discard?case=HT-2", headers=bearer(BOB))
    served.get("/", headers={**bearer(BOB), **PAGE})
    form = {"case": "HT-1", "mark": shown["mark"], "why": "misspelt"}
    assert served.post("/parked/discard", data=form, headers=bearer(OTTO)).is_success
    move_all_reads(redis, engine)

    def listed(*arguments: str) -> list[tuple[str, str]]:
        done = redis_pipeline.run("audit", "list", "--json", *arguments)
        assert done.returncode == 0, done.stderr
        entries = [json.loads(line) for line in done.stdout.splitlines()]
        return sorted((entry["who"], entry["action"]) for entry in entries)

    assert listed("--case", "HT-1") == [("ann", "case.read"), ("bob", "case.read"), ("otto", "parked.discard")]
    assert listed("--case", "HT-2", "--who", "bob") == [("bob", "case.read")] * 2
    assert listed("--case", "HT") == []
    assert listed("--who", "ann") == [("ann", "case.read")]
    page = served.get("/audit", headers={**bearer(ANN), **PAGE}).text
    assert ("parked.discard" in page, "case.read" in page) == (True, False)
    page = served.get("/audit?reads", headers={**bearer(ANN), **PAGE}).text
    assert ("parked.discard" in page, "case.read" in page) == (False, True)


def test_a_page_that_asks_again_by_itself_is_read_again_where_it_shows_other_cases(
    redis_pipeline: Pipeline, redis: Redis
) -> None:
    redis_pipeline.publish([event("accept_case", "SPOP", "HT-1")])
    redis_pipeline.start("recorder")
    eventually(lambda: redis_pipeline.one("select count(*) from parked") == 1, "a parked event")
    served = Served(redis_pipeline, **CLOSED)
    for _ in range(3):
        assert "HT-1" in served.get("/now", headers={**bearer(ANN), **PAGE}).text
    assert [read["detail"]["cases"] for read in kept(redis)] == [["HT-1"]]
    served.get("/now", headers={**bearer(BOB), **PAGE})
    served.get("/", headers={**bearer(ANN), **PAGE})
    assert [read["who"] for read in kept(redis)] == ["ann", "bob", "ann"]
    redis_pipeline.publish([event("accept_case", "SPOP", "HT-2")])
    eventually(lambda: "HT-2" in served.get("/now", headers={**bearer(ANN), **PAGE}).text, "another case is shown")
    assert kept(redis)[-1]["detail"]["cases"] == ["HT-1", "HT-2"]


def test_what_takes_the_place_of_something_else_on_a_page_that_asks_again_is_another_read(
    redis_pipeline: Pipeline, redis: Redis, engine: Engine
) -> None:
    """There are as many rows as before, and as many cases that wait: none."""

    def look() -> list[dict[str, Any]]:
        assert served.get("/now?fresh", headers={**bearer(ANN), **PAGE}).is_success
        return [read["detail"] for read in kept(redis)]

    def do(case: str) -> None:
        with engine.begin() as db:
            detail = {"filter": {"case": case}, "discarded": 1, "events": [{"case_reference": case}]}
            audit.record(db, who="otto", action="parked.discard", why="x", detail=detail)

    def set_aside(raw: bytes) -> None:
        with engine.begin() as db:
            dead_letters.set_aside(db, [DeadLetter(reason="failed", message="m", raw=raw, case_reference=raw.decode())])

    for number in range(AUDIT_SHOWN):
        do(f"HT-{number % 2}")
    set_aside(b"AB-1")
    served = Served(redis_pipeline, **CLOSED)
    assert [read["cases"] for read in [*look(), look()[-1]]] == [["HT-0", "HT-1"]] * 2
    do("HT-2")
    assert [read["cases"] for read in look()] == [["HT-0", "HT-1"], ["HT-0", "HT-1", "HT-2"]]
    with engine.begin() as db:
        dead_letter_queries.discard(db, list(dead_letter_queries.select(db, Filter())))
    set_aside(b"AB-2")
    assert len(look()) == len(look()) == 3
    assert {read["rows"] for read in look()} == {AUDIT_SHOWN + 1}
    assert served.get("/audit", headers={**bearer(ANN), **PAGE}).text.count("case=HT-2") == 1
    assert kept(redis)[-1]["detail"]["cases"] == ["HT-0", "HT-1", "HT-2"]


def test_a_report_of_one_case_is_found_by_that_case_however_it_was_asked_for(
    redis_pipeline: Pipeline, redis: Redis, engine: Engine
) -> None:
    """And a read of somebody who is bound to a provider says whose rows he was shown."""
    served = Served(redis_pipeline, **CLOSED)
    extract = EXTRACT.partition("&where")[0]
    assert served.get(f"{extract}&reference=HT-1", headers=bearer(ANN)).is_success
    page = extract.replace("outcome_extract?format=csv", "callbacks?where=reference=HT-1")
    assert served.get(page, headers={**bearer(BOB), **PAGE}).is_success
    assert served.get(f"{extract}&reference=HT-1", headers=bearer(PIA)).is_success
    assert served.get(f"{extract}&reference=HT-12", headers=bearer(PIA)).is_success
    assert [read["detail"].get("case") for read in kept(redis)] == ["HT-1", "HT-1", "HT-1", "HT-12"]
    move_all_reads(redis, engine)
    found = in_audit(engine, case="HT-1")
    assert [(who, detail.get("provider")) for who, detail in found] == [("pia", "prov-1"), ("bob", None), ("ann", None)]


def test_how_many_rows_a_long_answer_had_is_said_when_it_has_ended(
    redis_pipeline: Pipeline, redis: Redis, engine: Engine
) -> None:
    """Kept before the first byte, when nobody knows it yet: the audit has both in one row."""
    served = Served(redis_pipeline, **CLOSED)
    with engine.begin() as db:  # while it is held, the report waits: longer than an answer is waited for to be whole
        db.exec_driver_sql("lock table timer in access exclusive mode")
        with httpx.stream("GET", served.url + EXTRACT, headers=bearer(ANN), timeout=DEADLINE_S) as answer:
            assert "content-length" not in answer.headers
            (first,) = kept(redis)
            assert "rows" not in first["detail"]
            db.rollback()
            answer.read()
    eventually(lambda: len(kept(redis)) == 2, "the rows are said")
    move_all_reads(redis, engine)
    ((_, detail),) = in_audit(engine)
    assert detail["rows"] == 0


def test_reads_in_bulk_are_moved_each_once_and_what_is_malformed_keeps_none_back(redis: Redis, engine: Engine) -> None:
    many = MOVED_AT_ONCE + 7
    for number in range(many):
        read = {"id": f"00000000-0000-4000-8000-{number:012}", "who": f"a\x00{number}", "detail": {"case": "HT-1\x00"}}
        redis.xadd(STREAM, {"read": json.dumps(read)})
        if number == 3:
            redis.xadd(STREAM, {"read": json.dumps(read)})
            redis.xadd(STREAM, {"read": "nonsense"})
            redis.xadd(STREAM, {"other": "nonsense"})
    move_all_reads(redis, engine)
    assert len(in_audit(engine)) == many
    assert redis.xlen(STREAM) == 0
    found = in_audit(engine, limit=1)
    assert "\x00" not in str(found)


def test_reads_are_forgotten_after_the_days_that_are_set_and_what_was_done_is_not(redis: Redis, engine: Engine) -> None:
    for number in range(3):
        read = {"id": f"00000000-0000-4000-8000-{number:012}", "who": "ann", "detail": {"case": f"HT-{number}"}}
        redis.xadd(STREAM, {"read": json.dumps(read)})
    move_all_reads(redis, engine)
    with engine.begin() as db:
        audit.record(db, who="otto", action="dead.discard", why="x", detail={})
        db.exec_driver_sql(
            "update audit set at = now() - interval '31 days' where detail ->> 'case' is distinct from 'HT-2'"
        )
    assert forget_reads(engine, retention_days=0, who="upkeep") == 0
    assert forget_reads(engine, retention_days=30, who="upkeep") == 2
    with engine.connect() as db:
        entries = [(entry.action, entry.detail) for entry in audit.list_audit(db)]
    assert entries == [
        ("reads.expire", {"older_than_days": 30, "forgotten": 2}),
        ("case.read", {"case": "HT-2"}),
        ("dead.discard", {}),
    ]


def test_the_door_keeps_what_a_route_shows_though_its_handler_says_nothing(
    redis_pipeline: Pipeline, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also an answer that the reader has already (304), and not one that is refused, missing or elsewhere."""

    @get("/of-cases/{status:int}", needs=Need.READER, reads="case", sync_to_thread=False)
    def of_cases(status: FromPath[int]) -> Response[None]:
        return Response(None, status_code=status)

    for name, value in CLOSED.items():
        monkeypatch.setenv(name, value)
    log = ReadLog(redis_pipeline.broker_url)
    app = make_app(Settings(), None, None, more=[of_cases], reads=log)  # type: ignore[arg-type]  # no other page is asked
    with TestClient(app, base_url="http://127.0.0.1") as client:
        for status in (200, 304, 303, 403, 404, 500):
            answer = client.get(f"/of-cases/{status}", headers=bearer(ANN), follow_redirects=False)
            assert answer.status_code == status
        described = client.get("/openapi.json", headers=bearer(ANN)).json()["paths"]
    assert [read["detail"] for read in kept(redis)] == [{"what": "case"}] * 2
    operation = described["/of-cases/{status}"]["get"]
    assert operation["security"] == [{"bearer": []}, {"session": []}]
    assert {"401", "403", "421", "429", "503"} <= operation["responses"].keys()
    assert "security" not in described["/livez"]["get"]
