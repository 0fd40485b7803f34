"""Ports of 127.0.0.1 where nobody takes a connection: one that refuses, and one that is silent."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self


@contextmanager
def refusing() -> Iterator[int]:
    """A port that nobody else gets meanwhile, and where every connection is refused."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        yield port


class Silent:
    """A port that takes connections and never says a word; a context manager. `calls` counts them."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self._listener.setblocking(False)  # noqa: FBT003 - the standard library's own
        self._taken: list[socket.socket] = []
        self.port: int = self._listener.getsockname()[1]

    @property
    def calls(self) -> int:
        while True:
            try:
                self._taken.append(self._listener.accept()[0])
            except BlockingIOError:
                return len(self._taken)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for end in (*self._taken, self._listener):
            end.close()


def in_turn(good: str, dead: list[str]) -> list[list[str]]:
    """The good one first, in the middle and last."""
    return [[*dead[:at], good, *dead[at:]] for at in range(len(dead) + 1)]
