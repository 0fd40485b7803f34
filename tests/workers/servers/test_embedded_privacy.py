"""What the embedded servers hold is for who started them: no other user of the machine reads it, `nobody` included."""

from __future__ import annotations

import grp
import json
import os
import pwd
import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from caselog.events.errors import SettingsError
from caselog.workers.servers import data_dir as data_dir_module
from caselog.workers.servers.data_dir import Place, find_place, private_id
from caselog.workers.servers.embedded import EmbeddedServers, locate, uninstall
from caselog.workers.servers.postgres import postgres_url
from caselog.workers.servers.redis import socket_path

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can try what other users can do")
NOBODY = pwd.getpwnam("nobody")
OTHERS = {"nobody": (NOBODY.pw_uid, NOBODY.pw_gid), "somebody": (12_345, 12_345)}
SHARED_MEMORY = Path("/dev/shm")


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    """In a directory that everybody may enter: what is private is so by itself."""
    for parent in (tmp_path, *list(tmp_path.parents)[:3]):
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(0o755)
    directory = tmp_path / ".caselog"
    yield directory
    uninstall(directory)


@pytest.fixture(params=OTHERS)
def other(request: pytest.FixtureRequest) -> tuple[int, int]:
    """User and group of another user of this machine."""
    return OTHERS[request.param]


def as_other(other: tuple[int, int], attempt: Callable[[], Any]) -> Any:
    """What the attempt gives, made by a process of that user; as JSON."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads: it uses none of theirs
        child = os.fork()
    if child == 0:
        with suppress(BaseException):
            os.setgroups([])
            os.setgid(other[1])
            os.setuid(other[0])
            os.write(writer, json.dumps(attempt()).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as told:
        said = told.read()
    os.waitpid(child, 0)
    return json.loads(said)


def readable(paths: list[Path]) -> list[str]:
    found = []
    for path in paths:
        with suppress(OSError):
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
            found.append(str(path))
    return found


def reached(place: Place) -> list[str]:
    """The servers that answer whoever asks."""
    found = []
    with suppress(psycopg.Error), psycopg.connect(postgres_url(place)) as db:
        found.append(f"PostgreSQL {db.execute('select 1').fetchone()}")
    with suppress(OSError), socket.socket(socket.AF_UNIX) as redis:
        redis.connect(str(socket_path(place)))
        found.append("Redis")
    return found


def everything(place: Place) -> list[Path]:
    """Each file and directory of the servers, and what the kernel shows of their processes."""
    below = [path for top in (place.data_dir, place.postgres_data) for path in top.rglob("*")]
    return [path for path in (place.data_dir, place.postgres_data, *below) if not path.is_socket()]


def inside(pids: list[int]) -> list[Path]:
    return [
        Path(f"/proc/{pid}") / name for pid in pids for name in ("cwd", "environ", "mem", "fd/5", "root/etc/passwd")
    ]


def shared_memory(pids: dict[str, int]) -> list[Path]:
    user = psutil.Process(pids["PostgreSQL"]).uids().real
    return [path for path in SHARED_MEMORY.glob("PostgreSQL.*") if path.stat().st_uid == user]


def the_place(data_dir: Path) -> Place:
    place = find_place(data_dir)
    assert place is not None
    return place


def test_another_user_reads_no_file_and_reaches_no_server(data_dir: Path, other: tuple[int, int]) -> None:
    with EmbeddedServers(data_dir, durable=False) as servers:
        place = the_place(data_dir)
        pids = servers.pids()
        files = [*everything(place), *inside(list(pids.values())), *shared_memory(pids)]
        assert len(files) > 900
        assert as_other(other, lambda: readable(files)) == []
        assert as_other(other, lambda: reached(place)) == []
        assert len(reached(place)) == 2, "root itself reaches both"


def test_another_user_is_not_let_in_where_the_directories_are_open(data_dir: Path, other: tuple[int, int]) -> None:
    """A second wall: who connects must be who started it."""
    with EmbeddedServers(data_dir, redis=False, durable=False):
        place = the_place(data_dir)
        for directory in (place.base, place.sockets, place.postgres_sockets):
            directory.chmod(0o755)
        (place.postgres_sockets / ".s.PGSQL.5432").chmod(0o777)
        assert as_other(other, lambda: reached(place)) == []


def test_what_ran_as_nobody_before_is_private_after_the_next_start_and_keeps_its_data(data_dir: Path) -> None:
    """As earlier versions left it: owned by `nobody`, in a directory that all may enter, with trust."""
    with EmbeddedServers(data_dir, durable=False):
        urls = locate(data_dir)
        assert urls is not None
        assert urls.database_url is not None
        with psycopg.connect(urls.database_url) as db:
            db.execute("create table kept ()")
    place = the_place(data_dir)
    for path in (place.postgres_data, *place.postgres_data.rglob("*")):
        os.chown(path, NOBODY.pw_uid, NOBODY.pw_gid)
    (place.postgres_data / "pg_hba.conf").write_text("local all all trust\n")
    place.base.chmod(0o755)
    before = everything(place)
    assert as_other(OTHERS["nobody"], lambda: len(readable(before))) > 900
    with EmbeddedServers(data_dir, durable=False):
        with psycopg.connect(postgres_url(place)) as db:
            assert db.execute("select to_regclass('kept') is not null").fetchone() == (True,)
        now = everything(place)
        assert as_other(OTHERS["nobody"], lambda: readable(now)) == []
        assert as_other(OTHERS["nobody"], lambda: reached(place)) == []


def test_the_user_id_of_its_own_is_no_users_and_no_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    group = next(group.gr_gid for group in grp.getgrall() if group.gr_gid not in {u.pw_uid for u in pwd.getpwall()})
    monkeypatch.setattr(data_dir_module, "PRIVATE_IDS", (0, NOBODY.pw_uid, group, 54_321))
    assert private_id() == 54_321
    monkeypatch.setattr(data_dir_module, "PRIVATE_IDS", (0, NOBODY.pw_uid))
    with pytest.raises(SettingsError, match="CASELOG_DATABASE_URL"):
        private_id()
