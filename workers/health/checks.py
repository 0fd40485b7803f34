"""Whether all is well: a check for each part of the pipeline, on its own and bounded in time (docs/rules.md §8)."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import redis
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from caselog.events.credentials import hide
from caselog.events.phrases import count_of
from caselog.events.transport.broker import connect, is_redis
from caselog.events.transport.events_queue import standing_of
from caselog.events.transport.refusals import alarm_refusal, refusal
from caselog.schema.migrations.upgrade import current_revision, head_revision
from caselog.schema.recording import dead_letters
from caselog.schema.recording.outdated import REMEDY, find_outdated, told
from caselog.schema.reports import outbox
from caselog.schema.sessions.connection import fence_of, limit_statements
from caselog.schema.sessions.fencing import Fence
from caselog.schema.sessions.replication import find_standbys
from caselog.schema.sessions.server import ask_server
from caselog.workers.continuity.losses import Losses
from caselog.workers.health.broker_checks import AlarmWatch, find_removals
from caselog.workers.health.durability import Keeping, ask_all_redis, judge_postgres, judge_replication
from caselog.workers.health.hints import (
    CONTINUOUS,
    READ_ONLY,
    REDIS_AWAY,
    REPLICATED,
    STANDBY,
    SYNCHRONOUS_AWAY,
    WHEN_AWAY,
)
from caselog.workers.health.liveness import judge
from caselog.workers.health.queues import raw_events_status
from caselog.workers.health.status_history import Since
from caselog.workers.servers.data_dir import find_place
from caselog.workers.settings import Settings
from caselog.workers.telemetry.heartbeat import Beat, read_beats
from caselog.workers.telemetry.removals import read_removals

# A check that takes longer is red. Probes of orchestrators commonly wait 5 seconds or more.
WITHIN_S: Final = 3.0
STATEMENT_TIMEOUT_MS: Final = 2000
ALL: Final = "*"
READY: Final = ("database", "broker")
_WRITABLE_KEY: Final = "caselog:health"


class Check(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one check found. `value` and `threshold` carry their units; `hint` says what to do where it is red.

    `since` is when a status worker first found it as it is, RFC 3339 in UTC: it may have begun while nobody asked.
    `accepted`: it is green only because a setting accepts what is wrong, which `value` says. `warning`: it is green,
    and may become a loss one day, which `value` says, too.
    """

    name: str
    status: bool
    value: str
    threshold: str | None = None
    since: str | None = None
    hint: str | None = None
    accepted: bool = False
    warning: bool = False


class Health:
    """The checks of one installation. Thread-safe; a check that is running is waited for, not started twice."""

    def __init__(self, engine: Engine, broker_url: str, client: redis.Redis, settings: Settings) -> None:
        """`client` should have socket timeouts: without them a silent Redis keeps its checks' threads for ever."""
        self._engine = engine
        self._broker_url = broker_url
        self._client = client
        self._settings = settings
        self._alarms = AlarmWatch(broker_url)
        self._checks: dict[str, Callable[[], Check]] = {
            "database": self._database,
            "broker": self._broker,
            "redis": self._redis,
            "disk": partial(check_disk, settings),
            "recorder": partial(self._worker, "recorder"),
            "tasks": partial(self._worker, "tasks"),
            "queue": self._queue,
            "removals": self._removals,
            "aggregates": self._aggregates,
            "dead_letters": self._dead_letters,
            "rebuild": self._rebuild,
            "durability": self._durability,
            "continuity": self._continuity,
            "replication": self._replication,
        }
        self._losses = Losses(engine, client, fence_of(engine))
        self._missing_events: int | None = None
        self._since = Since(client)
        self._running: dict[str, _Run] = {}
        self._lock = threading.Lock()

    def check(self, names: Collection[str] | None = None) -> dict[str, Check]:
        """Each check by its name, all of them unless `names` are given, and "*": whether each of these is green.

        Blocks for about `WITHIN_S` seconds at most. Raises nothing: a server that is away turns its checks red.
        """
        wanted = self._checks if names is None else names
        runs = [self._join(name) for name in wanted]
        found = [run.outcome(WITHIN_S) for run in runs]
        red = [check.name for check in found if not check.status]
        overall = Check(name=ALL, status=not red, value=f"failed: {', '.join(red)}" if red else "all is well")
        # "*" of some checks is not that of all; and a Redis that is away is not waited for again.
        judged = found if names is not None else [overall, *found]
        known = any(check.name == "redis" and check.status for check in found)
        since = self._since.note({check.name: check.status for check in judged}, is_shared=known)
        return {check.name: msgspec.structs.replace(check, since=since.get(check.name)) for check in (overall, *found)}

    @property
    def fence(self) -> Fence:
        """The timelines that are known, for other engines of this process."""
        return fence_of(self._engine)

    @property
    def missing_events(self) -> int | None:
        """How many stored events the database had lost at the last look of `continuity`; None: nobody knows."""
        return self._missing_events

    def _join(self, name: str) -> _Run:
        with self._lock:
            run = self._running.get(name)
            if run is None or run.is_over:
                run = self._running[name] = _Run(name, self._checks[name])
            return run

    def _database(self) -> Check:
        needed = head_revision()
        with self._engine.begin() as db:
            _bound(db)
            state = ask_server(db)
            found = current_revision(db)
        hint = "Run: caselog migrate (or, where the database is ahead, deploy the newer caselog)"
        if state.is_standby:
            hint = STANDBY
        elif state.is_read_only:
            hint = READ_ONLY
        writes = "takes no writes: a standby" if state.is_standby else "takes no writes: read-only"
        value = f"at revision {found}" if found else "without tables"
        value = f"{writes}; {value}" if state.is_read_only else value
        value = f"{value}, through a pooler" if state.is_pooled else value
        well = found == needed and not state.is_read_only
        return _judged("database", well, value, f"takes writes, at revision {needed}", hint)

    def _broker(self) -> Check:
        alarm = self._alarms.alarm()
        if alarm is not None:
            raise alarm_refusal(alarm)
        with connect(self._broker_url) as connection:
            if not is_redis(connection):
                standing_of(connection)
        return Check(name="broker", status=True, value="answers and takes events")

    def _removals(self) -> Check:
        try:
            counts = read_removals(self._client)
        except redis.RedisError:
            counts = {}
        with connect(self._broker_url) as connection:
            status, value, hint = find_removals(connection, counts)
        return Check(
            name="removals",
            status=status,
            value=value,
            threshold="none within an hour, and none possible",
            hint=hint,
        )

    def _redis(self) -> Check:
        # Not only a ping: a replica, or a Redis that cannot save to its disk, answers but takes no jobs or heartbeats.
        self._client.set(_WRITABLE_KEY, 1, ex=60)
        return Check(name="redis", status=True, value="answers and takes writes")

    def _worker(self, role: str) -> Check:
        limit_s = self._settings.health_heartbeat_s
        vitals = judge(role, [beat for beat in read_beats(self._client) if beat.role == role], limit_s)
        hint = SYNCHRONOUS_AWAY if not vitals.is_well and self._commits_hang() else vitals.hint
        return Check(
            name=role,
            status=vitals.is_well,
            value=vitals.value,
            threshold=f"each: work, or an empty queue, less than {limit_s:g} s ago",
            hint=hint,
        )

    def _queue(self) -> Check:
        with connect(self._broker_url) as connection:
            connection.ensure_connection(max_retries=0, reraise_as_library_errors=False)
            status = raw_events_status(connection, self._beats())
        limit_s = self._settings.health_queue_age_s
        age_s = status.oldest_age_s
        return _judged(
            "queue",
            age_s is None or age_s < limit_s,
            _count(status.ready, "message", "ready", age_s),
            f"oldest less than {limit_s} s",
            "See the check recorder; where recorders work, start more: caselog worker recorder --processes N; see: "
            "caselog queues",
        )

    def _beats(self) -> list[Beat]:
        """The heartbeats; none while Redis is away, which must not turn the checks of a RabbitMQ red."""
        try:
            return read_beats(self._client)
        except redis.RedisError:
            return []

    def _aggregates(self) -> Check:
        with self._engine.begin() as db:
            _bound(db)
            lag = outbox.lag(db)
        limit_s = self._settings.health_outbox_age_s
        return _judged(
            "aggregates",
            lag.oldest_age_s is None or lag.oldest_age_s < limit_s,
            _count(lag.deltas, "delta", "to add up", lag.oldest_age_s),
            f"oldest less than {limit_s} s",
            "The reports are behind: see the log of the tasks workers; start one with: caselog worker tasks",
        )

    def _dead_letters(self) -> Check:
        with self._engine.begin() as db:
            _bound(db)
            age_s = dead_letters.newest_age_s(db)
        limit_s = self._settings.health_dead_letter_s
        return _judged(
            "dead_letters",
            age_s is None or age_s >= limit_s,  # with 0 always
            "none" if age_s is None else f"the newest {age_s:.1f} s old",
            f"none within {limit_s} s" if limit_s else "none (CASELOG_HEALTH_DEAD_LETTER_S is 0)",
            "See: caselog dead list",
        )

    def _rebuild(self) -> Check:
        with self._engine.begin() as db:
            _bound(db)
            found = find_outdated(db)
        return _judged(
            "rebuild",
            not found,
            told(found) if found else "nothing is outdated",
            "nothing that other rules made",
            f"Reports are withheld until then; {REMEDY}",
        )

    def _durability(self) -> Check:
        found = [self._postgres_keeps(), *ask_all_redis(self._broker_url, self._client)]
        faults = [fault for keeping in found for fault in keeping.faults]
        words = "; ".join(keeping.words for keeping in found)
        remedies = [remedy for keeping in found for remedy in keeping.remedies]
        accepted = bool(faults) and self._settings.accept_loss
        said = "; ".join(faults)
        return Check(
            name="durability",
            status=not faults or accepted,
            value=f"accepted by CASELOG_ACCEPT_LOSS: {said}" if accepted else said or words,
            threshold="the servers keep what they confirmed",
            hint=None if accepted or not faults else f"Set {'; '.join(remedies)}; or CASELOG_ACCEPT_LOSS=1",
            accepted=accepted,
        )

    def _continuity(self) -> Check:
        self._missing_events = None
        try:
            verdict = self._losses.look(statement_ms=STATEMENT_TIMEOUT_MS).verdict
        except redis.RedisError as error:
            value = f"unknown: Redis, which remembers what was recorded, does not answer ({_in_a_line(error)})"
            return Check(name="continuity", status=False, value=value, threshold=CONTINUOUS, hint=REDIS_AWAY)
        self._missing_events = verdict.missing
        return _judged("continuity", verdict.is_green, verdict.value, CONTINUOUS, verdict.hint or "")

    def _replication(self) -> Check:
        try:
            with self._engine.begin() as db:
                _bound(db)
                value, warning = judge_replication(find_standbys(db))
        except SQLAlchemyError:  # that it is away is for other checks to say
            value, warning = "unknown, PostgreSQL does not answer", False
        return Check(name="replication", status=True, value=value, threshold=REPLICATED, warning=warning)

    def _commits_hang(self) -> bool:
        """Whether that is why workers are silent: a commit that waits for a standby does not answer."""
        try:
            with self._engine.begin() as db:
                _bound(db)
                return find_standbys(db).hanging > 0
        except SQLAlchemyError:
            return False

    def _postgres_keeps(self) -> Keeping:
        try:
            with self._engine.begin() as db:
                _bound(db)
                return judge_postgres(ask_server(db))
        except SQLAlchemyError:  # that it is away is for other checks to say
            return Keeping("PostgreSQL: unknown, it does not answer")


def check_health(engine: Engine, broker_url: str, client: redis.Redis, settings: Settings) -> dict[str, Check]:
    """One round of all checks; see `Health.check`. Who asks again and again keeps a `Health`."""
    return Health(engine, broker_url, client, settings).check()


def check_disk(settings: Settings) -> Check:
    """The fullest of the file systems that hold the root, the data directory and the embedded database."""
    place = find_place(settings.data_dir)
    wanted = [Path("/"), settings.data_dir, *([place.postgres_data] if place is not None else [])]
    found = []
    for path in wanted:
        if path.exists():
            usage = shutil.disk_usage(path)
            found.append((100 * usage.free / usage.total, usage.free / 2**30, path))
    percent, gib, path = min(found)
    return _judged(
        "disk",
        percent > settings.health_disk_free_percent,
        f"{percent:.1f} % free ({gib:.1f} GiB) at {path}",
        f"more than {settings.health_disk_free_percent:g} % free",
        f"Free space on the file system of {path}, or enlarge it, before the database stops",
    )


class _Run:
    """One run of one check, in a thread of its own."""

    def __init__(self, name: str, check: Callable[[], Check]) -> None:
        self._name = name
        self._check = check
        self._started = time.monotonic()
        self._ended = threading.Event()
        self._found: Check | None = None
        # A daemon: where a server never answers, the thread must not keep the process.
        threading.Thread(target=self._work, name=f"check {name}", daemon=True).start()

    @property
    def is_over(self) -> bool:
        return self._ended.is_set()

    def outcome(self, within_s: float) -> Check:
        """What the check found; red where it has not ended `within_s` seconds after its start."""
        self._ended.wait(max(0.0, self._started + within_s - time.monotonic()))
        if self._found is not None:
            return self._found
        return Check(
            name=self._name,
            status=False,
            value=f"no answer for {time.monotonic() - self._started:.1f} s",
            threshold=f"an answer within {within_s:g} s",
            hint=WHEN_AWAY[self._name],
        )

    def _work(self) -> None:
        try:
            self._found = self._check()
        except Exception as error:  # noqa: BLE001 - whatever a driver raises, the check is red and says so
            refused = refusal(error) if self._name in _OF_BROKER else None
            hint = WHEN_AWAY[self._name] if refused is None else "The broker answers: do what the value says"
            self._found = Check(name=self._name, status=False, value=refused or _in_a_line(error), hint=hint)
        finally:
            self._ended.set()


_OF_BROKER: Final = ("broker", "queue", "removals")


def _bound(db: Connection) -> None:
    """Have the server itself give up, so that abandoned checks do not pile up there."""
    limit_statements(db, STATEMENT_TIMEOUT_MS)


def _judged(name: str, well: bool, value: str, threshold: str, hint: str) -> Check:  # noqa: FBT001 - read with the name
    return Check(name=name, status=well, value=value, threshold=threshold, hint=None if well else hint)


def _count(number: int, noun: str, what: str, oldest_age_s: float | None) -> str:
    counted = f"{count_of(number, noun)} {what}"
    return counted if oldest_age_s is None else f"{counted}, the oldest {oldest_age_s:.1f} s old"


def _in_a_line(error: Any) -> str:
    """The first line of what the driver says, without credentials."""
    said = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
    return hide(f"{type(error).__name__}: {said}") if said else type(error).__name__
