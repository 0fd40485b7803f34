"""Bring a database to the current schema."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import OperationalError

from caselog.events.errors import CaselogError
from caselog.schema.operations import audit
from caselog.schema.recording.store import GATE
from caselog.schema.sessions.connection import make_engine
from caselog.schema.sessions.leaving import without_limits

MIGRATIONS: Final = Path(__file__).parent
# Any number that nothing else locks: two deploys that migrate at once take turns.
MIGRATION_LOCK: Final = 0x6361_7365_6C6F_67
# A lock is waited for so long; whoever comes after us waits as well meanwhile.
LOCK_WAIT_MS: Final = 2000
PAUSE_S: Final = 3.0
GIVE_UP_S: Final = 600.0
# A lock timeout, a deadlock.
IN_USE: Final = ("55P03", "40P01")


class By(NamedTuple):
    """Who migrates by hand, and why, for the audit."""

    who: str
    why: str | None


def migrate(
    database_url: str,
    tell: Callable[[str], object] = lambda _: None,
    *,
    back_to: str | None = None,
    by: By | None = None,
) -> tuple[str | None, str | None]:
    """Run every migration that is missing, in one transaction. Returns the revision before and after.

    `back_to`: undo those after that revision instead. `by`: write in the audit, in the same transaction, what was
    changed. Raises `CaselogError` where there is no such earlier one.

    Recorders may be at work: they finish their batches, wait while this runs, and then go on. Where a table is in use
    by somebody who takes longer, everything is given back, so that they go on meanwhile, and it is tried again: for
    `GIVE_UP_S` seconds, then `CaselogError` says by whom. `tell` is given a line for each time.

    A database that a newer caselog has migrated is left as it is, so that a roll-out may be taken back; `tell` is given
    a line that says so. What migrations outdated is for `caselog.workers.verification.rebuild` to write
    (`caselog.schema.recording.outdated`).
    """
    engine = make_engine(database_url, application="caselog migrate")
    give_up_s = time.monotonic() + GIVE_UP_S
    try:
        while True:
            try:
                return _migrate(engine, tell, back_to, by)
            except OperationalError as error:
                if getattr(error.orig, "sqlstate", None) not in IN_USE:
                    raise
            line = f"the database is in use ({_oldest_user(engine)})"
            if time.monotonic() > give_up_s:
                raise CaselogError(f"{line}, for {GIVE_UP_S:g} s now: nothing was changed. End that, and migrate again")
            tell(f"{line}; trying again in {PAUSE_S:g} s")
            time.sleep(PAUSE_S)
    finally:
        engine.dispose()


def _migrate(
    engine: Engine, tell: Callable[[str], object], back_to: str | None, by: By | None
) -> tuple[str | None, str | None]:
    with engine.begin() as connection:
        connection.execute(text(without_limits(here=True)))
        connection.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
        before = current_revision(connection)
        if is_ahead(before):
            if back_to is not None:
                raise CaselogError(
                    f"the database is at revision {before}, which this caselog does not know, and so cannot undo: run "
                    f"this with the newer one, to which it belongs"
                )
            tell(
                f"the database is at revision {before}, to which a newer caselog migrated it, and this one knows "
                f"{head_revision()}: nothing to migrate. Its workers record what they can; see docs/deploy.md"
            )
        elif before != (back_to or head_revision()):
            # From here on recorders wait; so whoever is waited for here must not take long.
            connection.execute(text("select set_config('lock_timeout', :ms, true)"), {"ms": str(LOCK_WAIT_MS)})
            connection.execute(text("select pg_advisory_xact_lock(:gate)"), {"gate": GATE})
            config = configuration()
            config.attributes["connection"] = connection
            if back_to is None:
                command.upgrade(config, "head")
            else:
                command.downgrade(config, _earlier(back_to, before))
        after = current_revision(connection)
        if by is not None and before != after:
            _note(connection, by, "migrate" if back_to is None else "migrate.back", {"from": before, "to": after}, tell)
        return before, after


def _note(
    connection: Connection, by: By, action: str, detail: Mapping[str, str | None], tell: Callable[[str], object]
) -> None:
    if connection.execute(text("select to_regclass('audit')")).scalar_one() is None:
        tell(f"this is not in the audit, which a database at revision {detail['to']} does not have yet")
        return
    audit.record(connection, who=by.who, action=action, why=by.why, detail=detail)


def _earlier(wanted: str, current: str | None) -> str:
    """That revision, where it is one of those that the database has been through."""
    script = ScriptDirectory.from_config(configuration())
    passed = [] if current is None else [step.revision for step in script.iterate_revisions(current, "base")][1:]
    if wanted not in passed:
        raise CaselogError(
            f"there is no revision {wanted!r} before {current}, at which the database is: choose one of "
            f"{', '.join(reversed(passed)) or 'none, it is the first'}. Nothing was changed"
        )
    return wanted


def _oldest_user(engine: Engine) -> str:
    """Who has had a transaction open for longest, in words."""
    with engine.connect() as connection:
        found = connection.execute(
            text(
                """
                select application_name, pid, extract(epoch from now() - xact_start)::int as age_s from pg_stat_activity
                where datname = current_database() and pid <> pg_backend_pid() and xact_start is not null
                order by xact_start limit 1
                """
            )
        ).first()
    return "nobody any more" if found is None else f"{found[0]!r}, backend {found[1]}, for {found[2]} s"


def tell_revisions(connection: Connection) -> str | None:
    """Why the schema is not this version's, and what to do, in a line; None where it is."""
    found, needed = current_revision(connection), head_revision()
    if found == needed:
        return None
    if found is None:
        return f"the database has no tables yet, and this caselog needs revision {needed}: run caselog migrate"
    if not is_ahead(found):
        return f"the database is at revision {found}, and this caselog needs {needed}: run caselog migrate"
    return (
        f"the database is at revision {found}, to which a newer caselog migrated it, and this one knows {needed}: "
        "deploy the newer one"
    )


def is_ahead(revision: str | None) -> bool:
    """Whether a newer caselog has migrated the database to that revision: this one does not know it."""
    script = ScriptDirectory.from_config(configuration())
    return revision is not None and revision not in {step.revision for step in script.walk_revisions()}


def configuration() -> Config:
    """Alembic's configuration; there is no alembic.ini, since no setting of it would be the user's."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def current_revision(connection: Connection) -> str | None:
    """The revision that the database is at; None where it was never migrated.

    Health asks it again and again: Alembic's own way makes a table object each time, whose statement SQLAlchemy keeps.
    """
    if connection.execute(text("select to_regclass('alembic_version')")).scalar_one() is None:
        return None
    revision: str | None = connection.execute(text("select version_num from alembic_version")).scalar_one_or_none()
    return revision


@cache
def head_revision() -> str | None:
    """The revision that this version of caselog needs. Reads the migrations the first time."""
    return ScriptDirectory.from_config(configuration()).get_current_head()
