"""What rules that are no longer in force have made, until a rebuild writes it anew.

A migration that comes with other rules notes it (`outdated`, one row a projection), and `caselog rebuild` takes it out
in the transaction that writes the projection. Until then a check is red, and reports are withheld: a figure that is
half by the old rules and half by the new is a wrong one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
import psycopg
from sqlalchemy import Connection, text

from caselog.events.errors import CaselogError

REMEDY: Final = "run: caselog rebuild"


class Withheld(CaselogError):
    """A report would show what rules that are no longer in force made of the log; the message has the remedy."""


class Outdated(msgspec.Struct, frozen=True):
    """A projection (timers, cases or reports) that is to be rebuilt, since when, and why in words."""

    part: str
    since: datetime
    why: str


def find_outdated(db: Connection) -> list[Outdated]:
    """What is to be rebuilt, by its name; mostly nothing, and so in a database of a version that noted none."""
    if db.execute(text("select to_regclass('outdated')")).scalar_one() is None:
        return []
    return [Outdated(*row) for row in db.execute(text("select part, since, why from outdated order by part"))]


def told(found: Sequence[Outdated]) -> str:
    """What is to be rebuilt and why, in a line; `found` is not empty."""
    return f"{', '.join(one.part for one in found)} outdated since {found[0].since:%Y-%m-%d}: {found[0].why}"


def refuse_outdated(db: Connection) -> None:
    """Raises `Withheld` where anything is to be rebuilt: what cases and timers say goes into every report."""
    if found := find_outdated(db):
        raise Withheld(f"reports are withheld, since they would be wrong ({told(found)}): {REMEDY}")


def outdated_parts(session: psycopg.Connection[Any]) -> set[str]:
    """The names of what is to be rebuilt, for who has the driver's own session."""
    return {part for (part,) in session.execute("select part from outdated").fetchall()}


def forget_outdated(session: psycopg.Connection[Any], parts: Collection[str]) -> None:
    """Note that these have been written anew."""
    session.execute("delete from outdated where part = any(%s)", [list(parts)])
