"""Where the embedded servers keep their files: the data directory, the short one for sockets, and root's own one.

Three facts decide the layout. PostgreSQL refuses to run as root, and the user that it runs as instead cannot enter a
home directory of mode 700: so for root the database lies outside the data directory, under `/var/lib/caselog`. The
path of a Unix socket is limited to about 100 characters: so sockets lie in a short directory of their own. And the
permissions of a directory that is not ours are never changed. As `nobody`, which other programs are, too, PostgreSQL's
files would be theirs to read: so it runs as a user id that nobody has. See docs/embedded.md.
"""

from __future__ import annotations

import fcntl
import grp
import hashlib
import json
import os
import pwd
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from caselog.events.errors import SettingsError
from caselog.events.phrases import sentence

OUTSIDE_ROOT = Path("/var/lib/caselog")
# What systemd's table of user ids leaves to nobody, and a container that maps 65,536 of them still has.
PRIVATE_IDS = range(60_706, 61_184)
SOCKET_PATH_BYTES_MAX = 100  # sun_path holds 104 bytes on macOS and 108 on Linux, with the final zero
_SOCKET_NAME = "/postgres/.s.PGSQL.5432"
_RECORD = "place.json"
_TOKEN = re.compile(r"[0-9a-f]{12}")


@dataclass(frozen=True)
class Place:
    """The directories of one data directory's servers.

    `user_id` is the user and the group as which PostgreSQL runs; None: whoever starts it.
    """

    data_dir: Path
    base: Path  # what PostgreSQL's user can enter: the data directory itself, or root's directory outside
    sockets: Path
    user_id: int | None = None

    @property
    def postgres_data(self) -> Path:
        return self.base / "postgres"

    @property
    def postgres_programs(self) -> Path:
        """Where root keeps a copy of the programs, because PostgreSQL's user may not reach the virtual environment."""
        return self.base / "programs"

    @property
    def postgres_sockets(self) -> Path:
        return self.sockets / "postgres"

    @property
    def redis_data(self) -> Path:
        return self.data_dir / "redis"

    @property
    def redis_sockets(self) -> Path:
        return self.sockets / "redis"

    @property
    def logs(self) -> Path:
        return self.data_dir / "logs"


class AlreadyRunning(SettingsError):
    """Another `caselog up` holds the data directory."""


@contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Hold the data directory, made where it is missing. Raises `AlreadyRunning`, naming the process that holds it."""
    with _readable(data_dir):
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = (data_dir / "lock").open("a+")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise AlreadyRunning(
                f"caselog already runs on {str(data_dir)!r} (process {file.read().strip() or 'unknown'}). "
                "Stop it first, or set CASELOG_DATA_DIR to another directory"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield  # closing the file gives up the lock, and so does the end of the process, however it comes


def find_place(data_dir: Path) -> Place | None:
    """The place recorded in the data directory, or None where no server was started on it yet."""
    with _readable(data_dir):
        try:
            record = json.loads((data_dir / _RECORD).read_text())
        except FileNotFoundError:
            return None
        except ValueError:
            record = None
    match record:
        case {"token": str(token)} if _TOKEN.fullmatch(token):  # it becomes a path that root writes to and deletes
            return _outside(data_dir.resolve(), token)
        case {"sockets": str(sockets)}:
            return Place(data_dir.resolve(), data_dir.resolve(), Path(sockets))
        case _:
            raise SettingsError(f"CASELOG_DATA_DIR: {str(data_dir / _RECORD)!r} is damaged; delete that directory")


def make_place(data_dir: Path) -> Place:
    """The place of this data directory, with every directory there. The caller holds the lock."""
    with _readable(data_dir):
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        _refuse_foreign(data_dir)
        place = _place_of_root(data_dir) if os.geteuid() == 0 else _place_of_user(data_dir)
        for directory in (place.redis_data, place.logs, place.redis_sockets):
            directory.mkdir(mode=0o700, exist_ok=True)
        place.postgres_sockets.mkdir(mode=0o700, exist_ok=True)
        if place.user_id is not None:
            os.chown(place.postgres_sockets, place.user_id, place.user_id)
        for directory in (place.redis_sockets, place.postgres_sockets):
            directory.chmod(0o700)  # an earlier run may have left them
    return place


def orphans() -> Iterator[Path]:
    """Root's directories outside whose data directory was deleted: their servers must stop and they can go.

    The record in the data directory and the owner file outside are one file with two names (a hard link). A count of
    one name therefore means *deleted*, and never *moved* or *not mounted*. Where the two places are on different file
    systems no link is possible, nothing can be told, and the directory stays.
    """
    if os.geteuid() != 0 or not OUTSIDE_ROOT.is_dir():
        return
    with _outside_lock():
        for directory in OUTSIDE_ROOT.iterdir():
            owner = directory / "owner.json"
            if _TOKEN.fullmatch(directory.name) and (directory / "linked").exists() and owner.stat().st_nlink == 1:
                yield directory


def remove_place(place: Place) -> None:
    """Delete all that the servers left, outside the data directory too, and nothing else. They must have stopped."""
    remove_sockets(place)
    unfinished = place.base / "postgres.unfinished"
    for directory in (place.redis_data, place.logs, place.postgres_data, unfinished, place.postgres_programs):
        shutil.rmtree(directory, ignore_errors=True)
    for name in (_RECORD, "lock"):
        (place.data_dir / name).unlink(missing_ok=True)
    with suppress(OSError):  # files that are not ours remain, and the directory with them
        place.data_dir.rmdir()
    if place.base != place.data_dir:
        remove_outside(place.base)


def remove_sockets(place: Place) -> None:
    """Leave nothing in the temporary directory. The servers must have stopped; the next start makes them again."""
    for directory in (place.postgres_sockets, place.redis_sockets):
        shutil.rmtree(directory, ignore_errors=True)
    with suppress(OSError):
        place.sockets.rmdir()


def remove_outside(base: Path) -> None:
    """Delete a directory outside, whose servers have stopped."""
    shutil.rmtree(base, ignore_errors=True)


def _place_of_user(data_dir: Path) -> Place:
    data_dir = data_dir.resolve()
    known = find_place(data_dir)
    sockets = known.sockets if known is not None else _short_directory(data_dir)
    if not _is_ours(sockets):  # a cleaner of temporary files, or a restart of the machine, takes it away
        sockets = _short_directory(data_dir)
    sockets.mkdir(mode=0o700, exist_ok=True)
    sockets.chmod(0o700)  # it is ours, and nobody else can have put anything there
    (data_dir / _RECORD).write_text(json.dumps({"sockets": str(sockets)}))
    return Place(data_dir, data_dir, sockets)


def _short_directory(data_dir: Path) -> Path:
    """A directory for sockets, the same for the same data directory, so that what runs there is found again."""
    name = f"caselog-{os.geteuid()}-{hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:12]}"
    for parent in (Path(tempfile.gettempdir()), Path("/tmp")):  # noqa: S108 - owner-checked, and mode 700
        path = parent / name
        fits = len(os.fsencode(path)) + len(_SOCKET_NAME) <= SOCKET_PATH_BYTES_MAX
        if fits and (_is_ours(path) or not os.path.lexists(path)):
            return path
    raise SettingsError(
        f"no directory for the servers' sockets: {name!r} is someone else's in each temporary directory. "
        "Set TMPDIR to a short path of your own"
    )


def _is_ours(directory: Path) -> bool:
    """Whether it is a real directory that belongs to us, and no link that someone else put there."""
    try:
        found = directory.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()


def _place_of_root(data_dir: Path) -> Place:
    data_dir = data_dir.resolve()
    known = find_place(data_dir)
    try:
        _make_open(OUTSIDE_ROOT)
        with _outside_lock():
            if known is not None and known.base.is_dir():
                _refuse_copy(data_dir, known.base)
                place = known
            else:
                place = _new_outside(data_dir)
            _make_private(place)
    except OSError as error:
        raise SettingsError(
            f"root cannot keep the embedded PostgreSQL under {str(OUTSIDE_ROOT)!r}: {sentence(error)} "
            "Run caselog as another user, or set CASELOG_DATABASE_URL"
        ) from None
    _make_open(place.sockets)
    return place


def private_id() -> int:
    """A number that is no user's and no group's of this machine."""
    for number in PRIVATE_IDS:
        try:
            pwd.getpwuid(number)
        except KeyError:
            with suppress(KeyError):
                grp.getgrgid(number)
                continue
            return number
    raise SettingsError(
        f"each user id from {PRIVATE_IDS[0]} to {PRIVATE_IDS[-1]} is someone's, and root's embedded PostgreSQL "
        "needs one of its own. Run caselog as another user, or set CASELOG_DATABASE_URL"
    )


def _make_private(place: Place) -> None:
    """Let nobody but root and PostgreSQL's own user enter root's directory outside, whoever could before."""
    assert place.user_id is not None
    os.chown(place.base, 0, place.user_id)
    place.base.chmod(0o710)


def _make_open(directory: Path) -> None:
    """Make a directory that everyone may enter, whatever the umask. One that is there stays as it is."""
    if not directory.exists():
        directory.mkdir(parents=True)
        directory.chmod(0o755)


def _outside(data_dir: Path, token: str) -> Place:
    base = OUTSIDE_ROOT / token
    return Place(data_dir, base, base / "sockets", private_id())


def _new_outside(data_dir: Path) -> Place:
    place = _outside(data_dir, secrets.token_hex(6))
    place.base.mkdir(mode=0o700)
    owner = place.base / "owner.json"
    owner.write_text(json.dumps({"token": place.base.name, "data_dir": str(data_dir)}))
    _link(owner, data_dir / _RECORD)
    return place


def _link(owner: Path, record: Path) -> None:
    """Make the record a second name of the owner file, or a copy where the file systems differ."""
    record.unlink(missing_ok=True)
    try:
        os.link(owner, record)
        (owner.parent / "linked").touch()
    except OSError:
        shutil.copyfile(owner, record)
        (owner.parent / "linked").unlink(missing_ok=True)


def _refuse_copy(data_dir: Path, base: Path) -> None:
    owner = base / "owner.json"
    if not (base / "linked").exists() or owner.samefile(data_dir / _RECORD):
        return
    if owner.stat().st_nlink > 1:
        original = json.loads(owner.read_text())["data_dir"]
        raise SettingsError(
            f"{str(data_dir)!r} is a copy of {original!r}, but root's database lies outside of it, in {str(base)!r}. "
            "Delete the copy, or set CASELOG_DATA_DIR to another directory"
        )
    _link(owner, data_dir / _RECORD)  # moved here from another file system


def _refuse_foreign(data_dir: Path) -> None:
    owner_id = data_dir.stat().st_uid
    if owner_id != os.geteuid() and (data_dir / _RECORD).exists():
        raise SettingsError(
            f"CASELOG_DATA_DIR: the servers on {str(data_dir)!r} belong to user {owner_id}. Run caselog as that user, "
            "or set CASELOG_DATA_DIR to another directory"
        )


@contextmanager
def _outside_lock() -> Iterator[None]:
    """Between making a directory outside and linking it, nobody may take it for an orphan."""
    directory = os.open(OUTSIDE_ROOT, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


@contextmanager
def _readable(data_dir: Path) -> Iterator[None]:
    try:
        yield
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        raise SettingsError(
            f"CASELOG_DATA_DIR: {str(data_dir)!r} cannot be used ({error.strerror or error}). "
            "Set CASELOG_DATA_DIR to a directory of your own"
        ) from None
