"""`POST /events` of a running status worker: what is accepted is with the broker; what is not, changed nothing."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.oracle.stored import body, dead_letters
from support.processes.patience import DEADLINE_S
from support.processes.pipeline import Pipeline, created, eventually
from support.processes.served import ANNA, APP, Served, bearer

from caselog.events.model.message import BATCH_TYPE, EVENT_TYPE
from caselog.events.model.registry import BUNDLED_APPS
from caselog.workers.access.refusals import ATTEMPTS_MAX
from caselog.workers.web.cloudevents import BODY_BYTES_MAX
from caselog.workers.web.intake import CONFIRMED_WITHIN_S

SHELF = """
from caselog.events import BaseEvent, event_registry


class Shelve(BaseEvent):
    key = "shelve"


event_registry.register(Shelve)
"""
EVENT = {"content-type": EVENT_TYPE, **bearer(APP)}
BATCH = {"content-type": BATCH_TYPE, **bearer(APP)}


@pytest.fixture
def served(redis_pipeline: Pipeline) -> Served:
    return Served(redis_pipeline)


def test_events_that_are_accepted_are_with_the_broker_and_are_recorded(pipeline: Pipeline) -> None:
    """One, a batch, and one in binary mode; on either broker."""
    served = Served(pipeline)
    one, *many, last = (created(f"HT-{number}") for number in range(5))
    answer = served.post("/events", content=body(one), headers=EVENT)
    assert (answer.status_code, answer.json()) == (202, {"accepted": 1})
    answer = served.post("/events", content=json.dumps(many), headers=BATCH)
    assert (answer.status_code, answer.json()) == (202, {"accepted": 3})
    data = last.pop("data")
    attributes = {f"ce-{name}": value for name, value in last.items()}
    answer = served.post("/events", json=data, headers={**attributes, **bearer(APP)})
    assert (answer.status_code, answer.json()) == (202, {"accepted": 1})
    assert pipeline.queue().ready >= 3
    pipeline.start("recorder")
    pipeline.recorded(5)
    assert pipeline.one("select count(*) from \"case\" where reference like 'HT-%'") == 5


def test_a_batch_with_one_malformed_event_is_refused_whole_and_nothing_is_published(
    redis_pipeline: Pipeline, served: Served
) -> None:
    bad = {**created("HT-2"), "time": "yesterday"}
    answer = served.post("/events", content=json.dumps([created("HT-1"), bad]), headers=BATCH)
    assert answer.status_code == 400
    assert [(fault["position"], fault["id"]) for fault in answer.json()["events"]] == [(2, bad["id"])]
    assert redis_pipeline.queue().ready == 0


@pytest.mark.parametrize(
    ("changes", "reason", "says"),
    [
        ({"subject": None}, "malformed", "subject is missing"),
        (
            {"type": "shelve", "subject": None, "data": {}},
            "malformed",
            "subject is missing: an event 'shelve' is about a case",
        ),
        (
            {"type": "decline_help", "data": {"code": "DESP", "actor": {"id": "w", "role": "web"}}},
            "role_not_allowed",
            "an actor with the role 'web' may not choose code 'DESP'",
        ),
        ({"type": "assign_to_provider", "data": {"code": "REFSP"}}, "rejected", "context.provider"),
    ],
)
def test_what_a_recorder_would_set_aside_for_what_it_says_is_refused_at_once_in_the_same_words(
    redis_pipeline: Pipeline, changes: dict[str, Any], reason: str, says: str
) -> None:
    """Also where only the apps of the installation can say so."""
    (redis_pipeline.directory / "shelf").mkdir()
    (redis_pipeline.directory / "shelf" / "events.py").write_text(SHELF)
    apps = {"CASELOG_APPS": ",".join([*BUNDLED_APPS, "shelf"]), "PYTHONPATH": str(redis_pipeline.directory)}
    served = Served(redis_pipeline, **apps)
    refused = {**created("HT-1"), **changes}
    answer = served.post("/events", content=json.dumps([created("HT-2"), refused]), headers=BATCH)
    assert answer.status_code == 400
    [fault] = answer.json()["events"]
    assert (fault["position"], fault["reason"]) == (2, reason)
    assert says in fault["error"]
    assert redis_pipeline.queue().ready == 0
    recorder = redis_pipeline.start("recorder", **apps)
    eventually(lambda: redis_pipeline.queue().consumers == 1, "the recorder consumes")
    redis_pipeline.send(body(refused))
    eventually(lambda: dead_letters(redis_pipeline.database_url), "a dead letter")
    [letter] = dead_letters(redis_pipeline.database_url)
    assert (letter["reason"], letter["message"]) == (reason, fault["error"])
    assert recorder.is_running()


def test_what_the_apps_here_do_not_know_is_accepted_and_left_to_the_recorders(
    redis_pipeline: Pipeline, served: Served
) -> None:
    """They may be newer; and an app that cannot be imported here keeps nothing away."""
    unknown = [{**created("HT-1"), "type": "not_yet"}, {**created("HT-2"), "data": {"code": "NOT-YET"}}]
    assert served.post("/events", content=json.dumps(unknown), headers=BATCH).status_code == 202
    without = Served(redis_pipeline, CASELOG_APPS="no_such_app")
    nobody = {**created("HT-3"), "type": "decline_help", "data": {"code": "DESP"}}
    assert without.post("/events", content=body(nobody), headers=EVENT).status_code == 202
    assert "no_such_app" in without.worker.said()
    assert redis_pipeline.queue().ready == 2


def test_an_empty_batch_is_accepted_and_sends_nothing(redis_pipeline: Pipeline, served: Served) -> None:
    answer = served.post("/events", content="[]", headers=BATCH)
    assert (answer.status_code, answer.json()) == (202, {"accepted": 0})
    assert redis_pipeline.queue().ready == 0


def test_a_quoted_header_is_the_case_that_it_quotes(redis_pipeline: Pipeline, served: Served) -> None:
    attributes = {f"ce-{name}": value for name, value in created("HT-1").items() if name != "data"}
    data = {"code": "CASE_CREATED", "actor": {"id": "a", "role": "operator"}}
    quoted = {**attributes, "ce-subject": '"HT-\\1"', **bearer(APP)}
    assert served.post("/events", json=data, headers=quoted).status_code == 202
    answer = served.post("/events", json=data, headers={**quoted, "ce-subject": "HT%"})
    assert (answer.status_code, "'ce-subject'" in answer.json()["detail"]) == (400, True)
    redis_pipeline.start("recorder")
    redis_pipeline.recorded(1)
    assert redis_pipeline.one('select reference from "case"') == "HT-1"


def test_without_the_right_token_nothing_is_published_and_the_log_says_who_tried(
    redis_pipeline: Pipeline, served: Served
) -> None:
    wrong = "wrong-wrong-wrong-wrong"
    content = body(created("HT-1"))
    kind = {"content-type": EVENT_TYPE}
    statuses = [
        served.post("/events", content=content, headers={**kind, **more}).status_code
        for more in (
            {},
            {"authorization": APP},
            {"authorization": f"Basic {APP}"},
            {"authorization": "Bearer"},
            bearer(wrong),
            bearer(ANNA),
        )
    ]
    assert statuses == [401, 401, 401, 401, 401, 403]
    assert redis_pipeline.queue().ready == 0
    said = served.worker.said()
    assert said.count('"a request was refused"') == 6
    assert '"who": "anna"' in said
    assert '"address": "127.0.0.1"' in said
    assert wrong not in said
    assert APP not in said
    assert served.post("/events", content=content, headers=EVENT).status_code == 202


def test_who_fails_too_often_is_told_to_wait_and_fills_no_log_and_a_right_token_still_passes(served: Served) -> None:
    answers = [served.post("/events", headers=bearer("wrong" * 5)) for _ in range(ATTEMPTS_MAX + 5)]
    assert [answer.status_code for answer in answers[-6:]] == [401, 429, 429, 429, 429, 429]
    assert int(answers[-1].headers["retry-after"]) > 0
    assert served.worker.said().count('"a request was refused"') == ATTEMPTS_MAX
    assert served.post("/events", content=body(created("HT-1")), headers=EVENT).status_code == 202


def test_a_body_over_the_limit_is_refused_before_it_is_read(served: Served) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(BODY_BYTES_MAX // 65536 + 2):
            yield b" " * 65536

    too_long = {**BATCH, "content-length": str(BODY_BYTES_MAX + 1)}
    port = int(served.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as client:
        head = "".join(f"{name}: {value}\r\n" for name, value in too_long.items())
        client.sendall(f"POST /events HTTP/1.1\r\nhost: 127.0.0.1\r\n{head}\r\n".encode())
        client.settimeout(30)
        assert client.recv(12) == b"HTTP/1.1 413"
    answer = served.post("/events", content=endless(), headers=BATCH)
    assert answer.status_code == 413
    assert f"{BODY_BYTES_MAX:,}" in answer.json()["detail"]


@pytest.mark.slow
def test_while_the_broker_is_away_senders_are_told_to_come_again_and_every_other_page_answers(
    tmp_path: Path, database_url: str, redis_url: str
) -> None:
    """Also where the broker takes the connection and says nothing."""
    with socket.socket() as closed, socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        closed.bind(("127.0.0.1", 0))
        for way in (closed, silent):
            away = f"amqp://127.0.0.1:{way.getsockname()[1]}"
            pipeline = Pipeline(tmp_path, database_url, away, redis_url)
            try:
                served = Served(pipeline)
                with ThreadPoolExecutor() as pool:
                    waiting = pool.submit(served.post, "/events", content=body(created("HT-1")), headers=EVENT)
                    assert served.get("/livez").status_code == 200
                    assert served.get("/ping.json").status_code == 501
                    answer: httpx.Response = waiting.result(CONFIRMED_WITHIN_S + 20)
                assert answer.status_code == 503
                assert int(answer.headers["retry-after"]) > 0
                assert "same ids" in answer.json()["detail"]
            finally:
                pipeline.close()


def test_a_broker_that_is_silent_does_not_keep_the_process(tmp_path: Path, database_url: str, redis_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent, ThreadPoolExecutor() as pool:
        pipeline = Pipeline(tmp_path, database_url, f"amqp://127.0.0.1:{silent.getsockname()[1]}", redis_url)
        try:
            served = Served(pipeline)
            waiting = pool.submit(served.post, "/events", content=body(created("HT-1")), headers=EVENT)
            silent.settimeout(30)
            on_its_way, _ = silent.accept()
            with on_its_way:
                served.worker.stop()  # fails where it takes longer than is promised
            assert isinstance(waiting.exception(DEADLINE_S), httpx.TransportError) or waiting.result().is_server_error
        finally:
            pipeline.close()


def test_openapi_describes_what_is_taken_and_what_is_answered(served: Served) -> None:
    described = served.get("/openapi.json").json()["paths"]
    assert "/" in described
    operation = described["/events"]["post"]
    assert set(operation["requestBody"]["content"]) == {EVENT_TYPE, BATCH_TYPE, "application/json"}
    assert set(operation["responses"]) == {"202", "400", "401", "403", "413", "415", "421", "429", "503"}
