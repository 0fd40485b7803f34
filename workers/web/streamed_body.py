"""A large answer that is sent while it is still being written.

It is written by a thread of its own into a file without a name, and read from there: what is slow to read holds a
file and no connection to the database (docs/decisions/0066).
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Iterator
from tempfile import TemporaryFile
from typing import BinaryIO, Final

CHUNK_BYTES: Final = 64 * 1024
# Below a second, so that what is long begins to arrive within one.
WHOLE_WITHIN_S: Final = 0.5


class Answer:
    """What `write` writes, from now on. To be asked for its `size`, and then to be read once or closed."""

    def __init__(self, write: Callable[[BinaryIO], None]) -> None:
        self._write = write
        self._file = TemporaryFile(buffering=0)  # noqa: SIM115 - closed by whoever is done last, writer or reader
        self._changed = threading.Condition()
        self._written = 0
        self._is_over = self._is_closed = False
        self._error: BaseException | None = None
        threading.Thread(target=self._run, name="answer", daemon=True).start()

    def size(self, within_s: float = WHOLE_WITHIN_S) -> int | None:
        """Its size in bytes, where it is whole in time; else None. Raises what `write` raised until then."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_over, within_s)
            if self._error is not None:
                raise self._error
            return self._written if self._is_over else None

    def chunks(self) -> Iterator[bytes]:
        """All of it, piece by piece, as it is written; blocks for more. Raises where the rest will never come.

        So a reader that was promised no length is cut off, and does not take a part for the whole.
        """
        at = 0
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._is_over or self._written > at)  # noqa: B023 - asked at once
                    if self._written == at:
                        if self._error is not None:
                            raise self._error
                        return
                chunk = os.pread(self._file.fileno(), CHUNK_BYTES, at)
                at += len(chunk)
                yield chunk
        finally:
            self.close()

    def close(self) -> None:
        """Nobody reads on: what is still being written is given up at its next piece."""
        with self._changed:
            self._is_closed = True
            if self._is_over:
                self._file.close()

    def __del__(self) -> None:
        self.close()  # a client may go away before the first piece is asked for

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            with io.BufferedWriter(_Growing(self._grow), CHUNK_BYTES) as out:
                self._write(out)
        except BaseException as raised:  # noqa: BLE001 - the reader's thread raises it
            error = raised
        with self._changed:
            self._error, self._is_over = error, True
            if self._is_closed:
                self._file.close()
            self._changed.notify_all()

    def _grow(self, data: bytes) -> None:
        with self._changed:
            if self._is_closed:
                raise BrokenPipeError("nobody reads the answer any more")
            self._file.write(data)
            self._written += len(data)
            self._changed.notify_all()


class _Growing(io.RawIOBase):
    """Hands on what is written."""

    def __init__(self, grow: Callable[[bytes], None]) -> None:
        self._grow = grow

    def writable(self) -> bool:
        return True

    def write(self, data: object, /) -> int:
        piece = bytes(data)  # type: ignore[call-overload]  # any buffer
        self._grow(piece)
        return len(piece)
