"""A PgBouncer of a test's own, in front of the tests' PostgreSQL."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Self
from urllib.parse import parse_qs, urlsplit

import psycopg

from caselog.workers.process.supervisor import die_with_parent
from support.processes.pipeline import eventually
from support.servers.free_ports import free_port
from support.servers.open_server import as_owner, asking_nobody, owner_of

# Debian's lies in sbin, which is not on everybody's path.
PROGRAM: Final = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


class PgBouncer:
    """A pooler of so many sessions, on a socket of its own; a context manager. `url` leads through it."""

    def __init__(self, database_url: str, *, mode: str = "transaction", sessions: int = 4, **settings: str) -> None:
        assert PROGRAM is not None
        parts = urlsplit(database_url)
        (host,) = parse_qs(parts.query)["host"]
        self._database = parts.path.strip("/")
        # As the owner of the server's socket, who can reach it; as root it would not run at all.
        self._open = ExitStack()
        self._open.enter_context(asking_nobody(database_url))
        self._directory = Path(tempfile.mkdtemp(prefix="caselog-pgb-"))
        self._port = free_port()
        lines = {
            "listen_port": str(self._port),
            "listen_addr": "",
            "unix_socket_dir": str(self._directory),
            "auth_type": "any",
            "pool_mode": mode,
            "default_pool_size": str(sessions),
            "max_client_conn": "200",
            "server_lifetime": "3600",
            **settings,
        }
        config = self._directory / "pgbouncer.ini"
        target = f"host={host} port=5432 user={parts.username} dbname={self._database}"
        config.write_text(
            f"[databases]\n{self._database} = {target}\n[pgbouncer]\n"
            + "".join(f"{name} = {value}\n" for name, value in lines.items())
        )
        for path in (self._directory, config):
            os.chown(path, *owner_of(database_url))
        self.log = self._directory / "log"
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                [PROGRAM, str(config)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGKILL),  # noqa: PLW1509 - safe here, see die_with_parent
                **as_owner(database_url),
            )
        self.url = f"postgresql://{parts.username}@/{self._database}?host={self._directory}&port={self._port}"

    def __enter__(self) -> Self:
        try:
            eventually(self._answers, "PgBouncer answers")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave no process and no directory."""
        self._process.kill()
        self._process.wait()
        self._open.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _answers(self) -> bool:
        assert self._process.poll() is None, self.log.read_text()
        try:
            psycopg.connect(self.url, prepare_threshold=None).close()
        except psycopg.OperationalError:
            return False
        return True
