"""One address of PostgreSQL that leads to another server from one moment to the next, as after a failover."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg


class Address:
    """A link to the directory of a server's socket; `url` stays what it is, wherever it leads."""

    def __init__(self, directory: Path, database_url: str) -> None:
        self._link = directory / "postgres"
        self._leads_to = database_url
        self.url = urlsplit(database_url)._replace(query=f"host={self._link}").geturl()
        self._point()

    def lead_to(self, database_url: str) -> None:
        """New sessions are that server's; those that caselog has of the one before are ended."""
        before, self._leads_to = self._leads_to, database_url
        self._point()
        with psycopg.connect(before, autocommit=True) as db:
            db.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where datname = current_database() and application_name like 'caselog%'"
            )

    def _point(self) -> None:
        (sockets,) = parse_qs(urlsplit(self._leads_to).query)["host"]
        other = self._link.with_suffix(".new")
        other.symlink_to(sockets)
        other.rename(self._link)
