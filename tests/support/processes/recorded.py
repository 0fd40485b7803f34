"""A database with events recorded and reports added up, for tests that only read it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from typer.testing import CliRunner

from caselog.events.model.message import decode
from caselog.events.model.registry import autodiscover, event_registry
from caselog.schema.sessions.connection import make_engine
from caselog.workers.cli import app
from caselog.workers.recording.batch import Recording
from support.oracle.proof import RULES, add_up_reports
from support.oracle.stored import body


@contextmanager
def recorded(make_database: Callable[[str], str], template: str, events: Iterable[dict[str, Any]]) -> Iterator[str]:
    """The database's URL; it is dropped at the end."""
    database_url = make_database(template)
    autodiscover()
    engine = make_engine(database_url)
    Recording(engine, event_registry, RULES).record([decode(body(*events))])
    engine.dispose()
    add_up_reports(database_url)
    yield database_url
    name = database_url.partition("?")[0].rpartition("/")[2]
    with psycopg.connect(database_url.replace(f"/{name}?", "/postgres?", 1), autocommit=True) as db:
        db.execute(f"drop database {name} with (force)".encode())


def printed(database_url: str, *arguments: str) -> bytes:
    """What a command of `caselog` prints, run in this process."""
    done = CliRunner().invoke(app, arguments, env={"CASELOG_DATABASE_URL": database_url})
    assert done.exit_code == 0, done.output
    return done.stdout_bytes
