"""Which servers the settings call for, and how their URLs are spelled."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr
from redis import Redis
from structlog.testing import capture_logs

from caselog.events.errors import SettingsError
from caselog.schema.sessions.connection import make_engine
from caselog.workers.roles.self_report import tell_session
from caselog.workers.servers.embedded import EmbeddedUrls
from caselog.workers.servers.locate import (
    Needs,
    Services,
    combine,
    find_database_url,
    find_direct_url,
    find_services,
    needs,
    redis_py_url,
)
from caselog.workers.settings import Settings

DATABASE, REDIS, OTHER_REDIS, RABBITMQ = "postgresql://a/b", "redis://a/1", "rediss://b/2", "amqp://c//"
EMBEDDED = EmbeddedUrls("postgresql://caselog@/caselog?host=/s", "redis+socket:///s/redis.sock?virtual_host=0")


def settings(
    data_dir: Path, *, database: str | None = None, broker: str | None = None, redis: str | None = None
) -> Settings:
    return Settings(
        data_dir=data_dir,
        database_url=None if database is None else SecretStr(database),
        broker_url=None if broker is None else SecretStr(broker),
        redis_url=None if redis is None else SecretStr(redis),
    )


@pytest.mark.parametrize(
    ("database", "broker", "redis", "expected"),
    [
        (None, None, None, Needs(postgres=True, redis=True)),
        (DATABASE, None, None, Needs(postgres=False, redis=True)),
        (None, REDIS, None, Needs(postgres=True, redis=False)),
        (DATABASE, RABBITMQ, None, Needs(postgres=False, redis=True)),
        (DATABASE, RABBITMQ, REDIS, Needs(postgres=False, redis=False)),
        (DATABASE, None, REDIS, Needs(postgres=False, redis=True)),
    ],
)
def test_a_server_is_embedded_only_where_no_url_does_its_work(
    tmp_path: Path, database: str | None, broker: str | None, redis: str | None, expected: Needs
) -> None:
    assert needs(settings(tmp_path, database=database, broker=broker, redis=redis)) == expected


@pytest.mark.parametrize(
    ("broker", "redis", "expected_broker", "expected_redis"),
    [
        (None, None, EMBEDDED.redis_url, EMBEDDED.redis_url),
        (REDIS, None, REDIS, REDIS),
        (REDIS, OTHER_REDIS, REDIS, OTHER_REDIS),
        (RABBITMQ, None, RABBITMQ, EMBEDDED.redis_url),
        (RABBITMQ, REDIS, RABBITMQ, REDIS),
        (None, REDIS, EMBEDDED.redis_url, REDIS),
    ],
)
def test_jobs_run_on_the_broker_where_it_is_redis_and_nothing_else_is_said(
    tmp_path: Path, broker: str | None, redis: str | None, expected_broker: str, expected_redis: str
) -> None:
    services = combine(settings(tmp_path, broker=broker, redis=redis), EMBEDDED)
    assert (services.broker_url, services.redis_url) == (expected_broker, expected_redis)


def test_the_database_url_is_plain_whatever_its_spelling_in_the_settings(tmp_path: Path) -> None:
    given = settings(tmp_path, database="postgresql+psycopg://a/b", broker=REDIS)
    assert find_services(given).database_url == "postgresql://a/b"


@pytest.mark.parametrize(
    ("database", "broker", "variable"),
    [
        (DATABASE, None, "CASELOG_BROKER_URL"),
        (DATABASE, RABBITMQ, "CASELOG_REDIS_URL"),
        (None, REDIS, "CASELOG_DATABASE_URL"),
    ],
)
def test_a_missing_server_is_one_line_that_says_how_to_start_it(
    tmp_path: Path, database: str | None, broker: str | None, variable: str
) -> None:
    with pytest.raises(SettingsError, match=f"^{variable} is not set.*caselog up") as raised:
        find_services(settings(tmp_path / "nothing here", database=database, broker=broker))
    assert "\n" not in str(raised.value)


def test_urls_do_not_show_in_a_traceback(tmp_path: Path) -> None:
    services = combine(settings(tmp_path, database="postgresql://user:secret@a/b"), EMBEDDED)
    assert "secret" not in repr(services)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("redis://h:1/3", "redis://h:1/3"),
        ("rediss://:word@h/0", "rediss://:word@h/0"),
        ("redis+socket:///a/b.sock?virtual_host=2", "unix:///a/b.sock?db=2"),
        ("redis+socket:///a%20b/c.sock", "unix:///a%20b/c.sock?db=0"),
        ("redis+socket://:word@/c.sock?virtual_host=/4", "unix://:word@/c.sock?db=4"),
    ],
)
def test_redis_py_is_told_the_same_redis_in_its_own_spelling(ours: str, theirs: str) -> None:
    assert redis_py_url(ours) == theirs


def test_a_url_of_another_kind_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match=r"^CASELOG_REDIS_URL: .*redis\+socket://"):
        redis_py_url("amqp://h")


def test_a_database_number_reaches_the_server(redis_url: str) -> None:
    number = int(redis_url.rpartition("=")[2])
    with Redis.from_url(redis_py_url(redis_url)) as client:
        assert client.client_info()["db"] == number


def test_what_needs_a_session_goes_past_the_pooler_where_that_way_is_named(tmp_path: Path) -> None:
    pooled = settings(tmp_path, database=DATABASE, broker=REDIS)
    assert find_direct_url(pooled) == find_database_url(pooled) == DATABASE
    both = pooled.model_copy(update={"database_direct_url": SecretStr("postgresql+psycopg://direct/b")})
    assert (find_direct_url(both), find_database_url(both)) == ("postgresql://direct/b", DATABASE)


@pytest.mark.parametrize(("hosts", "is_said"), [("h1,h2", True), ("h1", False)])
def test_a_worker_says_that_the_first_of_several_hosts_may_be_a_standby(hosts: str, *, is_said: bool) -> None:
    url = f"postgresql://anna:secret@{hosts}/d?target_session_attrs=any"
    with capture_logs() as logs:
        tell_session(make_engine(url), Services(url, "redis://r/0", "redis://r/0"))
    said = [entry["event"] for entry in logs if entry["log_level"] == "warning"]
    assert ["takes the first host that answers" in line for line in said] == [True] * is_said
    assert "secret" not in str(logs)
