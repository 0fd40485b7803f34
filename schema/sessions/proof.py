"""Proof that a connection has a session of its own, for who needs one: verify, rebuild, relay and migrate.

Their temporary tables, locks and shared snapshots last from one transaction to the next. A pooler in transaction mode
lends another session for each, says nothing, and leaves to others what was left in the last one.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import text

from caselog.events.errors import CaselogError
from caselog.schema.sessions.connection import driver_of, make_engine
from caselog.schema.sessions.database_url import driver_url, has_several_hosts, of_one_host
from caselog.schema.sessions.fencing import Fence

# Two connections ask by turns which process of the server answers, each in a transaction of its own. With sessions of
# their own each always hears the same, and never the other's. A pooler gives the session that was given back last, or
# the next one of a round, or whichever others leave over: in this order none of these looks like that, since each
# connection asks twice in a row, and each asks right after the other.
_TURNS: Final = (0, 0, 1, 1, 0, 1, 1, 1, 0, 0, 0, 1)


class NoSession(CaselogError):
    """There is no session to be had at this URL."""


def prove_session(database_url: str, purpose: str, remedy: str = "", *, fence: Fence | None = None) -> str:
    """Returns where a connection keeps its session: the URL, and of a list of hosts that of the one that answered.

    Raises `NoSession`, in one line, and SQLAlchemy's errors. `purpose` is what needs it; `remedy` what to set in place
    of CASELOG_DATABASE_DIRECT_URL. By `fence` it is known which timelines there are: an old primary of a list is passed
    over, and for one that is named alone `OlderTimeline` is raised. It leaves nothing in any session. Takes two
    connections for a moment, and a dozen round trips.
    """
    engine = make_engine(database_url, application=f"caselog {purpose}", connections=2, fence=fence)
    heard: tuple[set[int], set[int]] = (set(), set())
    try:
        if fence is not None:
            with engine.begin():  # which server it is, is asked with each BEGIN
                pass
        with engine.connect() as one, engine.connect() as other:
            info = driver_of(one).info
            where = info.host, info.hostaddr, info.port
            one.rollback()
            both = [db.execution_options(isolation_level="AUTOCOMMIT") for db in (one, other)]
            for turn in _TURNS:
                heard[turn].add(both[turn].execute(text("select pg_backend_pid()")).scalar_one())
    finally:
        engine.dispose()
    if len(heard[0]) > 1 or len(heard[1]) > 1 or heard[0] & heard[1]:
        raise NoSession(
            f"caselog {purpose} needs a session of its own, and a pooler in transaction mode lends one for each "
            f"transaction. {remedy or 'Set CASELOG_DATABASE_DIRECT_URL to the PostgreSQL behind it'}"
        )
    return of_one_host(database_url, *where) if has_several_hosts(driver_url(database_url)) else database_url
