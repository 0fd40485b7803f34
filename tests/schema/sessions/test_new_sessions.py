"""What a check reads of the server is what a worker that starts now would get, not what an old session started with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import psycopg
import pytest
from sqlalchemy import Engine
from support.servers.pgbouncer import PgBouncer

from caselog.schema.sessions import connection
from caselog.schema.sessions.connection import make_engine
from caselog.schema.sessions.replication import find_standbys
from caselog.schema.sessions.server import ServerState, ask_server


@contextmanager
def asking(url: str) -> Iterator[Engine]:
    """An engine of one session, which is an old one by then."""
    engine = make_engine(url, connections=1)
    try:
        asked(engine)
        yield engine
    finally:
        engine.dispose()


def asked(engine: Engine) -> ServerState:
    with engine.begin() as db:
        return ask_server(db)


def new_value(url: str, name: str) -> str:
    """What the server gives a session that starts now."""
    with psycopg.connect(url) as db:
        row = db.execute(f"show {name}".encode()).fetchone()
        assert row is not None
        return str(row[0])


def name_and_role(url: str) -> tuple[str, str]:
    with psycopg.connect(url) as db:
        row = db.execute("select current_database(), session_user::text").fetchone()
        assert row is not None
        return row[0], row[1]


@pytest.fixture
def change(database_url: str) -> Iterator[Callable[[str, str], None]]:
    """Sets something for a place (`{database}` and `{role}` stand for ours), and undoes it at the end of the test."""
    database, role = name_and_role(database_url)
    with psycopg.connect(database_url, autocommit=True) as db, ExitStack() as undoing:

        def do(place: str, what: str) -> None:
            where = place.format(database=database, role=role)
            db.execute(f"alter {where} {what}".encode())
            name = what.split()[1]
            undoing.callback(lambda: db.execute(f"alter {where} reset {name}".encode()))

        yield do


PLACES = ("role all", "database {database}", "role {role}", "role {role} in database {database}")


def test_what_is_set_for_all_database_or_role_is_seen_by_a_session_that_is_older(
    database_url: str, change: Callable[[str, str], None]
) -> None:
    """The narrower place counts, as the server has it; however a value was written."""
    with asking(database_url) as engine:
        before = asked(engine).synchronous_commit
        for place, value in zip(PLACES, ("local", "TRUE", "remote_write", "remote_apply"), strict=True):
            change(place, f"set synchronous_commit = {value}")
            assert asked(engine).synchronous_commit == new_value(database_url, "synchronous_commit") != before
        for place in reversed(PLACES):
            change(place, "reset synchronous_commit")
            assert asked(engine).synchronous_commit == new_value(database_url, "synchronous_commit")
        assert asked(engine).synchronous_commit == before


def test_what_the_url_says_counts_more(database_url: str, change: Callable[[str, str], None]) -> None:
    with asking(f"{database_url}&options=-csynchronous_commit%3Dremote_write") as engine:
        change("role {role} in database {database}", "set synchronous_commit = local")
        assert asked(engine).synchronous_commit == "remote_write"


def test_behind_a_pooler_it_is_seen_as_well(
    make_pooler: Callable[..., PgBouncer], change: Callable[[str, str], None]
) -> None:
    with asking(make_pooler(sessions=1).url) as engine:
        change("database {database}", "set synchronous_commit = local")
        assert asked(engine).synchronous_commit == "local"


def test_a_session_that_started_with_what_was_reset_since_is_exchanged_in_time(
    database_url: str, change: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can not know what the server itself says; a recorder that has such a one goes on committing with it."""
    before = new_value(database_url, "synchronous_commit")
    change("database {database}", "set synchronous_commit = remote_apply")
    with asking(database_url) as engine:
        change("database {database}", "reset synchronous_commit")
        assert asked(engine).synchronous_commit == "remote_apply"
    monkeypatch.setattr(connection, "SESSION_S", 0)
    change("database {database}", "set synchronous_commit = remote_apply")
    with asking(database_url) as engine:
        change("database {database}", "reset synchronous_commit")
        assert asked(engine).synchronous_commit == before


def test_a_database_whose_new_sessions_are_read_only_is(database_url: str, change: Callable[[str, str], None]) -> None:
    """A recorder that starts now could record nothing."""
    with asking(database_url) as engine:
        assert not asked(engine).is_read_only
        change("database {database}", "set default_transaction_read_only = 1")
        assert asked(engine).is_read_only
        change("database {database}", "reset default_transaction_read_only")
        assert not asked(engine).is_read_only


def test_whether_commits_wait_for_a_standby_is_asked_of_a_new_session_too(
    database_url: str, change: Callable[[str, str], None]
) -> None:
    with psycopg.connect(database_url, autocommit=True) as db, asking(database_url) as engine:
        db.execute("alter system set synchronous_standby_names = '*'")
        try:
            db.execute("select pg_reload_conf()")
            change("database {database}", "set synchronous_commit = on")
            with engine.begin() as reader:
                assert find_standbys(reader).expects_synchronous
            change("database {database}", "set synchronous_commit = local")
            with engine.begin() as reader:
                assert not find_standbys(reader).expects_synchronous
        finally:
            db.execute("alter system reset synchronous_standby_names")
            db.execute("select pg_reload_conf()")
