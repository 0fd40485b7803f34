"""A hot standby of the tests' PostgreSQL, which replays at once, whoever reads meanwhile."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs, urlsplit

import psycopg

from caselog.workers.process.supervisor import die_with_parent
from caselog.workers.servers.child_process import ENVIRONMENT
from caselog.workers.servers.postgres import SETTINGS
from support.processes.patience import DEADLINE_S
from support.processes.pipeline import eventually
from support.servers.open_server import as_owner, asking_nobody, owner_of


class Standby:
    """A context manager; `url` is the same database there. The programs are those of the server that it follows."""

    def __init__(self, database_url: str) -> None:
        parts = urlsplit(database_url)
        (sockets,) = parse_qs(parts.query)["host"]
        self._primary_url = database_url
        self._as = as_owner(database_url)
        # Whose command line is where the program lies: for root it is a copy that the owner can reach.
        pid = int(Path(str(_one(database_url, "show data_directory")), "postmaster.pid").read_text().split()[0])
        self._programs = Path(f"/proc/{pid}/exe").readlink().parent
        self._primary_sockets, self._user = sockets, parts.username or ""
        self._directory = Path(tempfile.mkdtemp(prefix="caselog-sb-"))
        os.chown(self._directory, *owner_of(database_url))
        self._process: subprocess.Popen[bytes] | None = None
        self._open = ExitStack()
        self.url = f"postgresql://{parts.username}@{parts.path}?host={self._directory}"

    def __enter__(self) -> Self:
        self._open.enter_context(asking_nobody(self._primary_url))
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def _start(self) -> None:
        data = self._directory / "data"
        copying = [
            *(str(self._programs / "pg_basebackup"), "-h", self._primary_sockets, "-U", self._user, "-D", str(data)),
            *("-X", "stream", "-R", "--checkpoint=fast", "--no-sync"),
        ]
        subprocess.run(copying, check=True, env=ENVIRONMENT, cwd=self._directory, timeout=DEADLINE_S, **self._as)
        settings = {
            # No fewer than the primary has, or it does not start.
            **{name: SETTINGS[name] for name in ("listen_addresses", "max_connections", "max_locks_per_transaction")},
            "unix_socket_directories": str(self._directory),
            "max_standby_streaming_delay": "0",
            "fsync": "off",
        }
        argv = [str(self._programs / "postgres"), "-D", str(data)]
        argv += [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        self._process = subprocess.Popen(
            argv,
            env=ENVIRONMENT,
            cwd=self._directory,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=die_with_parent(signal.SIGQUIT),  # noqa: PLW1509 - safe here, see die_with_parent
            **self._as,
        )
        eventually(self._answers, "the standby answers")

    def fall_behind(self) -> None:
        """From here on it gets nothing of what its primary does."""
        self._execute("alter system set primary_conninfo = ''")
        self._execute("select pg_reload_conf()")
        eventually(lambda: _one(self.url, "select count(*) from pg_stat_wal_receiver") == 0, "it follows nobody")

    def promote(self) -> None:
        """It takes writes, on a timeline of its own; its primary goes on, and knows nothing of it."""
        self._execute("select pg_promote()")
        eventually(lambda: not _one(self.url, "select pg_is_in_recovery()"), "it takes writes")

    def _execute(self, statement: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as db:
            db.execute(statement.encode())

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave no process and no directory."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(DEADLINE_S)
        self._open.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None
        try:
            return _one(self.url, "select 1") == 1
        except psycopg.OperationalError:
            return False


def _one(url: str, query: str) -> str | int:
    with psycopg.connect(url) as db:
        row = db.execute(query.encode()).fetchone()
        assert row is not None
        found: str | int = row[0]
        return found
