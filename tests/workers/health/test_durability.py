"""The check `durability`: red where a server may lose what it confirmed, with the remedy; green on what we ship."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import redis
import yaml
from brokers.broker_under_test import eventually, redis_executable
from sqlalchemy import text
from support.servers.children import start_child

from caselog.schema.sessions.connection import make_engine
from caselog.schema.sessions.server import ServerState, ask_server
from caselog.workers.health.checks import Check, Health
from caselog.workers.health.durability import Keeping, ask_all_redis, ask_redis, judge_postgres
from caselog.workers.servers.embedded import EmbeddedServers, uninstall
from caselog.workers.servers.locate import redis_py_url
from caselog.workers.settings import Settings

ROOT = Path(__file__).parents[3]
KEEPS = ("--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction")
# As providers give them: the first is like most managed ones, the second more guarded than any.
GUARDED = {"no CONFIG": "+@all -config", "neither CONFIG nor INFO": "+@all -config -info"}
Start = Callable[..., str]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a Redis with these arguments, on a socket; gives its URL."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(*arguments: str) -> str:
        place = tmp_path / str(len(started))
        place.mkdir()
        argv = [redis_executable(), "--port", "0", "--unixsocket", str(place / "s"), "--dir", str(place), *arguments]
        started.append(start_child([*argv, "--save", ""], stdout=subprocess.DEVNULL))
        url = f"redis+socket://{place / 's'}?virtual_host=0"

        def answers() -> bool:
            try:
                with redis.Redis.from_url(redis_py_url(url)) as client:
                    return bool(client.ping())
            except redis.RedisError:
                return False

        eventually(answers, "Redis answers")
        return url

    yield begin
    for process in started:
        process.kill()
        process.wait()


@contextmanager
def health_of(database_url: str, redis_url: str, settings: Settings) -> Iterator[Health]:
    engine = make_engine(database_url)
    with redis.Redis.from_url(redis_py_url(redis_url)) as client:
        yield Health(engine, redis_url, client, settings)
    engine.dispose()


def check(database_url: str, redis_url: str, settings: Settings) -> Check:
    with health_of(database_url, redis_url, settings) as health:
        return health.check(["durability"])["durability"]


@pytest.mark.parametrize(
    ("arguments", "fault", "remedy"),
    [
        (("--appendonly", "no", "--maxmemory-policy", "noeviction"), "no append-only file", "appendonly yes"),
        ((*KEEPS[:4], "--maxmemory-policy", "allkeys-lru"), "evict", "maxmemory-policy noeviction"),
        ((*KEEPS[:4], "--maxmemory-policy", "volatile-ttl"), "evict", "maxmemory-policy noeviction"),
        (("--appendonly", "yes", "--appendfsync", "no", *KEEPS[4:]), "kernel", "appendfsync always"),
    ],
)
def test_a_redis_that_may_forget_is_a_fault_with_its_remedy(
    start: Start, arguments: tuple[str, ...], fault: str, remedy: str
) -> None:
    keeping = ask_redis(start(*arguments))
    assert [fault in said for said in keeping.faults] == [True]
    assert [remedy in said for said in keeping.remedies] == [True]


@pytest.mark.parametrize("fsync", ["always", "everysec"])
def test_a_redis_that_keeps_what_it_is_told_to_has_no_fault_and_says_how_well(start: Start, fsync: str) -> None:
    """`everysec` is a choice that docs/reliability.md weighs; it is said, and not called a fault."""
    keeping = ask_redis(start("--appendonly", "yes", "--appendfsync", fsync, "--maxmemory-policy", "noeviction"))
    assert keeping.faults == []
    assert keeping.words == f"Redis: appendonly yes, appendfsync {fsync}, maxmemory-policy noeviction"


def test_the_redis_of_the_compose_file_keeps_everything(start: Start) -> None:
    command = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["redis"]["command"]
    words = [word.replace("${REDIS_APPENDFSYNC:-always}", "always") for word in command]
    keeping = ask_redis(start(*words[1:]))
    assert (keeping.faults, "appendfsync always" in keeping.words) == ([], True)


@pytest.mark.parametrize("rules", GUARDED.values(), ids=GUARDED)
@pytest.mark.parametrize("keeps", [True, False])
def test_what_a_guarded_redis_does_not_tell_is_unknown_and_no_fault(start: Start, rules: str, *, keeps: bool) -> None:
    url = start(*(KEEPS if keeps else ("--appendonly", "no", "--maxmemory-policy", "allkeys-lru")))
    with redis.Redis.from_url(redis_py_url(url)) as client:
        client.execute_command(*shlex.split(f"acl setuser app on >secret ~* &* {rules}"))
    keeping = ask_redis(url.replace("redis+socket://", "redis+socket://app:secret@"))
    assert "appendfsync unknown" in keeping.words
    if "-info" in rules:
        assert keeping.faults == []
        assert keeping.words == "Redis: appendonly unknown, appendfsync unknown, maxmemory-policy unknown"
    else:
        assert len(keeping.faults) == (0 if keeps else 2)


@pytest.mark.parametrize("broker", ["rabbitmq", "redis"])
def test_the_redis_beside_the_broker_is_looked_at_and_named(start: Start, broker: str) -> None:
    """Who read what and what `continuity` remembers are there, whatever the broker is."""
    broker_url = start(*KEEPS) if broker == "redis" else "amqp://mq/v"
    forgets = start("--appendonly", "no", "--maxmemory-policy", "allkeys-lru")
    with redis.Redis.from_url(redis_py_url(forgets)) as client:
        found = ask_all_redis(broker_url, client)
    *first, other = found
    assert [keeping.faults for keeping in first] == ([[]] if broker == "redis" else [])
    assert all(keeping.words.startswith("Redis of CASELOG_BROKER_URL: appendonly yes") for keeping in first)
    assert len(other.faults) == len(other.remedies) == 2
    assert all(fault.startswith("Redis of CASELOG_REDIS_URL ") for fault in other.faults)
    assert all("redis.conf of the Redis of CASELOG_REDIS_URL" in remedy for remedy in other.remedies)


def test_health_is_red_where_the_redis_beside_the_broker_may_forget(database_url: str, start: Start) -> None:
    engine = make_engine(database_url)
    with redis.Redis.from_url(redis_py_url(start("--appendonly", "no"))) as client:
        found = Health(engine, "amqp://mq/v", client, Settings()).check(["durability"])["durability"]
    engine.dispose()
    assert "Redis of CASELOG_REDIS_URL keeps no append-only file" in found.value
    assert found.hint is not None
    assert "appendonly yes and appendfsync always in redis.conf of the Redis of CASELOG_REDIS_URL" in found.hint


def test_one_redis_for_both_is_asked_once_and_one_that_is_away_is_unknown(start: Start, tmp_path: Path) -> None:
    url = start(*KEEPS)
    with redis.Redis.from_url(redis_py_url(url.replace("virtual_host=0", "virtual_host=1"))) as client:
        assert [keeping.words.partition(":")[0] for keeping in ask_all_redis(url, client)] == ["Redis"]
    with redis.Redis.from_url(f"unix://{tmp_path}/nobody") as client:
        found = ask_all_redis("amqp://mq/v", client)
    assert found == [Keeping("Redis of CASELOG_REDIS_URL: unknown, it does not answer")]


def test_each_setting_of_postgres_that_loses_is_a_fault_with_its_remedy() -> None:
    well = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
    for name in well:
        state = ServerState(is_standby=False, is_read_only=False, is_pooled=False, **(well | {name: "off"}))
        keeping = judge_postgres(state)
        assert [f"{name} off" in said for said in keeping.faults] == [True]
        assert [f"alter system set {name} = on" in said for said in keeping.remedies] == [True]
    for value in ("on", "local", "remote_write", "remote_apply"):
        state = ServerState(
            is_standby=False, is_read_only=False, is_pooled=False, **(well | {"synchronous_commit": value})
        )
        assert judge_postgres(state).faults == []


@pytest.mark.slow
def test_the_embedded_servers_keep_everything_until_a_database_is_told_not_to(tmp_path: Path) -> None:
    with EmbeddedServers(tmp_path / "data") as servers:
        try:
            urls = servers.start()
            assert urls.database_url is not None
            assert urls.redis_url is not None
            found = check(urls.database_url, urls.redis_url, Settings())
            assert (found.status, found.hint, found.accepted) == (True, None, False)
            with psycopg.connect(urls.database_url, autocommit=True) as db:
                db.execute("alter database caselog set synchronous_commit = off")
            found = check(urls.database_url, urls.redis_url, Settings())
            assert (found.status, found.value.count(" off")) == (False, 1)
        finally:
            servers.stop()
            uninstall(tmp_path / "data")


def test_health_is_red_with_what_is_lost_and_what_to_do(database_url: str, redis_url: str) -> None:
    """The tests' own PostgreSQL has all three off."""
    found = check(database_url, redis_url, Settings())
    assert not found.status
    assert all(f"{name} off" in found.value for name in ("fsync", "synchronous_commit", "full_page_writes"))
    assert found.hint is not None
    assert "alter system set fsync = on" in found.hint
    assert "CASELOG_ACCEPT_LOSS=1" in found.hint


def test_a_loss_that_is_accepted_is_green_in_words_that_say_so(database_url: str, redis_url: str) -> None:
    found = check(database_url, redis_url, Settings(accept_loss=True))
    assert (found.status, found.accepted, found.hint) == (True, True, None)
    assert found.value.startswith("accepted by CASELOG_ACCEPT_LOSS: ")
    assert "fsync off" in found.value


def test_a_setting_left_in_a_session_by_others_is_not_the_servers(database_url: str) -> None:
    engine = make_engine(database_url, connections=1)
    with engine.connect() as db:
        db.execute(text("set synchronous_commit = remote_apply"))
        db.commit()
        assert ask_server(db).synchronous_commit == "off"
    engine.dispose()
