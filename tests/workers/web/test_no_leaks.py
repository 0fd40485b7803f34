"""What one case says is in no error about another: not in a dead letter, a log line, a page or an answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from support.oracle.stored import count, dead_letters
from support.processes.pipeline import Pipeline, created, event, eventually
from support.processes.served import ANNA, Served, bearer

SECRET = "her-secret"
PAGE = {"accept": "text/html"}


@contextmanager
def refusing(database_url: str, statement: str, undo: str) -> Iterator[None]:
    """Within, PostgreSQL refuses what the statement makes it refuse."""
    with psycopg.connect(database_url, autocommit=True) as db:
        db.execute(statement.encode())
        try:
            yield
        finally:
            db.execute(undo.encode())


def told(case: str) -> dict[str, object]:
    """An event that creates a case and says what only those may read who read that case."""
    return created(case, data={"notes": SECRET, "context": {"category": SECRET, "organisation": SECRET}})


def test_a_row_that_postgresql_refuses_is_quoted_nowhere(redis_pipeline: Pipeline) -> None:
    """Its DETAIL is the whole row of the case, as other events filled it; the event to blame says nothing of that."""
    served = Served(redis_pipeline)
    recorder = redis_pipeline.start("recorder")
    redis_pipeline.publish([told("AB-1"), told("AB-2")])
    redis_pipeline.recorded(2)
    rule = "alter table \"case\" add constraint no_spop check (outcome_code is distinct from 'SPOP')"
    with refusing(redis_pipeline.database_url, rule, 'alter table "case" drop constraint no_spop'):
        redis_pipeline.publish(event("accept_case", "SPOP", case) for case in ("AB-1", "AB-2"))
        eventually(lambda: count(redis_pipeline.database_url, "dead_letter") == 2, "both are set aside")
        letters = dead_letters(redis_pipeline.database_url)
        assert all("no_spop" in letter["message"] for letter in letters)
        shown = served.get(f"/dead/requeue?fault={letters[0]['fault']}").json()
        form = {"fault": letters[0]["fault"], "mark": shown["mark"]}
        tried = served.post("/dead/requeue", data=form, headers=bearer(ANNA))
        assert tried.json()["failed"] == 2
    said = [
        *(letter["message"] + str(letter["raw"]) for letter in dead_letters(redis_pipeline.database_url)),
        recorder.said(),
        served.worker.said(),
        tried.text,
        served.get("/", headers=PAGE).text,
        served.get(f"/dead/requeue?fault={letters[0]['fault']}", headers=PAGE).text,
        *(
            redis_pipeline.run("dead", *how).stdout.decode()
            for how in (["list"], ["list", "--group"], ["show", "--all"])
        ),
    ]
    assert [text for text in said if SECRET in text] == []
    redis_pipeline.drain_reports()


def test_while_postgresql_refuses_for_now_the_log_does_not_say_what(redis_pipeline: Pipeline) -> None:
    """The batch waits and is tried again, and each time a line says why: without the row."""
    trigger = """
        create function not_now() returns trigger language plpgsql as
        $$ begin raise exception 'not now' using errcode = 'cannot_connect_now', detail = new::text; end $$;
        create trigger not_now before insert on "case" for each row execute function not_now()
    """
    recorder = redis_pipeline.start("recorder")
    undo = 'drop trigger not_now on "case"; drop function not_now()'
    with refusing(redis_pipeline.database_url, trigger, undo):
        redis_pipeline.publish([told("AB-1")])
        eventually(lambda: "not now" in recorder.said(), "the log says why it waits")
    redis_pipeline.recorded(1)
    assert SECRET not in recorder.said()
    redis_pipeline.drain_reports()


@pytest.mark.parametrize("position", [0, 1, 2])
def test_an_answer_about_one_event_says_nothing_of_the_others_of_its_batch(
    redis_pipeline: Pipeline, position: int
) -> None:
    """Nor of what the event itself says: who sent it knows, and what logs the answer must not."""
    served = Served(redis_pipeline)
    batch = [told(f"AB-{number}") for number in range(3)]
    batch[position] |= {"time": SECRET[:3], "subject": 7}
    kind = {"content-type": "application/cloudevents-batch+json"}
    answer = served.post("/events", json=batch, headers={**kind, "authorization": f"Bearer {ANNA}"})
    assert answer.status_code == 403
    answer = served.post("/events", json=batch, headers={**kind, **bearer("app1-app1-app1-app1-app1")})
    assert answer.status_code == 400
    assert [fault["position"] for fault in answer.json()["events"]] == [position + 1]
    assert SECRET not in answer.text + served.worker.said()
