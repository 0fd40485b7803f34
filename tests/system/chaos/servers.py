"""The servers that the rig breaks: PostgreSQL and Redis, on data of its own."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Final, Protocol

import psycopg
from redis import Redis
from redis.exceptions import RedisError
from wire import Wire, Wires

from caselog.events.errors import SettingsError
from caselog.workers.servers.child_process import Program, ServerProcess
from caselog.workers.servers.data_dir import Place
from caselog.workers.servers.postgres import LocalPostgres, postgres_url
from caselog.workers.servers.redis import LocalRedis, accepts_redis, find_redis_server, socket_path

DEADLINE_S: Final = 60.0
REDIS_DISK_MB: Final = 96
POSTGRES_DISK_MB: Final = 700
_PIECE: Final = bytes(1 << 20)


def wait_until(is_so: Callable[[], object], what: str, within_s: float = DEADLINE_S) -> None:
    deadline_s = monotonic() + within_s
    while not is_so():
        if monotonic() > deadline_s:
            raise TimeoutError(f"never came true within {within_s:g} s: {what}")
        sleep(0.05)


class Disk:
    """A small file system of a server's own, to be filled. None of it where we may not mount."""

    def __init__(self, directory: Path, size_mb: int, owner: int | None = None) -> None:
        self.directory = directory
        self._ballast = directory / "ballast"
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "caselog-chaos", str(directory)],
            check=True,
            capture_output=True,
        )
        directory.chmod(0o700)
        if owner is not None:
            os.chown(directory, owner, owner)

    def fill(self, leave_mb: int = 0) -> None:
        with self._ballast.open("wb", buffering=0) as file:
            try:
                while shutil.disk_usage(self.directory).free > leave_mb << 20:
                    file.write(_PIECE)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise

    def free(self) -> None:
        self._ballast.unlink(missing_ok=True)

    def close(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.directory)], check=False, capture_output=True)


def may_mount() -> bool:
    return os.geteuid() == 0 and shutil.which("mount") is not None


class Server(Protocol):
    """A server process of ours."""

    @property
    def pid(self) -> int | None: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def has_died(self) -> bool: ...


class Owned:
    """A server behind its wire. `wanted` says whether it should run; `revive` starts it again where it should.

    One that `needs_room` neither starts on a full disk nor ends: nothing else would happen here for minutes, and the
    disk would stay full. So it gets its room first.
    """

    def __init__(self, name: str, server: Server, wire: Wire, disk: Disk | None, *, needs_room: bool = False) -> None:
        self.name, self.server, self.wire, self.disk, self.needs_room = name, server, wire, disk, needs_room
        self.wanted = True

    def send(self, number: signal.Signals) -> None:
        if self.server.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self.server.pid, number)

    def stop(self) -> None:
        """As an operator stops it."""
        self.wanted = False
        self.server.stop()

    def die(self, number: signal.Signals) -> None:
        """Without a goodbye, until `start`."""
        self.wanted = False
        self.send(number)

    def start(self) -> None:
        self.wanted = True
        self.revive()

    def revive(self) -> None:
        """Where it should run and does not, start it. On a full disk it may not: then the next call tries again."""
        if self.wanted and (self.server.has_died() or self.server.pid is None):
            if self.needs_room and self.disk is not None:
                self.disk.free()
            with suppress(SettingsError):
                self.server.start()

    def is_up(self) -> bool:
        """Whether it runs; where it should and does not, it is started."""
        self.revive()
        return self.server.pid is not None and not self.server.has_died()

    def close(self) -> None:
        """Leave no process and no disk behind."""
        self.send(signal.SIGCONT)
        if self.disk is not None:
            self.disk.free()
        self.stop()
        if self.disk is not None:
            self.disk.close()


class DurableRedis:
    """The embedded Redis, with each write on disk before it is confirmed, unless told otherwise.

    It starts with `everysec`: nobody gets to it before that is changed.
    """

    def __init__(self, place: Place, appendfsync: str) -> None:
        self.wire: Wire | None = None
        self._redis = LocalRedis(place)
        self._socket = str(socket_path(place))
        self._appendfsync = appendfsync

    @property
    def pid(self) -> int | None:
        return self._redis.pid

    def has_died(self) -> bool:
        return self._redis.has_died()

    def start(self) -> None:
        if self.wire is not None:
            self.wire.is_shut = True
        self._redis.start()
        try:
            with self.client() as client:
                client.config_set("appendfsync", self._appendfsync)
                client.config_set("auto-aof-rewrite-min-size", "8mb")
        except RedisError:  # it died again at once, of a full disk
            return
        if self.wire is not None:
            self.wire.is_shut = False

    def stop(self) -> None:
        self._redis.stop()

    def client(self) -> Redis:
        return Redis(unix_socket_path=self._socket, socket_timeout=5, protocol=2)


class SnapshotRedis:
    """A Redis without append-only file, as it comes: snapshots now and then, and one at an orderly shutdown."""

    def __init__(self, place: Place) -> None:
        self._socket = str(socket_path(place))
        options = {"port": "0", "unixsocket": self._socket, "dir": str(place.redis_data), "appendonly": "no"}
        self._process = ServerProcess(
            Program(
                name="Redis",
                argv=[find_redis_server(), *(word for name, value in options.items() for word in (f"--{name}", value))],
                directory=place.redis_data,
                log=place.logs / "redis.log",
                is_ready=lambda: accepts_redis(place),
                stop_signal=signal.SIGTERM,
            )
        )

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def has_died(self) -> bool:
        return self._process.has_died()

    def start(self) -> None:
        self._process.start()

    def stop(self) -> None:
        """SHUTDOWN SAVE. Where there is no room for the snapshot Redis refuses, and goes on."""
        try:
            with Redis(unix_socket_path=self._socket, socket_timeout=30, protocol=2) as client:
                client.shutdown(save=True)
        except RedisError:
            return
        self._process.stop()


def start_redis(place: Place, wires: Wires, appendfsync: str | None) -> tuple[Owned, str]:
    """A Redis behind a wire, and its URL; appendfsync None: without append-only file."""
    disk = Disk(place.redis_data, REDIS_DISK_MB) if may_mount() else None
    server = SnapshotRedis(place) if appendfsync is None else DurableRedis(place, appendfsync)
    server.start()
    wire = Wire(wires, socket_path(place))
    if isinstance(server, DurableRedis):
        server.wire = wire
    return Owned("Redis", server, wire, disk), f"redis://127.0.0.1:{wire.port}/0"


def start_postgres(place: Place, wires: Wires) -> tuple[Owned, str, str]:
    """A PostgreSQL behind a wire, its URL through the wire, and the one that leads there without."""
    server = LocalPostgres(place)
    server.start()
    disk = None
    if may_mount():
        server.stop()
        made = place.postgres_data.rename(place.postgres_data.with_suffix(".made"))
        place.postgres_data.mkdir(mode=0o700)
        disk = Disk(place.postgres_data, POSTGRES_DISK_MB, place.user_id)
        subprocess.run(["cp", "-a", f"{made}/.", str(place.postgres_data)], check=True)
        shutil.rmtree(made)
        server.start()
    direct = postgres_url(place)
    for setting in ("max_wal_size = '96MB'", "min_wal_size = '32MB'"):
        with psycopg.connect(direct, autocommit=True) as db:
            db.execute(f"alter system set {setting}".encode())
            db.execute("select pg_reload_conf()")
    wire = Wire(wires, place.postgres_sockets / ".s.PGSQL.5432")
    url = f"postgresql://caselog@127.0.0.1:{wire.port}/caselog?sslmode=disable&gssencmode=disable"
    return Owned("PostgreSQL", server, wire, disk, needs_room=True), url, direct


def kill_backend(direct_url: str, chance: random.Random, *, politely: bool) -> bool:
    """End one session of caselog's: by kill -9, after which PostgreSQL restarts itself, or as an administrator does."""
    try:
        with psycopg.connect(direct_url, connect_timeout=3) as db:
            query = "select pid from pg_stat_activity where application_name like 'caselog%' order by pid"
            pids = [row[0] for row in db.execute(query)]
            if not pids:
                return False
            if politely:
                db.execute("select pg_terminate_backend(pid) from unnest(%s::int[]) as pid", [pids])
                return True
    except psycopg.OperationalError:
        return False
    with suppress(ProcessLookupError, PermissionError):
        os.kill(chance.choice(pids), signal.SIGKILL)
    return True
