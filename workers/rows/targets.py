"""Where exported files go: a directory, or an object store by its URL. What is visible there is whole.

In a directory a file is written under a name that begins with a dot and renamed when it is complete. On an object
store it appears with the end of its upload. fsspec has the stores (`STORES`), each by a library that is installed
beside it; what else fsspec knows (servers of files, caches, chains of them) is refused.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

from caselog.events.credentials import hide
from caselog.events.errors import CaselogError
from caselog.events.phrases import sentence

# Part of an upload, held in memory. Object stores take up to 10,000 parts: files of up to 160 GB.
PART_BYTES: Final = 16 * 1024 * 1024
BUFFER_BYTES: Final = 256 * 1024
SAID_CHARACTERS: Final = 300
# Object stores, whose uploads appear whole. No place of one machine, and no server that whoever asks could name.
STORES: Final = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az")
_STORE: Final = re.compile(r"([a-z][a-z0-9]+)://(.*)", re.IGNORECASE | re.DOTALL)
_FILE: Final = re.compile(r"(?:file|local)://(?:localhost)?(/.*)", re.IGNORECASE | re.DOTALL)
# A scheme, a chain of them, a drive of Windows; a path with a colon in its first name looks the same.
_NO_PATH: Final = re.compile(r"[^/:]*:|\\\\")
_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class BadTarget(CaselogError):
    """Nothing can be exported to there; one line that says why and what to do."""


class StoreError(CaselogError):
    """The object store refused, or could not be reached; one line with what it said."""


class Unpublished(Protocol):
    """A file that nobody sees yet. `complete` and then `publish`, or else `discard`; each may block on the network."""

    out: BinaryIO

    def complete(self) -> int:
        """Send what is left; nothing can be written any more. Returns the size in bytes.

        Raises `OSError` or `StoreError`.
        """

    def publish(self) -> None:
        """Make it visible under its name, whole, and quickly. Raises as `complete`."""

    def discard(self) -> None:
        """Leave nothing of it. Does not raise."""


class Target(Protocol):
    """A place for files. Its methods raise `OSError` or `StoreError`."""

    def create(self, name: str, holder: str) -> Unpublished:
        """Begin a file; `holder` tells it from other beginnings of the same one."""

    def remove(self, name: str) -> None:
        """Remove the file and what dead beginnings of it left; that there is none is fine."""

    def remove_leftovers(self, name: str) -> None:
        """Remove what dead beginnings of the file left."""


def plain_url(url: str) -> str:
    """The URL, or the absolute path of a directory. Raises `BadTarget` where it could hold a secret: it is kept.

    What is refused for its kind is not repeated: who forgot a part of a URL may have put a secret in its place.
    """
    store = _STORE.fullmatch(url)
    if store is not None and store[1].lower() in STORES:
        return _store_url(url, store[1], store[2])
    file = _FILE.fullmatch(url)
    if not url or (file is None and _NO_PATH.match(url)):
        raise BadTarget(
            f"exports go to a directory, or to {_stores()}, such as s3://bucket/exports, and to nothing else; of a "
            "directory whose name has a colon, give the absolute path"
        )
    try:
        path = Path(url if file is None else file[1]).expanduser()
        return os.path.normpath(path.absolute())
    except RuntimeError:  # ~somebody
        raise BadTarget("exports go to a directory: there is no home directory of this name") from None


def _store_url(url: str, scheme: str, rest: str) -> str:
    bucket, _, path = rest.partition("/")
    if "@" in bucket or "?" in rest or "#" in rest:
        raise BadTarget(
            f"a URL of {scheme}:// may hold no user, password or query, since it is kept and shown: "
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or FSSPEC_<STORE>_<OPTION>) for the tasks workers"
        )
    if not _BUCKET.fullmatch(bucket) or "::" in path or {"..", "."} & {*path.split("/")}:
        raise BadTarget(
            f"a URL of {scheme}:// is a bucket and a path, such as s3://bucket/exports, and no chain of URLs"
        )
    return url.rstrip("/")


def refuse_outside(target: str, exports: str) -> None:
    """Raises `BadTarget` for a directory that is neither that of the setting nor below it, links followed.

    A worker writes with its own rights, for whoever may ask. What it may do on a store, its credentials there say.
    """
    if not target.startswith("/"):
        return
    with suppress(OSError, RuntimeError):  # a circle of links is below nothing
        if exports.startswith("/") and Path(target).resolve().is_relative_to(Path(exports).resolve()):
            return
    raise BadTarget(
        f"{target!r} is not in the directory of exports, {exports!r}. Give one in there, or set CASELOG_EXPORT_URL to "
        "where they may go, for the tasks workers and where exports are asked for"
    )


def open_target(url: str) -> Target:
    """The place of a URL that `plain_url` gave. Nothing is connected or looked at yet.

    Raises `BadTarget` where its library is not installed, which is worth knowing before anybody waits.
    """
    if url.startswith("/"):
        return _Directory(Path(url))
    store = _STORE.fullmatch(plain_url(url))
    if store is None:
        raise BadTarget("exports go to a directory by its absolute path, or to a store")
    return _Store(store[1].lower(), url)


def _stores() -> str:
    return ", ".join(f"{name}://" for name in STORES)


def location(url: str, name: str) -> str:
    return f"{url.rstrip('/')}/{name}"


class _Directory:
    """A directory, made when it is needed: its files may hold personal data, so that only its owner enters it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def create(self, name: str, holder: str) -> Unpublished:
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return _Hidden(self._path / f".{name}.{holder}.part", self._path / name)

    def remove(self, name: str) -> None:
        self.remove_leftovers(name)
        (self._path / name).unlink(missing_ok=True)

    def remove_leftovers(self, name: str) -> None:
        for left in self._path.glob(f".{name}.*.part"):
            left.unlink(missing_ok=True)


class _Hidden:
    def __init__(self, hidden: Path, path: Path) -> None:
        self._hidden, self._path = hidden, path
        self.out: BinaryIO = hidden.open("xb")

    def complete(self) -> int:
        self.out.flush()
        size = self.out.tell()
        os.fsync(self.out.fileno())
        self.out.close()
        return size

    def publish(self) -> None:
        self._hidden.replace(self._path)
        directory = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)  # a power cut must not undo what is said to be done
        finally:
            os.close(directory)

    def discard(self) -> None:
        with suppress(OSError):  # a full disk may refuse the rest of the buffer
            self.out.close()
        with suppress(OSError):
            self._hidden.unlink(missing_ok=True)


class _Store:
    """An object store. Its credentials are the environment's, read by the store's own library."""

    def __init__(self, scheme: str, url: str) -> None:
        import fsspec  # noqa: PLC0415 - a directory needs none of it

        self._url = url
        try:
            fsspec.get_filesystem_class(scheme)
        except ImportError as error:
            extra = "pip install 'caselog[workers,s3]'" if scheme in ("s3", "s3a") else hide(str(error))
            raise BadTarget(f"{url!r} needs a library that is not installed here: {extra}") from None
        with _saying(url):
            # An instance of our own: a cached one would remember listings, and open files of other threads.
            self._store, self._path = fsspec.url_to_fs(url, skip_instance_cache=True)

    def create(self, name: str, holder: str) -> Unpublished:  # noqa: ARG002 - an upload has an id of its own
        with _saying(self._url):
            opened = self._store.open(location(self._path, name), "wb", autocommit=False, block_size=PART_BYTES)
        return _Upload(opened, self._url)

    def remove(self, name: str) -> None:
        with _saying(self._url), suppress(FileNotFoundError):
            self._store.rm_file(location(self._path, name))

    def remove_leftovers(self, name: str) -> None:
        """An upload that was not ended is no file: the store's own rule for such uploads deletes it."""


class _Upload:
    def __init__(self, opened: Any, url: str) -> None:
        self._opened, self._url = opened, url
        self.out: BinaryIO = io.BufferedWriter(_Parts(opened, url), BUFFER_BYTES)

    def complete(self) -> int:
        self.out.flush()
        with _saying(self._url):
            size: int = self._opened.tell()
            self._opened.close()
        return size

    def publish(self) -> None:
        with _saying(self._url):
            self._opened.commit()

    def discard(self) -> None:
        # Libraries of stores raise what they like; whatever they do, nothing was committed.
        for end in (self.out.close, self._opened.close, self._opened.discard):
            with suppress(Exception):
                end()


class _Parts(io.RawIOBase):
    """The file of a store's library, whose errors say which store it was."""

    def __init__(self, opened: Any, url: str) -> None:
        self._opened, self._url = opened, url

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        with _saying(self._url):
            self._opened.write(bytes(data))
        return len(data)


@contextmanager
def _saying(url: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        said = " ".join(hide(str(error)).split())[:SAID_CHARACTERS] or type(error).__name__
        raise StoreError(
            f"{url!r} cannot be used: {sentence(said)} Check that it exists and what the tasks workers may do there, "
            "then ask again"
        ) from error
