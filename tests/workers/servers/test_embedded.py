"""The embedded servers: real ones, on a data directory with a space in its path, as whoever runs the tests."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import psutil
import psycopg
import pytest
from redis import Redis
from support.processes.patience import DEADLINE_S
from support.servers.children import start_child

from caselog.events.errors import SettingsError
from caselog.workers.servers.child_process import as_user
from caselog.workers.servers.data_dir import OUTSIDE_ROOT, AlreadyRunning, find_place, locked, remove_sockets
from caselog.workers.servers.embedded import EmbeddedServers, EmbeddedUrls, locate, uninstall
from caselog.workers.servers.locate import redis_py_url

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root keeps the database outside of the data directory")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data directory that has been used before and that every test leaves usable."""
    directory = tmp_path_factory.mktemp("shared") / "a home" / ".caselog"
    with quick(directory):
        pass
    yield directory
    uninstall(directory)


@pytest.fixture
def new_data_dir(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "a home" / ".caselog"
    yield directory
    uninstall(directory)


def quick(data_dir: Path, *, postgres: bool = True, redis: bool = True) -> EmbeddedServers:
    return EmbeddedServers(data_dir, postgres=postgres, redis=redis, durable=False)


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"nothing within {DEADLINE_S:g} s"
        time.sleep(0.02)


def running(data_dir: Path) -> EmbeddedUrls:
    urls = locate(data_dir)
    assert urls is not None
    return urls


def query(urls: EmbeddedUrls, statement: str) -> list[tuple[object, ...]]:
    assert urls.database_url is not None
    with psycopg.connect(urls.database_url) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def redis_of(urls: EmbeddedUrls) -> Redis:
    assert urls.redis_url is not None
    return Redis.from_url(redis_py_url(urls.redis_url))


def write_a_mark(urls: EmbeddedUrls) -> str:
    """Leave a trace in both servers, and give back its name."""
    mark = f"mark_{uuid4().hex}"
    query(urls, f"create table {mark} ()")
    with redis_of(urls) as client:
        client.set(mark, "here")
    return mark


def has_the_mark(urls: EmbeddedUrls, mark: str) -> bool:
    with redis_of(urls) as client:
        in_redis = bool(client.exists(mark))
    assert [(in_redis,)] == query(urls, f"select to_regclass('{mark}') is not null")
    return in_redis


OWNER = """
import signal, sys
from pathlib import Path
import caselog.workers.process.supervisor
from caselog.workers.servers.embedded import EmbeddedServers
if sys.argv[2] == "without the kernel's help":
    caselog.workers.process.supervisor._LIBC = None
servers = EmbeddedServers(Path(sys.argv[1]))
servers.start()
print(*servers.pids().values(), flush=True)
signal.pause()
"""


def kill_an_owner(data_dir: Path, how: str = "with the kernel's help") -> tuple[list[psutil.Process], str]:
    """Have another process start the servers, and kill -9 it. Gives back the servers' processes and a mark in them."""
    process = start_child([sys.executable, "-c", OWNER, str(data_dir), how], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        servers = [psutil.Process(int(word)) for word in process.stdout.readline().split()]
        assert len(servers) == 2
        mark = write_a_mark(running(data_dir))
    finally:
        process.kill()
        process.communicate()
    return servers, mark


def has_ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_they_start_answer_are_found_and_keep_their_data(data_dir: Path) -> None:
    with quick(data_dir):
        mark = write_a_mark(running(data_dir))
    assert locate(data_dir) is None
    with quick(data_dir):
        assert has_the_mark(running(data_dir), mark)


def test_they_are_the_versions_and_settings_that_the_promises_need(data_dir: Path) -> None:
    with EmbeddedServers(data_dir):
        urls = running(data_dir)
        names = ("fsync", "synchronous_commit", "listen_addresses", "max_locks_per_transaction", "timezone")
        shown = {name: query(urls, f"show {name}")[0][0] for name in names}
        assert shown == dict(zip(names, ("on", "on", "", "256", "UTC"), strict=True))
        assert query(urls, "select current_setting('server_version_num')::int / 10000") == [(18,)]
        assert query(urls, "select lower('ÄÉ'), getdatabaseencoding()") == [("äé", "UTF8")]
        with redis_of(urls) as client:
            wanted = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction", "port": "0"}
            assert {name: client.config_get(name)[name] for name in wanted} == wanted


def test_only_what_is_wanted_is_started(data_dir: Path) -> None:
    with quick(data_dir, postgres=False):
        urls = running(data_dir)
        assert urls.database_url is None
        assert urls.redis_url is not None


def test_a_deleted_data_directory_is_a_fresh_database(new_data_dir: Path) -> None:
    with quick(new_data_dir):
        mark = write_a_mark(running(new_data_dir))
    first = find_place(new_data_dir)
    shutil.rmtree(new_data_dir)
    with quick(new_data_dir):
        assert not has_the_mark(running(new_data_dir), mark)
    assert first is not None
    if os.geteuid() == 0:
        assert not first.base.exists(), "what belonged to the deleted directory goes with it"


def test_a_data_directory_that_was_moved_keeps_its_data(data_dir: Path) -> None:
    with quick(data_dir):
        mark = write_a_mark(running(data_dir))
    moved = data_dir.with_name("moved")
    data_dir.rename(moved)
    with quick(moved):
        assert has_the_mark(running(moved), mark)
    moved.rename(data_dir)


@as_root
def test_a_copy_of_roots_data_directory_is_refused(data_dir: Path) -> None:
    copy = data_dir.with_name("copy")
    shutil.copytree(data_dir, copy)
    with pytest.raises(SettingsError, match="is a copy of"):
        quick(copy).start()
    shutil.rmtree(copy)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a server that its owner died")
def test_they_end_when_their_owner_is_killed_and_start_again_on_the_same_data(data_dir: Path) -> None:
    left, mark = kill_an_owner(data_dir)
    wait_for(lambda: all(has_ended(server) for server in left))
    with quick(data_dir):
        assert has_the_mark(running(data_dir), mark)


def test_servers_that_outlived_their_owner_are_stopped_and_started_again(data_dir: Path) -> None:
    left, mark = kill_an_owner(data_dir, "without the kernel's help")
    assert not any(has_ended(server) for server in left)
    with quick(data_dir):
        assert has_the_mark(running(data_dir), mark)
        assert all(has_ended(server) for server in left)


def test_servers_of_a_deleted_data_directory_are_stopped_at_the_next_start(new_data_dir: Path) -> None:
    left, mark = kill_an_owner(new_data_dir, "without the kernel's help")
    shutil.rmtree(new_data_dir)
    with quick(new_data_dir):
        assert not has_the_mark(running(new_data_dir), mark)
        assert all(has_ended(server) for server in left)


def test_a_stale_lock_file_with_the_number_of_another_process_neither_stops_the_start_nor_that_process(
    data_dir: Path,
) -> None:
    place = find_place(data_dir)
    assert place is not None
    # As PostgreSQL's own user: another user's process never counts for it.
    bystander = start_child(["sleep", "600"], **as_user(place.user_id, place.user_id))
    try:
        (place.postgres_data / "postmaster.pid").write_text(f"{bystander.pid}\n{place.postgres_data}\n")
        with quick(data_dir):
            assert running(data_dir).database_url
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_an_interrupted_first_start_is_begun_anew(new_data_dir: Path) -> None:
    with quick(new_data_dir):
        pass
    place = find_place(new_data_dir)
    assert place is not None
    place.postgres_data.rename(place.base / "postgres.unfinished")
    (place.base / "postgres.unfinished" / "global" / "pg_control").unlink()
    with quick(new_data_dir):
        assert running(new_data_dir).database_url


@pytest.mark.parametrize("name", ["PostgreSQL", "Redis"])
def test_a_server_that_is_killed_is_revived_on_its_data(data_dir: Path, name: str) -> None:
    with EmbeddedServers(data_dir) as servers:
        mark = write_a_mark(running(data_dir))
        assert servers.revive() == []
        os.kill(servers.pids()[name], signal.SIGKILL)
        wait_for(lambda: servers.revive() == [name])
        assert has_the_mark(running(data_dir), mark)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere PostgreSQL refuses to start until they have ended")
@pytest.mark.parametrize("locks", ["with its lock files", "without them"])
def test_sessions_that_outlive_a_killed_postgres_never_share_the_data_with_the_next(data_dir: Path, locks: str) -> None:
    """A busy session does not notice that its server was killed."""
    with EmbeddedServers(data_dir, redis=False) as servers:
        urls = running(data_dir)
        mark = f"mark_{uuid4().hex}"
        query(urls, f"create table {mark} ()")
        assert urls.database_url is not None
        with psycopg.connect(urls.database_url) as connection:
            session = psutil.Process(connection.info.backend_pid)
            connection.pgconn.send_query(b"select count(*) from generate_series(1, 1000000000)")
            connection.pgconn.flush()
            wait_for(lambda: session.cpu_times().user > 0.1)
            os.kill(servers.pids()["PostgreSQL"], signal.SIGKILL)
            place = find_place(data_dir)
            assert place is not None
            if locks == "without them":
                (place.postgres_data / "postmaster.pid").unlink()
            wait_for(lambda: servers.revive() == ["PostgreSQL"])
            assert has_ended(session)
            assert query(urls, f"select to_regclass('{mark}') is not null") == [(True,)]
            connection.pgconn.finish()


def test_no_permission_of_a_directory_that_is_not_ours_changes(new_data_dir: Path) -> None:
    home = new_data_dir.parent
    home.mkdir(mode=0o700)
    directories = [home, *home.parents, OUTSIDE_ROOT.parent]
    before = [(path.stat().st_mode, path.stat().st_uid, path.stat().st_gid) for path in directories]
    with quick(new_data_dir):
        pass
    assert [(path.stat().st_mode, path.stat().st_uid, path.stat().st_gid) for path in directories] == before


def test_nobody_else_can_enter_where_the_data_and_the_sockets_are(data_dir: Path) -> None:
    with quick(data_dir):
        place = find_place(data_dir)
        assert place is not None
        for path in (place.postgres_data, place.postgres_sockets, place.redis_data, place.redis_sockets):
            assert path.stat().st_mode & 0o077 == 0, path


def test_sockets_that_a_cleaner_took_away_are_made_again(data_dir: Path) -> None:
    place = find_place(data_dir)
    assert place is not None
    assert not place.sockets.exists(), "the last stop took them away"
    with quick(data_dir):
        assert running(data_dir).database_url


def test_nothing_is_located_where_only_the_socket_file_is_left(data_dir: Path) -> None:
    place = find_place(data_dir)
    assert place is not None
    place.redis_sockets.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(place.redis_sockets / "redis.sock"))
    assert locate(data_dir) is None
    remove_sockets(place)


def test_a_second_holder_is_told_who_the_first_is(data_dir: Path) -> None:
    with locked(data_dir), pytest.raises(AlreadyRunning, match=rf"process {os.getpid()}\)") as raised, locked(data_dir):
        pass
    assert "\n" not in str(raised.value)
    with locked(data_dir):  # and given back
        pass


def test_a_data_directory_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"^CASELOG_DATA_DIR: "):
        EmbeddedServers(tmp_path / "file" / "under it").start()


def test_a_server_that_does_not_start_says_why_and_nothing_runs(data_dir: Path) -> None:
    place = find_place(data_dir)
    assert place is not None
    control = place.postgres_data / "global" / "pg_control"
    control.rename(control.with_name("hidden"))
    with pytest.raises(SettingsError, match=r"the embedded PostgreSQL did not start: .*pg_control"):
        quick(data_dir).start()
    assert locate(data_dir) is None
    control.with_name("hidden").rename(control)


def test_uninstall_leaves_nothing_and_touches_nothing_else(new_data_dir: Path) -> None:
    with quick(new_data_dir):
        place = find_place(new_data_dir)
        (new_data_dir / "notes.txt").write_text("mine")
        assert place is not None
        uninstall(new_data_dir)
    assert [path.name for path in new_data_dir.iterdir()] == ["notes.txt"]
    assert not place.sockets.exists()
    assert place.base == place.data_dir or not place.base.exists()
