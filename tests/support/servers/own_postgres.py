"""PostgreSQL servers of a test's own, on ports: copies of the tests' one, to be killed, followed and promoted."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit

import psycopg

from caselog.workers.process.supervisor import die_with_parent
from caselog.workers.servers.child_process import ENVIRONMENT
from caselog.workers.servers.postgres import SETTINGS
from support.processes.patience import DEADLINE_S
from support.processes.pipeline import eventually
from support.servers.free_ports import free_port
from support.servers.open_server import as_owner, asking_nobody, owner_of

_WHOEVER: Final = ("local all all trust", "host all all 127.0.0.1/32 trust")
_FOLLOWERS: Final = ("local replication all trust", "host replication all 127.0.0.1/32 trust")


class OwnPostgres:
    """A context manager: a copy of the server of `database_url`, or a hot standby of such a copy (`of`).

    `rules` are lines of pg_hba.conf; unless given, whoever reaches the port may connect. `url` leads to the same
    database there as the caselog that owns it; `address` is its host and port as they stand in a list.
    """

    def __init__(
        self, database_url: str, *, of: OwnPostgres | None = None, rules: Sequence[str] = _WHOEVER, **settings: str
    ) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="caselog-pg-"))
        os.chown(self.directory, *owner_of(database_url))
        self.data = self.directory / "data"
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        parts = urlsplit(database_url)
        self.user, self.database = parts.username or "", parts.path.strip("/")
        self.url = f"postgresql://{self.user}@{self.address}/{self.database}"
        self.like, self._of, self._rules, self._settings = database_url, of, rules, settings
        assert of is None or of.like == database_url
        self._as = as_owner(database_url)
        self._process: subprocess.Popen[bytes] | None = None
        with psycopg.connect(database_url) as db:
            [told] = db.execute("show data_directory").fetchone() or [""]
        # Whose command line is where the programs lie: for root they are a copy that the owner can reach.
        pid = int(Path(told, "postmaster.pid").read_text().split()[0])
        self._programs = Path(f"/proc/{pid}/exe").readlink().parent

    def __enter__(self) -> Self:
        try:
            if self._of is None:
                with asking_nobody(self.like):
                    self._copy(self.like)
            else:
                self._copy(f"postgresql://{self.user}@{self._of.address}/postgres", "-R")
            (self.data / "pg_hba.conf").write_text("\n".join((*self._rules, *_FOLLOWERS, "")))
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start it, also after it was killed, and wait until it answers."""
        settings = {
            **{name: SETTINGS[name] for name in ("max_connections", "max_locks_per_transaction")},
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.directory),
            "shared_buffers": "32MB",
            "fsync": "off",  # it is killed, its machine is not
            **self._settings,
        }
        argv = [str(self._programs / "postgres"), "-D", str(self.data)]
        argv += [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                argv,
                env=ENVIRONMENT,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGQUIT),  # noqa: PLW1509 - safe here, see die_with_parent
                **self._as,
            )
        eventually(self._answers, "PostgreSQL answers")

    def die(self) -> None:
        """As SIGQUIT does it: no session is told anything, nothing is flushed, and nobody is left."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGQUIT)
            process.wait(DEADLINE_S)

    def promote(self) -> None:
        """From a standby to a primary, on a new timeline; it takes writes when this returns."""
        self.execute("select pg_promote(true)")
        eventually(lambda: self.one("select pg_is_in_recovery()") is False, "the standby is promoted")

    def execute(self, *statements: str) -> None:
        """As the superuser, past `rules`."""
        with psycopg.connect(self._by_socket(), autocommit=True) as db:
            for statement in statements:
                db.execute(statement.encode())

    def one(self, query: str) -> object:
        with psycopg.connect(self._by_socket(), autocommit=True) as db:
            row = db.execute(query.encode()).fetchone()
            assert row is not None
            found: object = row[0]
            return found

    def close(self) -> None:
        """Leave no process and no directory."""
        self.die()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _copy(self, url: str, *more: str) -> None:
        program = str(self._programs / "pg_basebackup")
        argv = [program, "-d", url, "-D", str(self.data), "-X", "stream", "--checkpoint=fast", "--no-sync", *more]
        subprocess.run(argv, check=True, env=ENVIRONMENT, cwd=self.directory, timeout=DEADLINE_S, **self._as)

    def _by_socket(self) -> str:
        return f"postgresql://{self.user}@/{self.database}?host={self.directory}&port={self.port}"

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.directory / "log").read_text()
        with suppress(psycopg.OperationalError):
            return self.one("select 1") == 1
        return False
