"""The tests' PostgreSQL lets in who runs it; other programs of a test's own run as the owner of its socket."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg

from caselog.workers.servers.child_process import Identity, as_user

_WHOEVER = "# whoever reaches the socket\nlocal all all trust\nlocal replication all trust\n"


def owner_of(database_url: str) -> tuple[int, int]:
    """The user and the group as which that server runs, by its socket."""
    (sockets,) = parse_qs(urlsplit(database_url).query)["host"]
    found = Path(sockets, ".s.PGSQL.5432").stat()
    return found.st_uid, found.st_gid


def as_owner(database_url: str) -> Identity:
    """How a process is started as that user, where that is another one than ours."""
    user_id, group_id = owner_of(database_url)
    return as_user(None if user_id == os.getuid() else user_id, group_id)


@contextmanager
def asking_nobody(database_url: str) -> Iterator[None]:
    """Within, whoever reaches the server's socket may connect: none but its owner and root can."""
    rules = Path(_asked(database_url, "show hba_file"))
    said = rules.read_text()
    rules.write_text(_WHOEVER + said)
    try:
        _asked(database_url, "select pg_reload_conf()")
        yield
    finally:
        rules.write_text(said)
        _asked(database_url, "select pg_reload_conf()")


def _asked(database_url: str, query: str) -> str:
    with psycopg.connect(database_url, autocommit=True) as db:
        row = db.execute(query.encode()).fetchone()
        assert row is not None
        return str(row[0])
