"""Waiting until all that was published before is recorded and aggregated, or set aside."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import redis
from kombu import Connection
from sqlalchemy import Engine

from events.broker import EVENTS_QUEUE, connect, high_water, is_handled, queue_status
from events.errors import CaselogError
from schema import parking
from schema.connection import make_engine
from schema.pausing import find_pause
from schema.reports import outbox
from workers.heartbeat import read_beats
from workers.services import Services

POLL_S: Final = 0.05
# A recorder writes its idle beat this long, at most, after it found its hands empty: a message that RabbitMQ handed
# out in between was not seen.
LOOKED_BEFORE_S: Final = 0.1


class NotRecorded(CaselogError):
    """The time was over before everything was recorded."""


def wait_until_recorded(services: Services, client: redis.Redis, timeout_s: float) -> int:
    """Block until it is so. Returns how many events are parked for cases that do not exist.

    Raises `NotRecorded` after `timeout_s`, saying what is still open.
    """
    deadline = time.monotonic() + timeout_s
    engine = make_engine(services.database_url, application="caselog wait")
    try:
        with connect(services.broker_url) as connection:
            _until(_queue_handled(connection, client), deadline, lambda: _queue_state(connection, engine))
        _until(lambda: _unparked(engine), deadline, lambda: "parked events wait to be tried again: do the tasks run?")
        with engine.connect() as db:
            mark = outbox.mark(db)
        _until(lambda: _aggregated(engine, mark), deadline, lambda: "the reports are behind: do the tasks run?")
        with engine.connect() as db:
            return parking.count_parked(db).waiting
    finally:
        engine.dispose()


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
        if status.ready:
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
        return f"the recorders are {pause.in_words()}. To go on: caselog resume"
    status = queue_status(connection, EVENTS_QUEUE.name, with_age=False)
    unacked = "" if status.unacked is None else f", {status.unacked:,} being recorded"
    advice = "" if status.consumers else "; no recorder runs: caselog worker recorder, or caselog up"
    return f"{status.ready:,} messages are ready{unacked}{advice}"


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
