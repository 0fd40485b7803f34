"""Which server answers, by its system identifier and timeline, and whether it is one that a failover left behind.

A standby that is promoted begins a new timeline: a higher number of the same system. The old primary, should it come
back, is on the lower one, takes writes as ever, and nobody will ever see them. So each transaction asks, in the round
trip of its BEGIN, and one on a lower timeline than is known goes no further: nothing is written there, nothing read.
"""

from __future__ import annotations

import threading
from typing import Final

import msgspec
import psycopg

# Public, as PostgreSQL is delivered: an ordinary role may ask. `pg_control_checkpoint()` would tell the old timeline
# until the first checkpoint after a promotion; the name of the WAL file that is being written has the new one at once.
# A standby is not asked for it: it writes none.
WHICH_SERVER: Final = (
    b"; select (pg_catalog.pg_control_system()).system_identifier, case when pg_catalog.pg_is_in_recovery() then null "
    b"else pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()) end"
)
# Somebody took the right away, or what answers is no PostgreSQL in this: then there is no fence, and health says so.
NOT_TOLD: Final = ("42501", "42883", "0A000")
OLDER_TIMELINE: Final = "CLTML"
_TIMELINE_DIGITS: Final = 8


class Server(msgspec.Struct, frozen=True):
    """Of the server that has a transaction. `timeline` is None on a standby."""

    system: int
    timeline: int | None


class OlderTimeline(psycopg.OperationalError):
    """The server that answers is on a lower timeline than one that is known of the same system."""

    sqlstate = OLDER_TIMELINE

    def __init__(self, server: Server, known: int, host: str = "", port: int = 0) -> None:
        where = place(host, port)
        super().__init__(
            f"this server{f' ({where})' if where else ''} is on timeline {server.timeline}, and timeline {known} of "
            f"the same system {server.system} is known: it is an old primary that came back after a failover, or an "
            "older backup. Nothing is written to it. Stop it; what is known says: caselog continuity"
        )
        self.server, self.known = server, Server(server.system, known)
        self.host, self.port = host, port


class Fence:
    """The highest timeline known of each system. Thread-safe; engines that share one learn from each other."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[int, int] = {}
        self._acknowledged = 0
        self._system: int | None = None

    @property
    def met(self) -> tuple[Server | None, int]:
        """The system met last, with its highest timeline that is known, and the acknowledgements known of it.

        None where no server was met that tells: what Redis alone taught is not met.
        """
        with self._lock:
            timeline = None if self._system is None else self._known.get(self._system)
            server = None if self._system is None or timeline is None else Server(self._system, timeline)
            return server, self._acknowledged

    def learn(self, server: Server, acknowledged: int = 0) -> None:
        """A server that is known. With a higher number of acknowledgements, what was known before is forgotten.

        With a lower one it is from before an acknowledgement, as of a Redis that came back older, and says nothing.
        """
        if server.timeline is None:
            return
        with self._lock:
            if acknowledged < self._acknowledged:
                return
            if acknowledged > self._acknowledged:
                self._acknowledged = acknowledged
                self._known = {}
            self._known[server.system] = max(server.timeline, self._known.get(server.system, 0))

    def admit(self, server: Server, host: str = "", port: int = 0) -> None:
        """Raises `OlderTimeline` for a server that is fenced off; else it is known, and met, from now on."""
        if server.timeline is None:
            return
        with self._lock:
            known = self._known.get(server.system, 0)
            if server.timeline >= known:
                self._known[server.system] = server.timeline
                self._system = server.system
                return
        raise OlderTimeline(server, known, host, port)


def place(host: str, port: int) -> str:
    """Host and port as they are shown; empty where no host is known."""
    return f"{host}:{port}" if host else ""


def server_of(system: bytes | None, wal_file: bytes | None) -> Server:
    """From the answer to `WHICH_SERVER`."""
    return Server(int(system or 0), None if wal_file is None else int(wal_file[:_TIMELINE_DIGITS], 16))
