"""The connection: its errors may be logged; a transaction needs nothing of its session, and leaves one of no use."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import psycopg
import pytest
from sqlalchemy import Column, Connection, Engine, Integer, MetaData, Table, text
from sqlalchemy.exc import DBAPIError
from support.processes.pipeline import eventually
from support.servers.pgbouncer import PgBouncer
from support.servers.read_only import lending_read_only_sessions, read_only_database
from support.servers.standby import Standby

from caselog.schema.sessions import leaving
from caselog.schema.sessions.connection import driver_of, make_engine
from caselog.schema.sessions.leaving import why_left
from caselog.schema.sql.copy import Copy
from caselog.schema.sql.statement import Statement
from caselog.schema.verification.session import open_session


def test_an_error_says_the_statement_and_never_its_values(empty_database_url: str) -> None:
    """They hold notes and context: personal data."""
    engine = make_engine(empty_database_url)
    try:
        with engine.connect() as db, pytest.raises(DBAPIError) as failed:
            db.execute(text("select * from no_such_table where notes = :notes"), {"notes": "Anna's secret"})
        assert "no_such_table" in str(failed.value)
        assert "Anna" not in str(failed.value)
    finally:
        engine.dispose()


REFUSED = {
    "a row of another event": "insert into t values (2, 'Anna', 'x')",
    "a row that breaks a constraint": "insert into t values (3, 'Anna', null)",
    "a value of another type": "select cast(name as integer) from t",
    "JSON that is none": "select cast(name || '}' as jsonb) from t",
    "what a trigger says": "do $$ begin raise exception 'no' using detail = 'Anna', hint = 'Anna'; end $$",
}


@pytest.mark.parametrize("statement", REFUSED.values(), ids=REFUSED)
def test_an_error_quotes_no_row_and_no_value(empty_database_url: str, statement: str) -> None:
    """Not where it is caught, nor in a traceback, which has what led to it."""
    engine = make_engine(empty_database_url)
    try:
        with engine.connect() as db:
            db.execute(text("create table t (id int, name text unique, needed text not null)"))
            db.execute(text("insert into t values (1, 'Anna', 'x')"))
            with pytest.raises(DBAPIError) as failed:
                db.execute(text(statement))
        said = "".join(traceback.format_exception(failed.value)) + str(failed.value.orig) + str(failed.value)
        assert "Anna" not in said.replace(statement, "")
        assert str(failed.value.orig)
    finally:
        engine.dispose()


AS_WE_SAY: dict[str, str] = {
    "transaction_isolation": "read committed",
    "TimeZone": "UTC",
    "idle_in_transaction_session_timeout": "7s",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "jit": "off",
    "statement_timeout": "5s",
}
LEFT_BY_OTHERS = {
    "search_path": "pg_catalog",
    "statement_timeout": "9min",
    "lock_timeout": "9min",
    "timezone": "Asia/Tokyo",
    "synchronous_commit": "off",
    "default_transaction_isolation": "serializable",
    "enable_seqscan": "on",
    "jit": "on",
}


def settings_of(db: Connection, names: Iterable[str]) -> dict[str, str]:
    return {name: db.execute(text("select current_setting(:name)"), {"name": name}).scalar_one() for name in names}


def test_each_transaction_says_itself_what_it_needs_and_leaves_nothing_in_the_session(empty_database_url: str) -> None:
    """Whatever others left in the session that a pooler lends, and whoever has it next."""
    engine = make_engine(empty_database_url, connections=1, idle_s=7, by_index=True, statement_s=5)
    others = {"search_path": '"$user", public', "lock_timeout": "0", "synchronous_commit": settings_default(engine)}
    try:
        with engine.connect() as db:
            driver = driver_of(db)
            db.rollback()
            driver.autocommit = True
            for name, value in LEFT_BY_OTHERS.items():
                driver.execute(f"set {name} to '{value}'".encode())
            driver.autocommit = False
            assert settings_of(db, AS_WE_SAY) == AS_WE_SAY
            assert settings_of(db, others) == others
            db.rollback()
            left = driver.execute("select current_setting('jit'), current_setting('TimeZone')").fetchone()
            assert left == ("on", "Asia/Tokyo")
            driver.rollback()
    finally:
        engine.dispose()


def settings_default(engine: Engine) -> str:
    with engine.connect() as db:
        return str(db.execute(text("show synchronous_commit")).scalar_one())


def test_another_role_that_was_left_in_the_session_is_not_ours(empty_database_url: str) -> None:
    engine = make_engine(empty_database_url, connections=1)
    try:
        with engine.connect() as db:
            driver = driver_of(db)
            driver.execute("create role caselog_nobody")
            driver.execute("set role caselog_nobody")
            db.commit()
            assert db.execute(text("select current_user")).scalar_one() != "caselog_nobody"
            db.execute(text("drop role caselog_nobody"))
            db.commit()
    finally:
        engine.dispose()


def test_a_reader_of_one_snapshot_gets_one_that_is_read_only(empty_database_url: str) -> None:
    engine = make_engine(empty_database_url, connections=1)
    try:
        with engine.connect() as db:
            db.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            found = settings_of(db, ("transaction_isolation", "transaction_read_only", "jit"))
            assert found == {"transaction_isolation": "repeatable read", "transaction_read_only": "on", "jit": "off"}
    finally:
        engine.dispose()


def test_no_statement_is_prepared_however_often_it_comes(empty_database_url: str) -> None:
    engine = make_engine(empty_database_url, connections=1)
    try:
        with engine.connect() as db:
            for number in range(20):
                db.execute(text("select cast(:number as int)"), {"number": number})
                _ECHO.rows(db, number=number)
            assert db.execute(text("select count(*) from pg_prepared_statements")).scalar_one() == 0
    finally:
        engine.dispose()


_ECHO = Statement("select %(number)s::int")


_INSERT = Statement("insert into t values (%(id)s)")
_T = Table("t", MetaData(), Column("id", Integer))
_COPY = Copy(_T, ["id"])
WRITES: dict[str, Callable[[Connection], object]] = {
    "by SQLAlchemy": lambda db: db.execute(text("insert into t values (1)")),
    "by the driver": lambda db: _INSERT.run(db, id=1),
    "by COPY": lambda db: _COPY.insert(db, [(1,)]),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_session_that_turns_out_read_only_is_left_and_the_next_one_writes(
    empty_database_url: str, write: Callable[[Connection], object]
) -> None:
    """The error says why; no session is kept that only reads, though its server answers."""
    engine = make_engine(empty_database_url, connections=1)
    try:
        with engine.begin() as db:
            db.execute(text("create table t (id int)"))
        with read_only_database(empty_database_url):
            with engine.connect() as db, pytest.raises(DBAPIError, match="read-only, as after a failover") as failed:
                write(db)
            assert failed.value.connection_invalidated
            with engine.connect() as db:  # it is connected while new sessions are read-only
                assert db.execute(text("show transaction_read_only")).scalar_one() == "on"
                read_only_pid = db.execute(text("select pg_backend_pid()")).scalar_one()
        with engine.connect() as db, suppress(DBAPIError):
            write(db)
        with engine.begin() as db:
            write(db)
            assert db.execute(text("select pg_backend_pid()")).scalar_one() != read_only_pid
            assert db.execute(text("select count(*) from t")).scalar_one() == 1
    finally:
        engine.dispose()


def test_a_reader_exchanges_a_read_only_session_by_itself_and_not_at_every_use(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It writes nothing that could fail: else a status worker would ask an old session for ever whether all is well."""
    engine = make_engine(empty_database_url, connections=1)

    def look() -> tuple[int, str]:
        with engine.connect() as db:
            row = db.execute(text("select pg_backend_pid(), current_setting('transaction_read_only')")).one()
            return row[0], row[1]

    try:
        with read_only_database(empty_database_url):
            first = look()
            assert first[1] == "on"
            assert look() == first
        assert look() == first
        monkeypatch.setattr(leaving, "READ_ONLY_KEPT_S", 0.0)
        assert look()[1] == "off"
    finally:
        engine.dispose()


def test_a_session_that_the_server_ended_is_said_to_be_and_left(empty_database_url: str) -> None:
    engine = make_engine(empty_database_url, connections=1)
    try:
        with engine.connect() as db, pytest.raises(DBAPIError, match="the server ended this session") as failed:
            db.execute(text("select pg_terminate_backend(pg_backend_pid())"))
        assert failed.value.connection_invalidated
        with engine.connect() as db:
            assert db.execute(text("select 1")).scalar_one() == 1
    finally:
        engine.dispose()


def test_what_a_batch_brings_upon_itself_costs_no_session(empty_database_url: str) -> None:
    """Deadlocks, rows that are refused and serialization failures of a primary say nothing of the session."""
    engine = make_engine(empty_database_url, connections=2)
    try:
        with engine.begin() as db:
            db.execute(text("create table t (id int primary key, n int)"))
            db.execute(text("insert into t values (1, 1)"))
        with engine.connect() as db, engine.connect() as other:
            db.execution_options(isolation_level="REPEATABLE READ")
            db.execute(text("select * from t"))
            other.execute(text("update t set n = 2"))
            other.commit()
            with pytest.raises(DBAPIError) as failed:
                db.execute(text("update t set n = 3"))
            assert failed.value.orig is not None
            assert getattr(failed.value.orig, "sqlstate", None) == "40001"
            assert not failed.value.connection_invalidated
            assert why_left(failed.value.orig) is None
            with pytest.raises(DBAPIError) as refused:
                other.execute(text("insert into t values (1, 1)"))
            assert not refused.value.connection_invalidated
    finally:
        engine.dispose()


def test_a_statement_that_takes_too_long_is_cancelled_where_that_is_asked_for(empty_database_url: str) -> None:
    engine = make_engine(empty_database_url, connections=1, statement_s=0.05)
    try:
        with engine.connect() as db, pytest.raises(DBAPIError, match="statement timeout"):
            db.execute(text("select pg_sleep(30)"))
    finally:
        engine.dispose()


def test_a_poolers_session_that_others_left_read_only_befalls_nobody_once_it_was_left(
    empty_database_url: str, make_pooler: Callable[..., PgBouncer]
) -> None:
    """The pooler would lend it again: who comes next must not be refused for what somebody left in it."""
    engine = make_engine(make_pooler(sessions=1, database_url=empty_database_url).url, connections=1)
    try:
        with engine.begin() as db:
            db.execute(text("create table t (id int)"))
        with engine.connect() as db:
            driver = driver_of(db)
            db.rollback()
            driver.autocommit = True
            driver.execute("set default_transaction_read_only = on")
            driver.autocommit = False
        with engine.connect() as db, pytest.raises(DBAPIError, match="read-only"):
            db.execute(text("insert into t values (1)"))
        with engine.begin() as db:
            db.execute(text("insert into t values (1)"))
    finally:
        engine.dispose()


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_poolers_session_that_started_read_only_is_ended_by_who_could_not_write_in_it(
    empty_database_url: str, make_pooler: Callable[..., PgBouncer], write: Callable[[Connection], object]
) -> None:
    """It would stay so for as long as the pooler keeps it: `reset` gives back what it started with."""
    pooler = make_pooler(sessions=2, database_url=empty_database_url)
    engine = make_engine(pooler.url, connections=1)
    try:
        with engine.begin() as db:
            db.execute(text("create table t (id int)"))
        with lending_read_only_sessions(empty_database_url, pooler.url, 2):
            for _ in range(2):
                with engine.connect() as db, pytest.raises(DBAPIError, match="read-only"):
                    write(db)
            with engine.begin() as db:
                write(db)
    finally:
        engine.dispose()


def test_a_poolers_session_that_started_read_only_is_ended_by_who_only_reads_too(
    empty_database_url: str, make_pooler: Callable[..., PgBouncer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the check `database` would be red until the pooler is restarted."""
    monkeypatch.setattr(leaving, "READ_ONLY_KEPT_S", 0.0)
    pooler = make_pooler(sessions=2, database_url=empty_database_url)
    engine = make_engine(pooler.url, connections=1)

    def is_read_only() -> bool:
        with engine.connect() as db:
            return bool(db.execute(text("select current_setting('transaction_read_only') = 'on'")).scalar_one())

    try:
        assert not is_read_only()
        with lending_read_only_sessions(empty_database_url, pooler.url, 2):
            eventually(lambda: not is_read_only(), "it has a session that writes")
    finally:
        engine.dispose()


def test_a_poolers_session_of_a_standby_is_not_ended_as_it_writes_once_that_is_promoted(
    empty_database_url: str, make_pooler: Callable[..., PgBouncer]
) -> None:
    with psycopg.connect(empty_database_url) as db:
        db.execute("create table t (id int)")
    with Standby(empty_database_url) as standby:
        pooler = make_pooler(sessions=1, database_url=standby.url)
        engine = make_engine(pooler.url, connections=1)
        try:
            pids = set()
            for _ in range(2):
                with engine.connect() as db:
                    pids.add(db.execute(text("select pg_backend_pid()")).scalar_one())
                    with pytest.raises(DBAPIError, match="read-only"):
                        db.execute(text("insert into t values (1)"))
            assert len(pids) == 1
        finally:
            engine.dispose()
            pooler.close()


SAID = {
    "text": "Zoë \N{EM DASH} 東京",
    "moment": datetime(2026, 3, 4, 5, 6, 7, 89, UTC),
    "pause": timedelta(days=-1, seconds=3),
}
NUMBERS = {"number": 0.1 + 0.2, "none": [None, "NULL"]}
SET_BY_OTHERS = {
    "client_encoding": "latin1",
    "datestyle": "German, DMY",
    "intervalstyle": "sql_standard",
    "extra_float_digits": "-5",
    "array_nulls": "off",
    "standard_conforming_strings": "off",
    "timezone": "Asia/Tokyo",
}
OPTIONS = "".join(f" -c {name}={value.replace(' ', '')}" for name, value in SET_BY_OTHERS.items())


def in_the_url(url: str, _: pytest.MonkeyPatch) -> str:
    return f"{url}&client_encoding=latin1&options={quote(OPTIONS)}"


def in_the_environment(url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("PGCLIENTENCODING", "latin1")
    monkeypatch.setenv("PGDATESTYLE", "German")
    monkeypatch.setenv("PGOPTIONS", OPTIONS)
    return url


def in_the_database(url: str, _: pytest.MonkeyPatch) -> str:
    name = url.partition("?")[0].rpartition("/")[2]
    with psycopg.connect(url, autocommit=True) as db:
        for setting, value in SET_BY_OTHERS.items():
            db.execute(f"alter database {name} set {setting} = '{value}'".encode())
    return url


WAYS = [in_the_url, in_the_environment, in_the_database]


def assert_nothing_is_changed_on_the_way(url: str) -> None:
    engine = make_engine(url, connections=1)
    values = SAID | NUMBERS
    columns = r"cast(:number as float8) as number, cast(:none as text[]) as none, '\w' as letters"
    query = f"select cast(:text as text) as text, cast(:moment as timestamptz) as moment, :pause as pause, {columns}"
    try:
        for _ in range(2):
            with engine.begin() as db:
                found = dict(db.execute(text(query), values).mappings().one())
                assert found == values | {"letters": r"\w"}
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as db:
            echoed = db.execute(text("select cast(:text as text)"), {"text": SAID["text"]}).scalar_one()
            assert echoed == SAID["text"]
    finally:
        engine.dispose()


@pytest.mark.parametrize("others_say", WAYS)
def test_what_is_written_and_read_is_the_same_whatever_others_say_of_encoding_and_styles(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch, others_say: Callable[[str, pytest.MonkeyPatch], str]
) -> None:
    """Else what is good becomes a dead letter: a letter that Latin 1 has not, a moment that the driver cannot read."""
    assert_nothing_is_changed_on_the_way(others_say(empty_database_url, monkeypatch))


def test_so_it_is_through_a_pooler(
    empty_database_url: str, make_pooler: Callable[..., PgBouncer], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_the_database(empty_database_url, monkeypatch)
    monkeypatch.setenv("PGCLIENTENCODING", "latin1")
    pooler = make_pooler(sessions=1, database_url=empty_database_url)
    assert_nothing_is_changed_on_the_way(f"{pooler.url}&client_encoding=latin1")
    with psycopg.connect(pooler.url, autocommit=True, prepare_threshold=None) as other:
        for name, value in SET_BY_OTHERS.items():
            other.execute(f"set {name} to '{value}'".encode())
    assert_nothing_is_changed_on_the_way(pooler.url)


@pytest.mark.parametrize("others_say", WAYS)
def test_a_proof_reads_the_same_whatever_others_say_of_encoding_and_styles(
    database_url: str, monkeypatch: pytest.MonkeyPatch, others_say: Callable[[str, pytest.MonkeyPatch], str]
) -> None:
    with open_session(others_say(database_url, monkeypatch)) as session:
        query = "select %(text)s::text, %(moment)s::timestamptz, %(pause)s::interval"
        assert session.execute(query, SAID).fetchone() == tuple(SAID.values())
