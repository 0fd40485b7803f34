"""Which server has a transaction is asked in the round trip of its BEGIN; one on a lower timeline gets none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import psycopg
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError
from support.processes.pipeline import eventually
from support.servers.open_server import asking_nobody
from support.servers.own_postgres import OwnPostgres
from support.servers.pgbouncer import PgBouncer

from caselog.schema.sessions.connection import fence_of, make_engine, server_of
from caselog.schema.sessions.fencing import Fence, OlderTimeline, Server
from caselog.workers.servers.database_errors import DatabaseAway, translated


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    one = make_engine(database_url, connections=1)
    yield one
    one.dispose()


def test_each_transaction_knows_its_server(engine: Engine) -> None:
    with engine.begin() as db:
        server = server_of(db)
        identifier = db.execute(text("select system_identifier from pg_control_system()")).scalar_one()
    assert server == Server(identifier, 1)


def test_a_lower_timeline_gets_no_transaction_and_its_session_is_left(engine: Engine) -> None:
    with engine.begin() as db:
        server = server_of(db)
        pid = db.execute(text("select pg_backend_pid()")).scalar_one()
    assert server is not None
    fence_of(engine).learn(Server(server.system, 2))
    with pytest.raises(DBAPIError) as failed, engine.begin():
        pass
    assert isinstance(failed.value.orig, OlderTimeline)
    assert failed.value.connection_invalidated
    assert "is left for another" in str(failed.value)
    with pytest.raises(DatabaseAway, match="old primary"), translated(), engine.begin():
        pass
    fence_of(engine).learn(server, acknowledged=1)
    with engine.begin() as db:
        assert db.execute(text("select pg_backend_pid()")).scalar_one() != pid


def test_a_poolers_session_of_a_lower_timeline_is_ended(
    database_url: str, make_pooler: Callable[..., PgBouncer]
) -> None:
    """The pooler would lend it again, also when a new one would lead to the new primary."""
    engine = make_engine(make_pooler(sessions=1).url, connections=1)
    with engine.begin() as db:
        server = server_of(db)
        pid = db.execute(text("select pg_backend_pid()")).scalar_one()
    assert server is not None
    fence_of(engine).learn(Server(server.system, 2))
    with pytest.raises(DBAPIError, match="old primary"), engine.begin():
        pass
    engine.dispose()
    with psycopg.connect(database_url) as db:
        query = "select count(*) from pg_stat_activity where pid = %s"
        eventually(lambda: db.execute(query, [pid]).fetchone() == (0,), "it is ended")


def test_engines_that_share_a_fence_learn_from_each_other(database_url: str) -> None:
    fence = Fence()
    one, other = (make_engine(database_url, fence=fence) for _ in range(2))
    with one.begin() as db:
        server = server_of(db)
    assert server is not None
    fence_of(one).learn(Server(server.system, 3))
    with pytest.raises(DBAPIError, match="timeline 3"), other.begin():
        pass
    one.dispose()
    other.dispose()


def test_of_a_list_the_next_server_is_taken_where_the_first_is_an_old_primary(database_url: str) -> None:
    """Both take writes: `target_session_attrs` cannot tell them apart."""
    with (
        asking_nobody(database_url),
        OwnPostgres(database_url) as old,
        OwnPostgres(database_url, of=old) as new,
    ):
        engine = make_engine(f"postgresql://{old.user}@{old.address},{new.address}/{old.database}", connections=1)
        try:
            with engine.begin() as db:
                before = server_of(db)
            new.promote()
            assert before is not None
            assert before.timeline == 1
            fence_of(engine).learn(Server(before.system, 2))
            with pytest.raises(DBAPIError, match="old primary"), engine.begin():
                pass
            for _ in range(2):
                with engine.begin() as db:
                    assert server_of(db) == Server(before.system, 2)
        finally:
            engine.dispose()


def test_where_the_right_to_ask_was_taken_away_there_is_no_fence_and_all_else_goes_on(database_url: str) -> None:
    parts = urlsplit(database_url)
    guarded = parts._replace(netloc=f"caselog_guarded@{parts.netloc.rpartition('@')[2]}").geturl()
    with asking_nobody(database_url), psycopg.connect(database_url, autocommit=True) as db:
        db.execute("create role caselog_guarded login")
        db.execute("revoke execute on function pg_control_system() from public")
        engine = make_engine(guarded, connections=1)
        try:
            for _ in range(2):
                with engine.begin() as asked:
                    assert server_of(asked) is None
                    assert asked.execute(text("select current_user")).scalar_one() == "caselog_guarded"
        finally:
            engine.dispose()
            db.execute("drop role caselog_guarded")
