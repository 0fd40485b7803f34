"""Transactions that may fail for two kinds of reasons: what the world did (try again), and what a row did."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg
from sqlalchemy.exc import DBAPIError

from events.errors import CaselogError
from schema.copying import broke
from schema.store import TAKEN

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


class Contended(CaselogError):
    """Another recorder recorded an event or created a case of this batch meanwhile: roll back and load again."""


@contextmanager
def translated() -> Iterator[None]:
    """Within, tell what the world did from what a row did.

    Raises `OtherSchema`, `DatabaseAway`, `Contended`, or the error as it is.
    """
    try:
        yield
    except DBAPIError as error:
        state = getattr(error.orig, "sqlstate", None) or ""
        if state in _AGAIN or broke(error) in TAKEN:
            raise Contended from error
        # Without a state it was psycopg that refused the value, before anything was sent.
        unsent = not state and isinstance(error.orig, psycopg.DataError | psycopg.ProgrammingError)
        blames_row = state.startswith(_REFUSED_ROW) or unsent
        if blames_row and not error.connection_invalidated:
            raise
        said = f"PostgreSQL: {str(error.orig).strip() or type(error.orig).__name__}"
        raise (OtherSchema if state in _OTHER_SCHEMA else DatabaseAway)(said) from error
