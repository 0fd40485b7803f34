"""What the PostgreSQL that answers says of itself: whether it takes writes, and whether it keeps them."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import psycopg
from psycopg import sql
from sqlalchemy import Connection, Engine, event, text

from caselog.schema.sessions.connection import driver_of


def in_a_new_session(name: str) -> str:
    """SQL: what a session of this role in this database would start with now. The one that asks may be an older one.

    What its own URL says counts, then what is set for this role in this database, the role, the database, or all. Only
    a session tells what the server itself says, and one that hides it, because it started with what was undone since,
    is exchanged before long (`caselog.schema.sessions.connection.SESSION_S`); so are those of the workers that still
    have that.
    """
    # `set_config`, for this transaction alone, spells a value as the server does: somebody may have written FALSE.
    return f"""
        (select set_config(name, case when source = 'client' then reset_val else coalesce(
            (select substr(one, length(name) + 2) from pg_db_role_setting, unnest(setconfig) as one
             where starts_with(one, name || '=')
               and setdatabase in (0, (select oid from pg_database where datname = current_database()))
               and setrole in (0, (select oid from pg_roles where rolname = session_user))
             order by setrole = 0, setdatabase = 0 limit 1), reset_val) end, true)
         from pg_settings where name = '{name}')
    """  # noqa: S608 - a name of our own


class ServerState(msgspec.Struct, frozen=True, kw_only=True):
    """As of one transaction. `is_pooled`: something stands between that answers in the server's place."""

    is_standby: bool
    is_read_only: bool
    is_pooled: bool
    fsync: str
    synchronous_commit: str
    full_page_writes: str


def ask_server(db: Connection) -> ServerState:
    """Ask it, in the transaction in hand, which is to write nothing. One round trip; no table of ours is read."""
    row = db.execute(
        text(
            f"""
            select pg_is_in_recovery() as is_standby,
                   'on' in (current_setting('transaction_read_only'),
                            {in_a_new_session("default_transaction_read_only")}) as is_read_only,
                   pg_backend_pid() as pid, current_setting('fsync') as fsync,
                   {in_a_new_session("synchronous_commit")} as synchronous_commit,
                   current_setting('full_page_writes') as full_page_writes
            """
        )
    ).one()
    # A pooler tells each client a number of its own, by which it may cancel a statement.
    is_pooled = driver_of(db).info.backend_pid != row.pid
    return ServerState(
        is_standby=row.is_standby,
        is_read_only=row.is_read_only,
        is_pooled=is_pooled,
        fsync=row.fsync,
        synchronous_commit=row.synchronous_commit,
        full_page_writes=row.full_page_writes,
    )


def when_first_connected(engine: Engine, tell: Callable[[bool], object]) -> None:
    """Have it told, once, whether the first session that this engine connects is through a pooler. Connects nothing."""

    @event.listens_for(engine, "connect", once=True)
    def _tell(driver, _record) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001 - the driver's own
        driver.autocommit = True
        row = driver.execute("select pg_backend_pid()").fetchone()
        driver.autocommit = False
        tell(row[0] != driver.info.backend_pid)


def make_database(url: str, name: str) -> None:
    """Make the database on the server of `url`, which is another one's; nothing where it is there already."""
    with psycopg.connect(url, autocommit=True) as connection:
        if not connection.execute("select from pg_database where datname = %s", [name]).fetchall():
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
