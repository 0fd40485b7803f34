"""Bring a database to the current schema."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from schema.connection import make_engine

MIGRATIONS: Final = Path(__file__).parent / "migrations"
# Any number that nothing else locks: two deploys that migrate at once take turns.
MIGRATION_LOCK: Final = 0x6361_7365_6C6F_67


def migrate(database_url: str) -> tuple[str | None, str | None]:
    """Run every migration that is missing, in one transaction. Returns the revision before and after."""
    engine = make_engine(database_url, application="caselog migrate")
    try:
        with engine.begin() as connection:
            connection.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
            before = current_revision(connection)
            config = configuration()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            return before, current_revision(connection)
    finally:
        engine.dispose()


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
