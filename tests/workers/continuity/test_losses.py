"""What a failover, a crash or a restore took is told, by real servers; and an old primary that returns gets nothing."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import redis
from support.oracle.proof import RULES
from support.oracle.stored import body
from support.processes.installed import asked, cases, installed, logs
from support.processes.pipeline import created, event, eventually
from support.servers.address import Address
from support.servers.standby import Standby

from caselog.events.model.message import decode
from caselog.events.model.registry import EventRegistry
from caselog.schema.migrations.upgrade import migrate
from caselog.schema.operations import dead_letter_queries
from caselog.schema.operations.dead_letter_queries import Filter
from caselog.workers.continuity import memory as remembering
from caselog.workers.continuity.comparison import State
from caselog.workers.continuity.counting import Counting
from caselog.workers.continuity.losses import tidy_runs
from caselog.workers.continuity.memory import read_memory
from caselog.workers.deadletters.requeue import discard
from caselog.workers.health.checks import Health
from caselog.workers.recording.batch import Recording
from caselog.workers.servers.database_errors import DatabaseAway
from caselog.workers.servers.embedded import EmbeddedServers, uninstall
from caselog.workers.servers.locate import redis_py_url
from caselog.workers.settings import Settings


@pytest.mark.slow
@pytest.mark.unproven
def test_a_standby_promoted_behind_is_red_until_the_lost_is_sent_again_and_the_old_primary_gets_nothing(
    tmp_path: Path, database_url: str, redis_url: str
) -> None:
    address = Address(tmp_path, database_url)
    with installed(address.url, redis_url) as one, Standby(database_url) as standby:
        one.record(*cases("AB", 10))
        assert one.check().status
        replication = one.check("replication")
        assert (replication.status, replication.warning) == (True, True)
        assert "1 standby, none synchronous" in replication.value
        eventually(lambda: logs(standby.url) == 20, "the standby has them")
        standby.fall_behind()
        # The twins of the last case came with others: a loss is of whole batches, whatever ids are skipped.
        one.record(*cases("AB", 10), *cases("CD", 30))
        standby.promote()
        address.lead_to(standby.url)

        red = one.check()
        assert not red.status
        assert red.value.startswith("about 60 events are missing, stored from ")
        assert "caselog continuity acknowledge" in str(red.hint)
        one.record(*cases("EF", 40))  # what comes meanwhile does not make it less
        assert one.verdict().missing == 60
        assert one.look().server is not None
        assert one.look().server.timeline == 2  # type: ignore[union-attr]
        shown = one.command("continuity", "--json")
        assert (shown.exit_code, '"missing":60' in shown.stdout.replace(" ", "")) == (1, True)
        named = one.command("continuity", "--missing", "--json").stdout.splitlines()
        assert len(named) == 60
        assert all("CD-" in line for line in named)

        before = logs(database_url)
        address.lead_to(database_url)  # the old primary is back
        with pytest.raises(DatabaseAway, match="old primary"):
            one.record("GH")
        one.start_recorder()
        with pytest.raises(DatabaseAway, match="old primary"):
            one.record("GH")
        refused = one.command("pause", "--why", "to see")
        assert "old primary" in str(refused.exception)
        for writing in (["rebuild", "cases"], ["verify", "--repair", "--yes"], ["migrate"]):
            assert "old primary" in str(one.command(*writing).exception), writing
        fenced = one.check()
        assert (fenced.status, "timeline 1, and timeline 2 is known" in fenced.value) == (False, True)
        assert not one.check("database").status
        assert logs(database_url) == before

        address.lead_to(standby.url)
        assert one.verdict().missing == 60
        one.record(*cases("CD", 29))
        assert (one.verdict().missing, one.look().loss.again) == (2, 58)
        one.record(*cases("CD", 30))
        assert one.check().status
        assert one.look().gaps == {}  # settled: nothing is looked up again and again


@pytest.mark.slow
@pytest.mark.unproven
def test_a_standby_promoted_in_time_is_green_by_itself_and_what_it_is_is_known_to_who_starts_later(
    tmp_path: Path, database_url: str, redis_url: str
) -> None:
    address = Address(tmp_path, database_url)
    with installed(address.url, redis_url) as one, Standby(database_url) as standby:
        one.record(*cases("AB", 10))
        eventually(lambda: logs(standby.url) == 20, "the standby has all")
        address.lead_to(standby.url)
        assert one.verdict().state is State.STANDBY
        standby.promote()
        one.record("CD")
        assert one.check().value == "nothing is missing (timeline 2)"
        address.lead_to(database_url)
        for learn in (True, False):
            one.start_recorder(learn=learn)
            with pytest.raises(DatabaseAway, match="timeline 1, and timeline 2"):
                one.record("EF")
        assert logs(database_url) == 20
        # Somebody means it: the backup, or the old primary, is to go on.
        acknowledged = one.command("continuity", "acknowledge", "--why", "the new one burned down")
        assert acknowledged.exit_code == 0, acknowledged.output
        assert "here about 2 events are missing" in acknowledged.output
        one.memory.learn()
        one.record("GH")
        assert one.check().value == "nothing is missing (timeline 1)"
        assert logs(database_url) == 22


@pytest.mark.slow
@pytest.mark.unproven
def test_lost_dead_letters_and_parked_events_are_told_with_the_recorded_ones_until_they_are_sent_again(
    tmp_path: Path, database_url: str, redis_url: str
) -> None:
    address = Address(tmp_path, database_url)
    with installed(address.url, redis_url) as one, Standby(database_url) as standby:
        one.take(viewed("OLD"), b"no JSON before")
        one.record("AB")
        eventually(lambda: logs(standby.url) == 2, "the standby has them")
        standby.fall_behind()
        recorded = [body(*(created(f"CD-{number}") for number in range(37)))]
        parked = [body(*(viewed_event(f"EF-{number}") for number in range(20)))]
        refused = [body(*(unknown_code(f"GH-{number}") for number in range(30)))]
        unread = [f"no JSON {number}".encode() for number in range(10)]
        # Each another event than the one that has the name.
        others = [body(created("AB", f"2026-03-02T1{number}:30:00Z", id=created("AB")["id"])) for number in range(4)]
        # One that waited since before, and one of those that came with them, are recorded in the end.
        late = [body(created("OLD")), body(created("EF-0"))]
        sent = [*recorded, *parked, *refused, *unread, *others, *late]
        one.take(*sent)
        assert one.retry_parked().recorded == 2
        one.take(*sent)  # what is there already is counted no more
        assert one.check().status
        standby.promote()
        address.lead_to(standby.url)

        red = one.check()
        assert not red.status
        assert red.value.startswith(f"about {37 + 20 + 30 + 10 + 4 + 2} events are missing, stored from ")
        assert one.look().loss.unnamed == 0
        named = [json.loads(line) for line in one.command("continuity", "--missing", "--json").stdout.splitlines()]
        assert len(named) == 103
        letters = {row["fingerprint"]: row["event_id"] for row in named if row["fingerprint"] is not None}
        assert len(letters) == 44
        assert letters[hashlib.sha256(unread[3]).hexdigest()] is None
        assert letters[hashlib.sha256(others[0]).hexdigest()] == created("AB")["id"]

        one.take(*parked, *unread[5:], *others[1:])
        assert one.verdict().missing == 103 - 20 - 5 - 3
        one.take(*recorded, *refused, *unread, *others, *late)
        green = one.check()
        assert (green.status, green.value) == (
            True,
            "nothing is missing (timeline 2); 103 that were lost are there again",
        )
        assert one.look().gaps == {}


@pytest.fixture
def put_back(database_url: str) -> Iterator[Callable[[], Callable[[], None]]]:
    """Makes a backup of the database; what it gives restores that in its place."""
    name = database_url.partition("?")[0].rpartition("/")[2]
    server = database_url.replace(f"/{name}?", "/postgres?", 1)

    def run(*statements: str) -> None:
        with psycopg.connect(server, autocommit=True) as db:
            db.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname in (%s, %s)",
                [name, f"{name}_backup"],
            )
            for statement in statements:
                db.execute(statement.encode())

    def backup() -> Callable[[], None]:
        run(f"create database {name}_backup template {name}")
        return lambda: run(f"drop database {name} with (force)", f"alter database {name}_backup rename to {name}")

    yield backup
    run(f"drop database if exists {name}_backup with (force)")


def test_a_backup_put_back_is_red_with_the_number_until_somebody_acknowledges(
    put_back: Callable[[], Callable[[], None]], database_url: str, redis_url: str
) -> None:
    with installed(database_url, redis_url) as one:
        assert one.verdict().state is State.EMPTY
        one.record(*cases("AB", 5))
        restore = put_back()
        one.record(*cases("CD", 12))
        one.start_recorder()
        one.record(*cases("EF", 3), *cases("AB", 2))
        assert one.check().status
        restore()
        one.record(*cases("GH", 20))  # more than was lost
        found = one.look()
        assert (found.verdict.state, found.verdict.missing, found.loss.unnamed) == (State.LOST, 30, 0)
        assert one.command("continuity", "acknowledge", "--why", " ").exit_code != 0
        done = one.command("continuity", "acknowledge", "--why", "sent by post")
        assert done.exit_code == 0, done.output
        assert "acknowledged: about 30 events are missing" in done.output
        assert one.check().status
        one.record("IJ")
        assert one.check().status
        audited = one.command("audit", "list", "--action", "continuity", "--json").output
        assert '"who":"ann"' in audited.replace(" ", "")
        assert "sent by post" in audited
        again = one.command("continuity", "acknowledge", "--why", "once more")
        assert "nothing is to be acknowledged" in str(again.exception)


def test_an_event_that_waited_and_was_recorded_is_missing_once_whether_it_is_named_or_not(
    put_back: Callable[[], Callable[[], None]], database_url: str, redis_url: str
) -> None:
    with installed(database_url, redis_url) as one:
        one.take(viewed("OLD"))
        restore = put_back()
        one.take(viewed("AB"), body(created("AB")), body(created("OLD")))
        assert one.retry_parked().recorded == 2
        restore()
        assert one.verdict().missing == 3, "the one that waited before waits again"
        one.client.delete(remembering.MARKS)
        found = one.look()
        assert (found.verdict.missing, found.loss.unnamed) == (3, 3)


def test_what_was_requeued_and_recorded_is_missing_where_it_is_a_dead_letter_as_before(
    put_back: Callable[[], Callable[[], None]], database_url: str, redis_url: str
) -> None:
    with installed(database_url, redis_url) as one:
        nobody = Recording(one.engine, EventRegistry(), RULES, counting=Counting(one.memory))
        nobody.record([decode(body(created("AB")))])
        restore = put_back()
        nobody.record([decode(body(created("CD")))])
        assert one.requeue().recorded == 2
        restore()
        # Both are missing from the log, and of CD, which is two times in the counts, there is no dead letter either.
        assert one.verdict().missing == 2
        nobody.record([decode(body(created("CD")))])
        assert one.verdict().missing == 1, "it is a dead letter again"
        assert one.requeue().recorded == 2
        assert one.check().status


def test_a_lost_dead_letter_is_there_again_also_once_it_is_recorded_or_waits(
    put_back: Callable[[], Callable[[], None]], database_url: str, redis_url: str
) -> None:
    events = [created("AB"), viewed_event("CD")]
    with installed(database_url, redis_url) as one:
        one.record("EF")
        restore = put_back()
        Recording(one.engine, EventRegistry(), RULES, counting=Counting(one.memory)).record([decode(body(*events))])
        one.memory.flush()
        restore()
        assert one.verdict().missing == 2
        assert one.take(body(events[0])).recorded == 1
        assert one.verdict().missing == 1
        assert one.take(body(events[1])).parked == 1
        assert one.check().status


def test_a_lost_dead_letter_is_there_again_as_one_in_other_bytes(
    put_back: Callable[[], Callable[[], None]], database_url: str, redis_url: str
) -> None:
    """A Publisher gives each message the trace that it is sent in, and nobody promises the order of members."""
    event = created("AB")
    with installed(database_url, redis_url) as one:
        nobody = Recording(one.engine, EventRegistry(), RULES, counting=Counting(one.memory))
        one.record("EF")
        restore = put_back()
        nobody.record([decode(body(event))])
        one.memory.flush()
        restore()
        assert one.verdict().missing == 1
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        nobody.record([decode(body({**event, "traceparent": trace}))])
        assert one.check().status


def test_what_came_again_and_was_discarded_is_not_missing_once_more(
    put_back: Callable[[], Callable[[], None]], database_url: str, redis_url: str
) -> None:
    """While another event is still missing, so that nothing is settled yet; and for who looks for the first time."""
    lost = [created("AB"), created("CD")]
    with installed(database_url, redis_url) as one:
        nobody = Recording(one.engine, EventRegistry(), RULES, counting=Counting(one.memory))
        one.record("EF")
        restore = put_back()
        nobody.record([decode(body(*lost))])
        one.memory.flush()
        restore()
        nobody.record([decode(body(lost[0]))])
        assert one.verdict().missing == 1
        with one.engine.connect() as db:
            ids = list(dead_letter_queries.select(db, Filter(case="AB")))
        assert discard(one.engine, ids, who="anna", why="known bad", wanted=Filter(case="AB")) == 1
        assert one.verdict().missing == 1


def test_an_emptied_redis_is_unknown_until_somebody_acknowledges(database_url: str, redis_url: str) -> None:
    with installed(database_url, redis_url) as one:
        one.record("AB")
        one.client.flushdb()
        unknown = one.check()
        assert not unknown.status
        # "before …": where the recorder's thread has told it something since.
        assert unknown.value.startswith("unknown: Redis remembers nothing of what was recorded")
        one.record("CD")
        assert one.verdict().state is State.UNKNOWN
        one.start_recorder()
        one.record("EF")
        assert one.verdict().state is State.UNKNOWN
        assert one.command("continuity", "acknowledge", "--why", "Redis moved").exit_code == 0
        assert one.check().status


def test_runs_of_long_ago_are_forgotten_unless_they_lack_something(database_url: str, redis_url: str) -> None:
    with installed(database_url, redis_url) as one:
        for case in ("AB", "CD", "EF"):
            one.start_recorder()
            one.record(case)
        with psycopg.connect(database_url) as db:
            runs = [row[0] for row in db.execute("select run from recorded order by changed_at")]
            db.execute("update recorded set changed_at = now() - interval '91 days' where run <> %s", runs[2:])
            db.execute("update recorded set events = 1 where run = %s", runs[:1])
        assert tidy_runs(one.engine, one.client, 90) == 1
        assert asked(database_url, "select count(*) from recorded") == 2
        found = one.look()
        assert found.remembered is not None
        assert set(found.remembered.runs) == {runs[0], runs[2]}
        assert found.verdict.missing == 1


def test_a_redis_that_is_away_stops_no_batch_and_is_not_called_green(database_url: str, redis_url: str) -> None:
    nowhere = "redis+socket:///nowhere/redis.sock?virtual_host=0"
    with installed(database_url, redis_url) as one:
        one.client = redis.Redis.from_url(redis_py_url(nowhere))
        one.health = Health(one.engine, nowhere, one.client, Settings())
        one.start_recorder()
        assert one.recording is not None
        assert one.recording.record([decode(body(created("AB")))]).recorded == 1
        red = one.check()
        assert (red.status, red.value.startswith("unknown: Redis")) == (False, True)


@pytest.mark.slow
@pytest.mark.unproven
def test_a_crash_that_took_what_was_not_written_yet_is_told_and_so_is_another_server(
    tmp_path: Path, database_url: str, redis_url: str
) -> None:
    """Of a server of its own: `synchronous_commit` is off, and it is stopped as by a crash."""
    directory = Path(tempfile.mkdtemp(prefix="caselog-tests-"))
    own = EmbeddedServers(directory, redis=False, durable=False)
    try:
        server = own.start().database_url
        assert server is not None
        own_url = urlsplit(server)._replace(path=urlsplit(database_url).path).geturl()
        with psycopg.connect(server, autocommit=True) as db:
            db.execute(f"create database {urlsplit(own_url).path[1:]}".encode())
        migrate(own_url)
        with psycopg.connect(own_url, autocommit=True) as db:
            db.execute("alter system set wal_writer_delay = '10s'")
            db.execute("select pg_reload_conf()")
        address = Address(tmp_path, database_url)
        with installed(address.url, redis_url) as one:
            one.record(*cases("AB", 3))
            address.lead_to(own_url)
            other = one.check()
            assert (other.status, other.value.startswith("this is another server")) == (False, True)
            assert "about 6 events are missing" in other.value
            assert one.command("continuity", "acknowledge", "--why", "moved").exit_code == 0
            one.record(*cases("CD", 20))
            assert one.check().status
            recorded = logs(own_url)
            _crash(own_url)
            own.stop()
            own.start()
            lost = recorded - logs(own_url)
            assert lost > 0
            found = one.look()
            assert (found.verdict.state, found.verdict.missing) == (State.LOST, lost)
            assert read_memory(one.client) is not None
    finally:
        own.stop()
        uninstall(directory)
        shutil.rmtree(directory, ignore_errors=True)


def viewed_event(case: str) -> dict[str, Any]:
    return event("case", "CASE_VIEWED", case)


def viewed(case: str) -> bytes:
    """It waits where there is no such case."""
    return body(viewed_event(case))


def unknown_code(case: str) -> dict[str, Any]:
    return event("case", "NO_SUCH_CODE", case)


def _crash(database_url: str) -> None:
    """An immediate shutdown: what is in the server's memory only is gone."""
    pid = int(Path(asked(database_url, "show data_directory"), "postmaster.pid").read_text().split()[0])
    os.kill(pid, signal.SIGQUIT)

    def is_gone() -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"

    eventually(is_gone, "the server is gone")
