"""The pause of all recorders: one row while they are to consume nothing, none while they record."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, text

from caselog.schema.operations import audit

# Who paused, where no person did: the recorders themselves (docs/design.md "A bad deploy").
BREAKER: Final = "breaker"


class Pause(msgspec.Struct, frozen=True, kw_only=True):
    """Who paused the recorders, since when (the database's clock) and why.

    `deploy` is what the breaker's recorder ran (`caselog.workers.process.build_info`): another one lifts the pause.
    None: a person's pause.
    """

    who: str
    since: datetime
    why: str
    deploy: str | None = None

    @property
    def is_breakers(self) -> bool:
        return self.deploy is not None

    def in_words(self) -> str:
        return f"paused by {self.who} since {self.since:%Y-%m-%d %H:%M:%S} UTC: {self.why}"


_COLUMNS: Final = "who, since, why, deploy"


def find_pause(db: Connection) -> Pause | None:
    """The pause in force. One look-up in a table of one row: cheap enough for every second."""
    row = db.execute(text(f"select {_COLUMNS} from pause")).one_or_none()  # noqa: S608 - our own column names
    return None if row is None else Pause(**row._mapping)  # noqa: SLF001 - SQLAlchemy's documented name


def pause(db: Connection, *, who: str, why: str) -> Pause | None:
    """Pause all recorders, and write it down. None where a person's pause is in force already: nothing is changed.

    The breaker's pause is taken over, so that a deploy no longer lifts it. Recorders see it within about a second of
    the commit.
    """
    taken_over = "do update set who = excluded.who, since = excluded.since, why = excluded.why, deploy = null"
    row = {"who": who, "why": why, "deploy": None}
    return _pause(db, row, f"{taken_over} where pause.deploy is not null", {})


def trip(db: Connection, *, why: str, deploy: str, detail: Mapping[str, Any]) -> Pause | None:
    """The breaker's pause, for the recorders of that deploy. None where recorders are paused already."""
    return _pause(db, {"who": BREAKER, "why": why, "deploy": deploy}, "do nothing", detail)


def resume(db: Connection, *, who: str, why: str | None) -> Pause | None:
    """Lift the pause in force, and write it down. Gives back what was lifted; None where nothing was paused."""
    return _lift(db, "true", who, why, {})


def resume_after_deploy(db: Connection, deploy: str) -> Pause | None:
    """Lift the breaker's pause where another deploy than `deploy` caused it; a person's pause stays."""
    return _lift(db, "deploy <> :deploy", "deploy", "a recorder of another deploy has started", {"deploy": deploy})


def _pause(db: Connection, values: dict[str, str | None], on_conflict: str, detail: Mapping[str, Any]) -> Pause | None:
    row = db.execute(
        text(
            "insert into pause (who, why, deploy) values (:who, :why, :deploy) "  # noqa: S608 - our own words
            f"on conflict (one) {on_conflict} returning {_COLUMNS}"
        ),
        values,
    ).one_or_none()
    if row is None:
        return None
    paused = Pause(**row._mapping)  # noqa: SLF001 - SQLAlchemy's documented name
    audit.record(db, who=paused.who, action="pause", why=paused.why, detail=detail)
    return paused


def _lift(db: Connection, condition: str, who: str, why: str | None, values: Mapping[str, Any]) -> Pause | None:
    row = db.execute(
        text(f"delete from pause where {condition} returning {_COLUMNS}"),  # noqa: S608 - our own words
        values,
    ).one_or_none()
    if row is None:
        return None
    lifted = Pause(**row._mapping)  # noqa: SLF001 - SQLAlchemy's documented name
    detail = {"paused_by": lifted.who, "paused_since": lifted.since, "paused_why": lifted.why}
    audit.record(db, who=who, action="resume", why=why, detail=detail)
    return lifted
