"""The embedded servers of a data directory: a real PostgreSQL and a real Redis, for `caselog up` and for the tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from caselog.workers.servers.data_dir import (
    Place,
    find_place,
    make_place,
    orphans,
    remove_outside,
    remove_place,
    remove_sockets,
)
from caselog.workers.servers.postgres import LocalPostgres, accepts_postgres, postgres_url, stop_left_over_postgres
from caselog.workers.servers.redis import LocalRedis, accepts_redis, redis_url, stop_left_over_redis


@dataclass(frozen=True)
class EmbeddedUrls:
    """How to reach the servers that run; None: that one does not."""

    database_url: str | None  # postgresql://
    redis_url: str | None  # redis+socket://


class EmbeddedServers:
    """PostgreSQL and Redis on one data directory. The caller holds `data_dir.locked`, or owns the directory alone.

    On Linux the kernel stops the servers when the thread that started them ends, `kill -9` included. Elsewhere they
    go on, and the next `start` on the directory stops them first.
    """

    def __init__(self, data_dir: Path, *, postgres: bool = True, redis: bool = True, durable: bool = True) -> None:
        self._data_dir = data_dir
        self._wanted = (postgres, redis)
        self._durable = durable
        self._servers: list[LocalPostgres | LocalRedis] = []
        self._place: Place | None = None

    def start(self) -> EmbeddedUrls:
        """Start what is wanted and wait until it accepts connections: about a second the first time, less later.

        Raises `SettingsError` in one line where that cannot be; nothing runs then.
        """
        with_postgres, with_redis = self._wanted
        if not (with_postgres or with_redis):
            return EmbeddedUrls(None, None)
        for base in orphans():
            stop_left_over_postgres(base / "postgres", base / "sockets" / "postgres")
            stop_left_over_redis(base / "sockets" / "redis")
            remove_outside(base)
        place = self._place = make_place(self._data_dir)
        try:
            if with_redis:
                self._start(LocalRedis(place))
            if with_postgres:
                self._start(LocalPostgres(place, durable=self._durable))
        except BaseException:
            self.stop()
            raise
        return EmbeddedUrls(
            postgres_url(place) if with_postgres else None,
            redis_url(place) if with_redis else None,
        )

    def _start(self, server: LocalPostgres | LocalRedis) -> None:
        self._servers.append(server)
        server.start()

    def revive(self) -> list[str]:
        """Start again each server that ended by itself, on the same data. Gives back the names of those that did."""
        dead = [server for server in self._servers if server.has_died()]
        for server in dead:
            server.start()
        return [server.name for server in dead]

    def pids(self) -> dict[str, int]:
        """The process of each server that was started, by the server's name."""
        return {server.name: server.pid for server in self._servers if server.pid is not None}

    def stop(self) -> None:
        """Stop them cleanly. May block for half a minute. Harmless when they have stopped."""
        while self._servers:
            self._servers.pop().stop()
        if self._place is not None:
            remove_sockets(self._place)
            self._place = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def locate(data_dir: Path) -> EmbeddedUrls | None:
    """The servers that run on the data directory and accept connections now, or None where none does."""
    place = find_place(data_dir)
    if place is None:
        return None
    urls = EmbeddedUrls(
        postgres_url(place) if accepts_postgres(place) else None,
        redis_url(place) if accepts_redis(place) else None,
    )
    return None if urls == EmbeddedUrls(None, None) else urls


def uninstall(data_dir: Path) -> None:
    """Stop what runs on the data directory and delete all of its data, root's directory outside included."""
    place = find_place(data_dir)
    if place is None:
        return
    stop_all(place)
    remove_place(place)


def stop_all(place: Place) -> None:
    """Stop the servers on a place, whoever started them."""
    stop_left_over_redis(place.redis_sockets)
    stop_left_over_postgres(place.postgres_data, place.postgres_sockets)
