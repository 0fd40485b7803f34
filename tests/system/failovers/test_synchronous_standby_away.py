"""A synchronous standby that is away: commits wait without a word, and health says for what."""

from __future__ import annotations

from threading import Thread

import psycopg
from support.processes.installed import installed
from support.processes.pipeline import eventually
from support.servers.own_postgres import OwnPostgres


def test_commits_that_wait_for_a_standby_that_is_away_are_named(database_url: str, redis_url: str) -> None:
    with OwnPostgres(database_url, synchronous_commit="on") as server, installed(server.url, redis_url) as one:
        one.record("AB")
        assert one.check("replication").value == "no standby"
        server.execute("alter system set synchronous_standby_names = '*'", "select pg_reload_conf()")

        def commit() -> None:
            with psycopg.connect(server.url) as db:
                db.execute("create table waits ()")

        waiting = Thread(target=commit)
        waiting.start()
        try:

            def is_said() -> bool:
                found = one.check("replication")
                return found.warning and "commits wait for a synchronous standby" in found.value

            eventually(is_said, "the check replication warns")
            eventually(
                lambda: "synchronous standby" in str(one.check("recorder").hint), "the hint of the recorder does"
            )
        finally:
            server.execute("alter system reset synchronous_standby_names", "select pg_reload_conf()")
            waiting.join()
