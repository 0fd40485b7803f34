"""A command's connection to the database in force."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from shlex import quote
from typing import TYPE_CHECKING, Any

from caselog.events.phrases import count_of

if TYPE_CHECKING:
    from redis import Redis
    from sqlalchemy import Connection, Engine

    from caselog.schema.sessions.fencing import Fence
    from caselog.workers.continuity.counting import Counting
    from caselog.workers.continuity.losses import Losses
    from caselog.workers.settings import Settings


@contextmanager
def reading() -> Iterator[Connection]:
    """A connection whose statements all see the database as it is at the first of them.

    Of a list of servers one that Redis knows to be fenced off is passed over; one that is named alone is read as it is,
    also an old primary. Where Redis does not answer within a second or so, nobody knows of any.
    """
    from caselog.schema.sessions.connection import fence_of, make_engine
    from caselog.schema.sessions.database_url import driver_url, has_several_hosts
    from caselog.workers.servers.locate import find_database_url
    from caselog.workers.settings import load_settings

    settings = load_settings()
    url = find_database_url(settings)
    engine = make_engine(url, application="caselog command")
    if has_several_hosts(driver_url(url)):
        _learn(settings, fence_of(engine))
    try:
        with engine.connect() as db:
            yield db.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    finally:
        engine.dispose()


@contextmanager
def writing() -> Iterator[tuple[Settings, Engine]]:
    """The settings and the database in force, for what is done by hand and written down.

    A server that Redis knows to be fenced off is not written to, and Redis is told of one that it did not know; where
    Redis is away, nobody knows of any.
    """
    from caselog.schema.sessions.connection import fence_of, make_engine
    from caselog.workers.process import crash_points
    from caselog.workers.servers.locate import find_database_url
    from caselog.workers.settings import load_settings

    settings = load_settings()
    crash_points.arm(settings.crash_at)
    engine = make_engine(find_database_url(settings), application="caselog command")
    is_there = _learn(settings, fence_of(engine))
    try:
        yield settings, engine
    finally:
        if is_there:
            _tell(settings, fence_of(engine))
        engine.dispose()


@contextmanager
def losses() -> Iterator[tuple[Settings, Engine, Redis, Losses]]:
    """The settings, and what is missing of what was recorded; also on a server that others do not write to.

    Of a list that is one where no other gives a session.
    """
    from sqlalchemy.exc import DBAPIError

    from caselog.schema.sessions.connection import fence_of, make_engine
    from caselog.schema.sessions.fencing import OlderTimeline
    from caselog.workers.continuity.losses import Losses
    from caselog.workers.servers.locate import find_database_url
    from caselog.workers.settings import load_settings

    settings = load_settings()
    engine = make_engine(find_database_url(settings), application="caselog command")
    try:
        with redis_of(settings) as client:
            fence = fence_of(engine) if _learn(settings, fence_of(engine)) else None
            try:
                with engine.begin():
                    pass
            except DBAPIError as error:
                if not isinstance(error.orig, OlderTimeline):
                    raise
                engine.dispose()
                engine, fence = make_engine(find_database_url(settings), application="caselog command"), None
            yield settings, engine, client, Losses(engine, client, fence)
    finally:
        engine.dispose()


def known_fence(settings: Settings) -> Fence:
    """The timelines that Redis knows of, for who writes on connections of its own; of none where it is away."""
    from caselog.schema.sessions.fencing import Fence

    fence = Fence()
    _learn(settings, fence)
    return fence


def _learn(settings: Settings, fence: Fence) -> bool:
    """Have the fence know what Redis does; whether Redis answered."""
    from redis import RedisError

    from caselog.events.errors import SettingsError
    from caselog.workers.continuity.memory import read_memory

    with suppress(RedisError, SettingsError), redis_of(settings) as client:
        read_memory(client, fence)
        return True
    return False


def _tell(settings: Settings, fence: Fence) -> None:
    """Have Redis know which server this command met."""
    from redis import RedisError

    from caselog.workers.continuity.memory import tell_server

    with suppress(RedisError), redis_of(settings) as client:
        tell_server(client, fence)


def redis_of(settings: Settings) -> Redis:
    """A client that gives up soon. Raises `SettingsError` where no Redis is known."""
    from caselog.workers.servers.locate import find_redis_url
    from caselog.workers.servers.redis_client import impatient

    return impatient(find_redis_url(settings))


def counting_of(settings: Settings, engine: Engine) -> Counting | None:
    """What a command records is remembered, too; None where no Redis is known."""
    from caselog.events.errors import SettingsError
    from caselog.schema.sessions.connection import fence_of
    from caselog.workers.continuity.counting import Counting
    from caselog.workers.continuity.memory import Memory

    try:
        return Counting(Memory(redis_of(settings), fence_of(engine)))
    except SettingsError:
        return None


def known_case(db: Connection, reference: str) -> dict[str, Any]:
    """The case's columns by name. Raises `CaselogError` where there is no such case."""
    from caselog.events.errors import CaselogError
    from caselog.schema.operations.table_exports import get_case

    found = get_case(db, reference)
    if found is None:
        waits = waits_for(db, reference)
        hint = f". {waits}" if waits else " (caselog search finds parts of them), and no event waits for it"
        raise CaselogError(f"there is no case {reference!r}. References are exact{hint}")
    return found


def waits_for(db: Connection, reference: str) -> str | None:
    """That events wait for this case, since when, until when at most, and how to list them; None where none does."""
    from caselog.schema.operations.parked_queries import by_case
    from caselog.workers.rows.output import rfc3339
    from caselog.workers.settings import load_settings

    found = by_case(db, give_up_s=load_settings().parked_give_up_s, case=reference)
    if not found:
        return None
    [waited] = found
    many = count_of(waited.events, "event waits", "events wait")
    end = "tried again within seconds" if waited.is_there else f"given up from {rfc3339(waited.give_up_at)} on"
    return f"{many} for this case since {rfc3339(waited.since)} ({end}): caselog parked list --case {quote(reference)}"
