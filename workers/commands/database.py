"""A command's connection to the database in force."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from workers.settings import Settings


@contextmanager
def reading() -> Iterator[Connection]:
    """A connection whose statements all see the database as it is at the first of them."""
    from schema.connection import make_engine
    from workers.services import find_database_url
    from workers.settings import load_settings

    engine = make_engine(find_database_url(load_settings()), application="caselog command")
    try:
        with engine.connect() as db:
            yield db.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    finally:
        engine.dispose()


@contextmanager
def writing() -> Iterator[tuple[Settings, Engine]]:
    """The settings and the database in force, for what is done by hand and written down."""
    from schema.connection import make_engine
    from workers import crashing
    from workers.services import find_database_url
    from workers.settings import load_settings

    settings = load_settings()
    crashing.arm(settings.crash_at)
    engine = make_engine(find_database_url(settings), application="caselog command")
    try:
        yield settings, engine
    finally:
        engine.dispose()


def known_case(db: Connection, reference: str) -> dict[str, Any]:
    """The case's columns by name. Raises `CaselogError` where there is no such case."""
    from events.errors import CaselogError
    from schema.exports import get_case

    found = get_case(db, reference)
    if found is None:
        raise CaselogError(
            f"there is no case {reference!r}. References are exact (caselog search finds parts of them); events that "
            f"wait for it: caselog queues"
        )
    return found
