"""An upstream app's outbox and its relay: what is committed is published, in order, whatever is away meanwhile."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import structlog
from broker_under_test import Broker, eventually
from sqlalchemy import Engine, MetaData, text
from sqlalchemy.orm import Session
from support.processes.patience import DEADLINE_S

from caselog.events import MalformedEvent, outbox
from caselog.events.errors import CaselogError, PublishError
from caselog.events.model.message import parse_event
from caselog.events.outbox import Outbox
from caselog.schema.sessions.connection import make_engine
from caselog.workers.producers.relay import Relay


@pytest.fixture
def engine(empty_database_url: str) -> Iterator[Engine]:
    """The app's own database, with the outbox in it."""
    engine = make_engine(empty_database_url, connections=4)
    with engine.begin() as db:
        for statement in outbox.ddl().split(";"):
            if statement.strip():
                db.execute(text(statement))
    yield engine
    engine.dispose()


@pytest.fixture
def box() -> Outbox:
    return Outbox(MetaData(), source="/app")


def event(number: int, **more: Any) -> dict[str, Any]:
    return {"type": "accept_case", "id": f"e-{number}", "subject": f"C-{number}", **more}


def ids(first: int, count: int) -> list[str]:
    return [f"e-{number}" for number in range(first, first + count)]


def add(engine: Engine, box: Outbox, first: int, count: int) -> None:
    with engine.begin() as db:
        for number in range(first, first + count):
            box.add(db, event(number))


def rows(engine: Engine) -> int:
    with engine.connect() as db:
        return int(db.execute(text("select count(*) from caselog_outbox")).scalar_one())


def test_the_table_of_the_metadata_is_that_of_the_statements(engine: Engine, box: Outbox) -> None:
    from alembic.autogenerate import compare_metadata  # noqa: PLC0415 - heavy
    from alembic.migration import MigrationContext  # noqa: PLC0415 - likewise

    with engine.connect() as db:
        context = MigrationContext.configure(db, opts={"compare_type": True, "compare_server_default": True})
        different = [found for found in compare_metadata(context, box.table.metadata) if "comment" not in str(found[0])]
    assert different == []


def test_an_event_is_published_if_and_only_if_its_transaction_commits(
    engine: Engine, box: Outbox, any_broker: Broker
) -> None:
    with engine.begin() as db:
        box.add(db, event(0))
    with Session(engine) as session, session.begin():
        box.add(session, event(1))
    with engine.connect() as db:
        box.add(db, event(2))
        db.rollback()
    relayed = Relay(engine, box.table, any_broker.url).once()
    assert (relayed.published, rows(engine)) == (2, 0)
    found = any_broker.events(2)
    assert [(one.id, one.source) for one in found] == [("e-0", "/app"), ("e-1", "/app")]


def test_what_an_event_lacks_is_settled_when_it_is_added_and_not_when_it_is_relayed(
    engine: Engine, box: Outbox, any_broker: Broker
) -> None:
    """Its time is when it happened, and its id the same however often it is published."""
    with engine.begin() as db:
        box.add(db, {"type": "open_case", "subject": "C-1"})
        raw = db.execute(text("select event from caselog_outbox")).scalar_one()
    Relay(engine, box.table, any_broker.url).once()
    assert any_broker.events(1) == [parse_event(raw.encode())]


def test_a_malformed_event_is_refused_in_the_apps_own_transaction(engine: Engine, box: Outbox) -> None:
    with engine.begin() as db, pytest.raises(MalformedEvent, match=r"data\.notes"):
        box.add(db, event(0, data={"notes": 7}))
    assert rows(engine) == 0


def test_what_is_no_event_is_set_aside_with_the_reason_and_blocks_nothing(
    engine: Engine, box: Outbox, any_broker: Broker
) -> None:
    """Written past `add`, by an app in another language; it is not tried again until it is mended."""
    poison = ["", "nonsense", json.dumps({**event(8), "data": {"notes": ["her secret"]}}), "[]"]
    with engine.begin() as db:
        for position, number in enumerate(range(0, 12, 3)):
            for one in range(number, number + 3):
                box.add(db, event(one))
            db.execute(box.table.insert().values(event=poison[position]))
    relay = Relay(engine, box.table, any_broker.url)
    relayed = relay.once()
    assert (relayed.published, relayed.refused) == (12, 4)
    assert [found.id for found in any_broker.events(12)] == ids(0, 12)
    status = relay.status()
    assert (status.waiting, status.oldest_age_s, status.refused, len(status.messages)) == (0, None, 4, 4)
    assert not any("secret" in message for _, message in status.messages)
    assert relay.once().refused == 0
    with engine.begin() as db:
        mended = db.execute(text("select id from caselog_outbox where event = 'nonsense'")).scalar_one()
        raw = json.dumps({**event(12), "specversion": "1.0", "source": "/app", "time": "2026-03-02T09:00:00Z"})
        db.execute(box.table.update().where(box.table.c.id == mended).values(event=raw, refused=None))
    assert relay.once().published == 1
    assert [found.id for found in any_broker.events(1)] == ["e-12"]


def test_a_row_that_is_committed_after_rows_with_greater_ids_is_not_passed_by(
    engine: Engine, box: Outbox, any_broker: Broker
) -> None:
    relay = Relay(engine, box.table, any_broker.url)
    with engine.begin() as slow:
        box.add(slow, event(0))
        add(engine, box, 1, 2)
        assert relay.once().published == 2
    assert relay.once().published == 1
    assert [found.id for found in any_broker.events(3)] == ["e-1", "e-2", "e-0"]


def test_while_the_broker_is_away_the_outbox_keeps_its_events_and_one_line_says_so(
    engine: Engine, box: Outbox, any_broker: Broker
) -> None:
    relay = Relay(engine, box.table, any_broker.url)
    any_broker.server.stop()
    add(engine, box, 0, 700)
    with pytest.raises(PublishError):
        relay.once()
    assert rows(engine) == 700
    with structlog.testing.capture_logs() as lines:
        thread = threading.Thread(target=relay.run)
        thread.start()
        eventually(lambda: lines, "the relay said that the broker is away")
        any_broker.server.start()
        eventually(lambda: rows(engine) == 0, "all is relayed")
        add(engine, box, 700, 300)
        eventually(lambda: rows(engine) == 0, "the rest is relayed too")
        relay.stop()
        thread.join(timeout=DEADLINE_S)
    assert not thread.is_alive()
    assert [line["event"] for line in lines] == ["the broker is away; the outbox keeps its events", "relaying"]
    found = [one.id for one in any_broker.events(1000)]
    assert list(dict.fromkeys(found)) == ids(0, 1000)


def test_a_relay_whose_connection_was_cut_goes_on(
    engine: Engine, box: Outbox, any_broker: Broker, empty_database_url: str
) -> None:
    relay = Relay(engine, box.table, any_broker.url)
    thread = threading.Thread(target=relay.run)
    thread.start()
    add(engine, box, 0, 10)
    eventually(lambda: rows(engine) == 0, "the first are relayed")
    with psycopg.connect(empty_database_url) as db:
        db.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and pid <> pg_backend_pid()"
        )
    engine.dispose()
    add(engine, box, 10, 10)
    eventually(lambda: rows(engine) == 0, "the others are relayed")
    relay.stop()
    thread.join(timeout=DEADLINE_S)
    assert not thread.is_alive()
    assert list(dict.fromkeys(one.id for one in any_broker.events(20))) == ids(0, 20)


def test_while_one_relay_leads_another_stands_by_and_takes_over(
    engine: Engine, box: Outbox, any_broker: Broker
) -> None:
    first, second = (Relay(engine, box.table, any_broker.url) for _ in range(2))
    threads = [threading.Thread(target=first.run), threading.Thread(target=second.run)]
    threads[0].start()
    add(engine, box, 0, 5)
    eventually(lambda: rows(engine) == 0, "the first relays")
    with pytest.raises(CaselogError, match="another relay leads"):
        Relay(engine, box.table, any_broker.url).once()
    with structlog.testing.capture_logs() as lines:
        threads[1].start()
        eventually(lambda: lines, "the second says that it stands by")
        first.stop()
        threads[0].join(timeout=DEADLINE_S)
        add(engine, box, 5, 5)
        eventually(lambda: rows(engine) == 0, "the second relays")
        second.stop()
        threads[1].join(timeout=DEADLINE_S)
    assert lines[0]["event"] == "another relay leads this outbox; standing by"
    assert [one.id for one in any_broker.events(10)] == ids(0, 10)


def test_a_relay_without_its_table_says_how_to_make_it(engine: Engine) -> None:
    elsewhere = Outbox(MetaData(), name="Other box", schema="app")
    with pytest.raises(CaselogError, match=r"app\.Other box.*--ddl"):
        Relay(engine, elsewhere.table, "redis+socket:///nowhere").run()


def test_a_session_that_turned_read_only_publishes_nothing_and_is_left(
    engine: Engine, box: Outbox, any_broker: Broker, empty_database_url: str
) -> None:
    """What it cannot delete it would publish again and again. Only sessions that are new may write afterwards."""
    add(engine, box, 0, 3)
    name = empty_database_url.partition("?")[0].rpartition("/")[2]
    own, others = make_engine(empty_database_url), make_engine(empty_database_url)
    relay = Relay(own, box.table, any_broker.url)
    relaying = threading.Thread(target=relay.run)
    with psycopg.connect(empty_database_url.replace(f"/{name}?", "/postgres?", 1), autocommit=True) as server:
        server.execute(f"alter database {name} set default_transaction_read_only = on".encode())
        try:
            with pytest.raises(CaselogError, match="read-only"):
                Relay(others, box.table, any_broker.url).once()
            with structlog.testing.capture_logs() as lines:
                relaying.start()
                eventually(lambda: [line for line in lines if "takes no writes" in line["event"]], "the relay says so")
            assert rows(engine) == 3
        finally:
            server.execute(f"alter database {name} reset default_transaction_read_only".encode())
    try:
        eventually(lambda: rows(engine) == 0, "the outbox is relayed")
        assert [one.id for one in any_broker.events(3)] == ids(0, 3)
        assert any_broker.status(with_age=False).ready == 0  # once, and not at every attempt
    finally:
        relay.stop()
        relaying.join()
        own.dispose()
        others.dispose()
