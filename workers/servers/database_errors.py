"""Transactions that may fail for two kinds of reasons: what the world did (try again), and what a row did."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from caselog.events.errors import CaselogError
from caselog.schema.recording.store import TAKEN
from caselog.schema.sessions.leaving import why_left
from caselog.schema.sql.copy import broke

# Deadlock and serialization failure: the same transaction succeeds when it is tried again.
_AGAIN: Final = ("40001", "40P01")
# Data exception, integrity violation, program limit exceeded: some row of the batch is to blame, not the world.
_REFUSED_ROW: Final = ("22", "23", "54")
# A table, a column or a function that is not there, or a column of another type.
_OTHER_SCHEMA: Final = ("42P01", "42703", "42883", "42804")


class DatabaseAway(CaselogError):
    """PostgreSQL cannot be used just now; nothing of the batch is known to be written. Try the batch again."""


class OtherSchema(DatabaseAway):
    """The database's schema is not this version's: it is still to be migrated, or a newer caselog has done so."""


def is_other_schema(error: BaseException) -> bool:
    """Whether the driver says that a table, a column or a function is not there, or is another one."""
    return getattr(getattr(error, "orig", error), "sqlstate", None) in _OTHER_SCHEMA


def which_schema(engine: Engine) -> str | None:
    """What to do about a schema that is not this version's, in a line; None where it is, or nobody can tell.

    Asks the database, and reads the migrations: for who has met another schema, and not again and again.
    """
    from caselog.schema.migrations.upgrade import tell_revisions  # noqa: PLC0415 - Alembic is not for who has the right schema

    try:
        with engine.connect() as db:
            return tell_revisions(db)
    except DBAPIError:
        return None


class Contended(CaselogError):
    """Another recorder recorded an event or created a case of this batch meanwhile: roll back and load again."""


class Taken(Contended):
    """As `Contended`, because a row that was to be new stands already. Loaded again, it is seen."""


class Outrun(DatabaseAway):
    """`Contended` in all attempts; the cause is the last one."""


@contextmanager
def translated() -> Iterator[None]:
    """Within, tell what the world did from what a row did.

    Raises `OtherSchema`, `DatabaseAway`, `Contended`, or the error as it is.
    """
    try:
        yield
    except DBAPIError as error:
        state = getattr(error.orig, "sqlstate", None) or ""
        is_left = error.orig is not None and why_left(error.orig) is not None
        if not is_left and broke(error) in TAKEN:
            raise Taken from error
        if not is_left and state in _AGAIN:
            raise Contended from error
        # Without a state it was psycopg that refused the value, before anything was sent.
        unsent = not state and isinstance(error.orig, psycopg.DataError | psycopg.ProgrammingError)
        blames_row = state.startswith(_REFUSED_ROW) or unsent
        if blames_row and not error.connection_invalidated:
            raise
        said = f"PostgreSQL: {str(error.orig).strip() or type(error.orig).__name__}"
        raise (OtherSchema if is_other_schema(error) else DatabaseAway)(said) from error
