"""The hosts of a RabbitMQ cluster: which one is asked first, as this process has learned."""

from __future__ import annotations

import threading
from functools import cache
from urllib.parse import unquote

from caselog.events.transport.urls import ServiceUrl


class Hosts:
    """The URLs of one list, as they are tried: in their order, from the one on that was not seen to fail.

    What one connection learns, all others of this process know. Thread-safe.
    """

    def __init__(self, urls: tuple[ServiceUrl, ...]) -> None:
        self._urls = urls
        self._first = 0
        self._lock = threading.Lock()

    def in_order(self) -> tuple[ServiceUrl, ...]:
        """Each of them once."""
        first = self._first
        return self._urls[first:] + self._urls[:first]

    def name(self, url: ServiceUrl) -> str:
        """How its user finds it in the list: "URL 2 of 3, mq2:5672"."""
        ((host, port),) = url.hosts
        return (
            f"URL {self._urls.index(url) + 1} of {len(self._urls)}, {unquote(host) or '127.0.0.1'}{port and f':{port}'}"
        )

    def leave(self, url: ServiceUrl) -> None:
        """A connection to it failed. Where it is still the first, the next one is: others may have left it before."""
        with self._lock:
            if self._urls[self._first] == url:
                self._first = (self._first + 1) % len(self._urls)


@cache
def hosts_of(urls: tuple[ServiceUrl, ...]) -> Hosts:
    """The one `Hosts` of this process for these URLs."""
    return Hosts(urls)
