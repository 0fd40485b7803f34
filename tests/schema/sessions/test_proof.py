"""Who needs a session of its own finds out whether it has one."""

from __future__ import annotations

import threading
from collections.abc import Callable

import psycopg
import pytest
from sqlalchemy.exc import OperationalError
from support.servers.pgbouncer import PgBouncer

from caselog.schema.sessions.connection import make_engine
from caselog.schema.sessions.proof import NoSession, prove_session
from caselog.schema.sessions.server import ask_server

Pooler = Callable[..., PgBouncer]


def test_a_connection_of_its_own_is_a_session(database_url: str) -> None:
    prove_session(database_url, "verify")


def test_a_pooler_that_lends_a_session_for_as_long_as_one_is_connected_gives_one_too(make_pooler: Pooler) -> None:
    prove_session(make_pooler(mode="session").url, "verify")


@pytest.mark.parametrize("sessions", [1, 2, 4])
@pytest.mark.parametrize("by_turns", ["0", "1"])
def test_a_pooler_in_transaction_mode_is_refused_in_one_line_however_idle_it_is(
    make_pooler: Pooler, sessions: int, by_turns: str
) -> None:
    """With one session in its pool it always gives the same; with two by turns, each connection might get its own."""
    pooler = make_pooler(sessions=sessions, server_round_robin=by_turns)
    with psycopg.connect(pooler.url, autocommit=True) as first, psycopg.connect(pooler.url, autocommit=True) as second:
        for other in (first, second):  # so that there are several to give
            other.execute("select pg_sleep(0)")
    with pytest.raises(NoSession, match="CASELOG_DATABASE_DIRECT_URL") as refused:
        prove_session(pooler.url, "rebuild")
    assert "caselog rebuild needs a session" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_it_is_refused_under_load_as_well(make_pooler: Pooler) -> None:
    pooler = make_pooler(sessions=2)
    stopping = threading.Event()

    def load() -> None:
        with psycopg.connect(pooler.url, autocommit=True, prepare_threshold=None) as other:
            while not stopping.is_set():
                other.execute("select 1")

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            with pytest.raises(NoSession):
                prove_session(pooler.url, "verify")
    finally:
        stopping.set()
        for thread in threads:
            thread.join()


def test_without_a_server_it_says_so_and_nothing_else() -> None:
    with pytest.raises(OperationalError):
        prove_session("postgresql://caselog@127.0.0.1:9/caselog", "verify")


def test_a_pooler_is_known_by_the_number_that_it_gives_in_the_servers_place(
    database_url: str, make_pooler: Pooler
) -> None:
    for url, is_pooled in ((database_url, False), (make_pooler().url, True)):
        engine = make_engine(url)
        with engine.begin() as db:
            assert ask_server(db).is_pooled is is_pooled
        engine.dispose()
