"""A session on a standby: what it gives in place of an answer is told from a batch's own faults, and health says it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError
from support.processes.patience import DEADLINE_S
from support.processes.pipeline import eventually
from support.servers.standby import Standby

from caselog.schema.recording import store
from caselog.schema.sessions.connection import make_engine
from caselog.schema.sessions.leaving import why_left
from caselog.workers.health.checks import Health
from caselog.workers.servers.database_errors import DatabaseAway, translated
from caselog.workers.servers.locate import redis_py_url
from caselog.workers.settings import Settings

pytestmark = pytest.mark.slow
_LONG = text("select pg_sleep(300)")


def is_asked(standby: Engine) -> bool:
    with standby.connect() as db:
        found = db.execute(
            text("select 1 from pg_stat_activity where query = :it and state = 'active'"), {"it": str(_LONG)}
        )
        return found.first() is not None


@pytest.fixture
def standby(database_url: str) -> Iterator[Engine]:
    """An engine on a standby of this test's database."""
    with Standby(database_url) as server:
        engine = make_engine(server.url, connections=2)
        yield engine
        engine.dispose()


def test_what_a_standby_replays_in_our_way_costs_the_session_and_is_no_deadlock_of_ours(
    database_url: str, standby: Engine
) -> None:
    """It has the code of a serialization failure, for which a batch is tried again on the same session."""
    primary = make_engine(database_url)
    with primary.begin() as db:
        db.execute(text("create table t as select generate_series(1, 1000) as id"))

    def is_there() -> bool:
        with standby.begin() as db:
            return db.execute(text("select to_regclass('t') is not null")).scalar_one() is True

    eventually(is_there, "the standby has replayed it")
    with standby.connect() as db:
        db.execution_options(isolation_level="REPEATABLE READ")
        db.execute(text("select count(*) from t"))
        with ThreadPoolExecutor() as pool:
            # In a statement: of a session that does nothing, the driver may not read why it was ended.
            asked = pool.submit(db.execute, _LONG)
            eventually(lambda: is_asked(standby), "the statement runs")
            with primary.begin() as other:
                other.execute(text("delete from t"))
            with primary.connect().execution_options(isolation_level="AUTOCOMMIT") as other:
                other.execute(text("vacuum t"))
            with pytest.raises(DBAPIError) as failed:
                asked.result(DEADLINE_S)
    primary.dispose()
    assert failed.value.orig is not None
    assert getattr(failed.value.orig, "sqlstate", None) == "40001"
    assert "a standby" in str(why_left(failed.value.orig))
    assert failed.value.connection_invalidated
    with pytest.raises(DatabaseAway, match="a standby"), translated():
        raise failed.value


def test_a_batch_on_a_standby_waits_and_health_says_what_it_is(standby: Engine, redis_url: str) -> None:
    with pytest.raises(DatabaseAway, match="as after a failover"), translated(), standby.begin() as db:
        store.clock_and_ids(db, 1)
    with redis.Redis.from_url(redis_py_url(redis_url)) as client:
        found = Health(standby, redis_url, client, Settings()).check(["database"])["database"]
    assert (found.status, found.value.partition(";")[0]) == (False, "takes no writes: a standby")
    assert "target_session_attrs=read-write" in str(found.hint)
