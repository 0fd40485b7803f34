"""`caselog relay` as a process: killed while it publishes, it loses nothing and doubles nothing in the log."""

from __future__ import annotations

import psycopg
import pytest
from sqlalchemy import MetaData, create_engine
from support.processes.pipeline import Pipeline, created, eventually

from caselog.events.outbox import Outbox, ddl

EVENTS = 8_000


def make_outbox(pipeline: Pipeline, events: int) -> None:
    """The app's outbox, here in the same database, with so many events in it."""
    with psycopg.connect(pipeline.database_url) as db:
        db.execute(pipeline.run("relay", "--ddl").stdout)
    box = Outbox(MetaData(), source="/app")
    engine = create_engine(pipeline.database_url.replace("postgresql://", "postgresql+psycopg://", 1))
    with engine.begin() as db:
        for number in range(events):
            box.add(db, created(f"C-{number}", f"2026-03-02T10:{number // 200:02d}:{number % 60:02d}Z"))
    engine.dispose()


def waiting(pipeline: Pipeline) -> int:
    count: int = pipeline.one("select count(*) from caselog_outbox")
    return count


@pytest.mark.slow
def test_a_relay_that_is_killed_while_it_publishes_loses_nothing_and_doubles_nothing(pipeline: Pipeline) -> None:
    """Killed at four moments, with another one standing by from the second on."""
    make_outbox(pipeline, EVENTS)
    assert ddl() + "\n" == pipeline.run("relay", "--ddl").stdout.decode()
    for left in (EVENTS, EVENTS * 3 // 4, EVENTS // 2, EVENTS // 4):
        relay = pipeline.start_command("relay")
        eventually(lambda left=left: waiting(pipeline) < left, f"fewer than {left} wait")  # type: ignore[misc]
        relay.kill()
    assert waiting(pipeline) > 0
    pipeline.start("recorder")
    relays = [pipeline.start_command("relay") for _ in range(2)]
    eventually(lambda: waiting(pipeline) == 0, "the outbox is empty")
    pipeline.recorded(EVENTS)
    assert pipeline.logs() == EVENTS
    assert pipeline.one("select count(*) from dead_letter") == 0
    for relay in relays:
        assert relay.stop() == 0


@pytest.mark.slow
def test_once_and_status_say_what_waits_and_what_is_refused(redis_pipeline: Pipeline) -> None:
    make_outbox(redis_pipeline, 3)
    assert redis_pipeline.run("relay", "--status").stdout.startswith(b"3 wait, the oldest for")
    once = redis_pipeline.run("relay", "--once")
    assert (once.returncode, once.stdout, once.stderr) == (0, b"0 wait; 0 are refused\n", b"published 3 events\n")
    redis_pipeline.one("insert into caselog_outbox (event) values ('no event') returning id")
    once = redis_pipeline.run("relay", "--once", "--database", redis_pipeline.database_url, "--table", "caselog_outbox")
    assert once.returncode == 1
    assert once.stdout.startswith(b"0 wait; 1 is refused\nrefused row 4: ")
    assert redis_pipeline.run("relay", "--status").returncode == 1
    missing = redis_pipeline.run("relay", "--table", "app.box")
    assert (missing.returncode, b"'app.box'" in missing.stderr, missing.stderr.count(b"\n")) == (1, True, 1)
