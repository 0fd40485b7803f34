"""Waiting until all that was published before is recorded and aggregated, or set aside."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import redis
from kombu import Connection
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from caselog.events.errors import CaselogError
from caselog.events.phrases import count_of, sentence
from caselog.events.transport.broker import (
    EVENTS_QUEUE,
    HELD,
    REMOVED,
    connect,
    high_water,
    is_handled,
    open_channel,
    queue_status,
)
from caselog.events.transport.refusals import refusal
from caselog.schema.operations.pause import find_pause
from caselog.schema.recording import parking
from caselog.schema.reports import outbox
from caselog.schema.sessions.connection import fence_of, make_engine
from caselog.workers.continuity.memory import read_memory
from caselog.workers.health.queues import removed_statuses
from caselog.workers.health.sampler import AWAY
from caselog.workers.process.bounded_call import ANSWER_S, Asked, bounded
from caselog.workers.servers.locate import Services
from caselog.workers.telemetry.heartbeat import read_beats

POLL_S: Final = 0.05
# After a server was lost.
AGAIN_S: Final = 0.5
# A recorder writes its idle beat this long, at most, after it found its hands empty: a message that RabbitMQ handed
# out in between was not seen.
LOOKED_BEFORE_S: Final = 0.1
# What is still open is asked for when the time is over; who does not even answer that is given up then.
LATE_S: Final = 0.5


class NotRecorded(CaselogError):
    """The time was over before everything was recorded."""


def wait_until_recorded(services: Services, client: redis.Redis, timeout_s: float) -> int:
    """Block until it is so. Returns how many events are parked for cases that do not exist.

    Raises `NotRecorded` after `timeout_s`, saying what is still open; `NoAnswerInTime` where a server is silent, after
    `ANSWER_S` where it was so from the start; and what drivers raise where one is away.
    """
    deadline = time.monotonic() + timeout_s
    engine = make_engine(services.database_url, application="caselog wait", statement_s=ANSWER_S)
    asked = Asked()
    try:
        first_s = min(timeout_s, ANSWER_S)
        bounded(
            lambda: _greet(services, client, engine, asked),
            first_s,
            lambda: f"{asked.server} has not answered within {first_s:g} s: see caselog ping",
        )
        return bounded(
            lambda: _wait_on(services, client, engine, deadline, asked),
            max(0.0, deadline - time.monotonic()) + LATE_S,
            lambda: f"not everything is recorded in time: {asked.server} has not answered. See: caselog ping",
        )
    finally:
        engine.dispose()


def _is_lost(error: Exception) -> bool:
    """Whether a server is away, and not refusing, or too slow with one statement."""
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or getattr(error.orig, "sqlstate", "") is None
    return not isinstance(error, SQLAlchemyError) and refusal(error) is None


def _greet(services: Services, client: redis.Redis, engine: Engine, asked: Asked) -> None:
    """Raises where a server is away, before anything is waited for."""
    asked.server = "Redis"
    read_memory(client, fence_of(engine))  # an old primary has recorded nothing of what is waited for
    asked.server = "PostgreSQL"
    engine.connect().close()
    asked.server = "the broker"
    with connect(services.broker_url) as connection:
        open_channel(connection).close()


def _wait_on(services: Services, client: redis.Redis, engine: Engine, deadline: float, asked: Asked) -> int:
    """As `_wait`; what goes away meanwhile may come back, or another server of its list take its place."""
    while True:
        try:
            return _wait(services, client, engine, deadline, asked)
        except AWAY as error:
            if not _is_lost(error) or time.monotonic() + AGAIN_S >= deadline:
                raise
        time.sleep(AGAIN_S)


def _wait(services: Services, client: redis.Redis, engine: Engine, deadline: float, asked: Asked) -> int:
    asked.server = "the broker"
    with connect(services.broker_url) as connection:
        _until(_queue_handled(connection, client), deadline, lambda: _queue_state(connection, engine))
    asked.server = "PostgreSQL"
    _until(lambda: _unparked(engine), deadline, lambda: "parked events wait to be tried again: do the tasks run?")
    with engine.connect() as db:
        mark = outbox.mark(db)
    _until(lambda: _aggregated(engine, mark), deadline, lambda: "the reports are behind: do the tasks run?")
    with engine.connect() as db:
        return parking.count_parked(db).waiting


def _queue_handled(connection: Connection, client: redis.Redis) -> Callable[[], bool]:
    queue = EVENTS_QUEUE.name
    mark = high_water(connection, queue)
    if mark is not None:
        return lambda: is_handled(connection, queue, mark)
    # RabbitMQ tells what is ready, not what recorders hold. Once nothing is ready, each consumer must have found its
    # hands empty since.
    empty_since: float | None = None

    def handled() -> bool:
        nonlocal empty_since
        status = queue_status(connection, queue, with_age=False)
        if status.ready or any(queue_status(connection, name, with_age=False).ready for name in (REMOVED, HELD)):
            empty_since = None
            return False
        now = time.monotonic()
        empty_since = now if empty_since is None else empty_since
        idle = [beat for beat in read_beats(client) if beat.role == "recorder" and beat.idle]
        return (
            status.consumers > 0
            and sum(beat.age_s < now - empty_since - LOOKED_BEFORE_S for beat in idle) >= status.consumers
        )

    return handled


def _queue_state(connection: Connection, engine: Engine) -> str:
    with engine.connect() as db:
        pause = find_pause(db)
    if pause is not None:
        return f"the recorders are {sentence(pause.in_words())} To go on: caselog resume"
    status = queue_status(connection, EVENTS_QUEUE.name, with_age=False)
    unacked = "" if status.unacked is None else f", {status.unacked:,} being recorded"
    advice = "" if status.consumers else "; no recorder runs: caselog worker recorder, or caselog up"
    removed = [status.ready for status in removed_statuses(connection)]
    also = f", {sum(removed):,} more came back from a policy of the broker's" if any(removed) else ""
    return f"{count_of(status.ready, 'message is', 'messages are')} ready{unacked}{also}{advice}"


def _unparked(engine: Engine) -> bool:
    """No event is parked whose case is there by now."""
    with engine.connect() as db:
        return parking.count_parked(db).ready == 0


def _aggregated(engine: Engine, mark: int) -> bool:
    with engine.connect() as db:
        return not outbox.holds(db, mark)


def _until(done: Callable[[], bool], deadline: float, state: Callable[[], str]) -> None:
    while not done():
        if time.monotonic() >= deadline:
            raise NotRecorded(f"not everything is recorded in time: {state()}")
        time.sleep(POLL_S)  # polls a condition; the deadline bounds it
