"""An object store of a test's own, which behaves as real ones do through fsspec: what is committed is there."""

from __future__ import annotations

import threading
from typing import Any, ClassVar

import fsspec
from fsspec.spec import AbstractBufferedFile

from support.processes.patience import DEADLINE_S


class Bucket(fsspec.AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """`bucket://name/path`. What it holds is the class's, as a real one's is the server's."""

    protocol = "bucket"
    objects: ClassVar[dict[str, bytes]] = {}
    uploads: ClassVar[int] = 0
    """Begun, and neither committed nor discarded."""
    written: ClassVar[int] = 0
    """Bytes given to any upload."""
    fault: ClassVar[Exception | None] = None
    """Raised by every request while it is set."""
    is_open: ClassVar[threading.Event] = threading.Event()
    """A write waits for it."""
    is_waited_for: ClassVar[threading.Event] = threading.Event()
    """Set by a write that waits."""

    @classmethod
    def empty(cls) -> None:
        cls.objects, cls.uploads, cls.written, cls.fault = {}, 0, 0, None
        cls.is_open.set()
        cls.is_waited_for.clear()

    @classmethod
    def answer(cls) -> None:
        if cls.fault is not None:
            raise cls.fault

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **options: Any) -> _Upload:
        return _Upload(self, path, mode, block_size=block_size or "default", **options)

    def rm_file(self, path: str) -> None:
        self.answer()
        if path not in self.objects:
            raise FileNotFoundError(path)
        del self.objects[path]


class _Upload(AbstractBufferedFile):  # type: ignore[misc]  # likewise
    parts: list[bytes]
    is_begun = False

    def write(self, data: bytes) -> int:
        if not Bucket.is_open.is_set():
            Bucket.is_waited_for.set()
            assert Bucket.is_open.wait(DEADLINE_S)
        written: int = super().write(data)
        Bucket.written += written
        if not self.is_begun:
            self.is_begun = True
            Bucket.uploads += 1
        return written

    def _initiate_upload(self) -> None:
        Bucket.answer()
        self.parts = []

    def _upload_chunk(self, final: bool = False) -> bool:  # noqa: FBT001, FBT002 - fsspec's own
        Bucket.answer()
        self.parts.append(self.buffer.getvalue())
        if final and self.autocommit:
            self.commit()
        return True

    def commit(self) -> None:
        Bucket.answer()
        Bucket.objects[self.path] = b"".join(self.parts)
        self._end()

    def discard(self) -> None:
        self._end()

    def _end(self) -> None:
        Bucket.uploads -= self.is_begun
        self.is_begun = False
