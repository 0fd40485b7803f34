"""A database that takes no writes for a while, as after a failover or by a setting."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import psycopg

from support.processes.pipeline import eventually


@contextmanager
def read_only_database(url: str) -> Iterator[None]:
    """Within, the sessions that there were are ended, and new ones are read-only; those stay so afterwards."""
    name = url.partition("?")[0].rpartition("/")[2]
    with psycopg.connect(url.replace(f"/{name}?", "/postgres?", 1), autocommit=True) as server:
        server.execute(f"alter database {name} set default_transaction_read_only = on".encode())
        try:
            server.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [name])
            yield
        finally:
            server.execute(f"alter database {name} reset default_transaction_read_only".encode())


@contextmanager
def lending_read_only_sessions(url: str, pooler_url: str, sessions: int) -> Iterator[None]:
    """Within, nothing is set any more, but all the pooler's sessions are from when new ones were to be read-only."""
    with read_only_database(url), ExitStack() as stack:

        def lends_one_more() -> bool:
            other = stack.enter_context(psycopg.connect(pooler_url, prepare_threshold=None))
            with suppress(psycopg.Error):  # one that was ended, which the pooler may not have noticed yet
                return other.execute("show transaction_read_only").fetchone() == ("on",)
            return False

        for _ in range(sessions):
            eventually(lends_one_more, "the pooler lends a session that is read-only")
    yield
