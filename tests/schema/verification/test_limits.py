"""What reads or changes the whole log is not ended by who limits statements."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import sql
from support.oracle.stored import count
from support.processes.pipeline import Pipeline

from caselog.schema.verification.session import open_session

LIMITED = ("statement_timeout", "lock_timeout", "idle_session_timeout", "idle_in_transaction_session_timeout")


@pytest.fixture
def limited(database_url: str) -> str:
    """A database whose sessions are limited, as a cautious administrator does it."""
    with psycopg.connect(database_url, autocommit=True) as db:
        for name in LIMITED:
            db.execute(sql.SQL("alter database {} set {} = '1h'").format(sql.Identifier(db.info.dbname), sql.SQL(name)))
    return database_url


def test_a_proof_has_no_limits_and_its_settings_remain(limited: str) -> None:
    with psycopg.connect(limited) as db:
        assert db.execute("show statement_timeout").fetchone() == ("1h",)
    with open_session(limited) as session:
        for name in LIMITED:
            assert session.execute(f"show {name}".encode()).fetchone() == ("0",), name


def test_verify_rebuild_and_migrate_work_where_statements_are_limited(redis_pipeline: Pipeline) -> None:
    """A limit of a millisecond ends nearly everything that does not lift it."""
    url = redis_pipeline.database_url
    redis_pipeline.run("migrate", "--back-to", "0010")
    with psycopg.connect(url, autocommit=True) as db:
        name = sql.Identifier(db.info.dbname)
        db.execute(sql.SQL("alter database {} set statement_timeout = '30ms'").format(name))
    try:
        for command in (["migrate", "--rebuild"], ["verify"], ["rebuild"]):
            done = redis_pipeline.run(*command)
            assert b"Traceback" not in done.stderr
            assert done.returncode == 0, done.stderr
    finally:
        with psycopg.connect(url, autocommit=True) as db:
            db.execute(sql.SQL("alter database {} reset statement_timeout").format(name))
    assert count(url, "log") == 0
