"""Bring a database to the current schema."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import OperationalError

from events.errors import CaselogError
from schema.connection import make_engine
from schema.store import GATE

MIGRATIONS: Final = Path(__file__).parent / "migrations"
# Any number that nothing else locks: two deploys that migrate at once take turns.
MIGRATION_LOCK: Final = 0x6361_7365_6C6F_67
# A lock is waited for so long; whoever comes after us waits as well meanwhile.
LOCK_WAIT_MS: Final = 2000
PAUSE_S: Final = 3.0
GIVE_UP_S: Final = 600.0
# A lock timeout, a deadlock.
IN_USE: Final = ("55P03", "40P01")


def migrate(database_url: str, tell: Callable[[str], object] = lambda _: None) -> tuple[str | None, str | None]:
    """Run every migration that is missing, in one transaction. Returns the revision before and after.

    Recorders may be at work: they finish their batches, wait while this runs, and then go on. Where a table is in use
    by somebody who takes longer, everything is given back, so that they go on meanwhile, and it is tried again: for
    `GIVE_UP_S` seconds, then `CaselogError` says by whom. `tell` is given a line for each time.
    """
    engine = make_engine(database_url, application="caselog migrate")
    give_up_s = time.monotonic() + GIVE_UP_S
    try:
        while True:
            try:
                return _migrate(engine)
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


def _migrate(engine: Engine) -> tuple[str | None, str | None]:
    with engine.begin() as connection:
        connection.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
        before = current_revision(connection)
        if before != head_revision():
            # From here on recorders wait; so whoever is waited for here must not take long.
            connection.execute(text("select set_config('lock_timeout', :ms, true)"), {"ms": str(LOCK_WAIT_MS)})
            connection.execute(text("select pg_advisory_xact_lock(:gate)"), {"gate": GATE})
            config = configuration()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
        return before, current_revision(connection)


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
    script = ScriptDirectory.from_config(configuration())
    if found in {step.revision for step in script.walk_revisions()}:
        return f"the database is at revision {found}, and this caselog needs {needed}: run caselog migrate"
    return (
        f"the database is at revision {found}, to which a newer caselog migrated it, and this one knows {needed}: "
        "deploy the newer one"
    )


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
