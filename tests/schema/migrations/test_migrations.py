"""The migrations make what the models say, from nothing and back to nothing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect

from caselog.schema.migrations.upgrade import configuration, current_revision, head_revision, migrate
from caselog.schema.sessions.connection import make_engine
from caselog.schema.sql.tables import metadata

# Everything of the catalogue that a model can say, by name; Alembic's own table aside.
_CATALOGUE = {
    "tables": """
        select relname, relkind, reloptions, obj_description(pg_class.oid, 'pg_class') from pg_class
        where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'v') and relname <> 'alembic_version'
    """,
    "columns": """
        select relname, attname, format_type(atttypid, atttypmod), attnotnull, attidentity, collname,
               pg_get_expr(adbin, adrelid), col_description(attrelid, attnum)
        from pg_attribute join pg_class on pg_class.oid = attrelid
        left join pg_attrdef on adrelid = attrelid and adnum = attnum
        left join pg_collation on pg_collation.oid = attcollation
        where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'v') and attnum > 0 and not attisdropped
          and relname <> 'alembic_version'
    """,
    "indexes": "select indexdef from pg_indexes where schemaname = 'public' and tablename <> 'alembic_version'",
    "constraints": """
        select conrelid::regclass::text, conname, pg_get_constraintdef(oid) from pg_constraint
        where connamespace = 'public'::regnamespace and conrelid::regclass::text <> 'alembic_version'
    """,
    "sequences": "select sequencename, data_type::text, start_value, increment_by, cycle from pg_sequences",
}


def catalogue(url: str) -> dict[str, list[tuple[Any, ...]]]:
    with psycopg.connect(url) as db:
        return {name: sorted(db.execute(query.encode()).fetchall(), key=str) for name, query in _CATALOGUE.items()}


def test_models_equal_migrations(database_url: str, empty_database_url: str) -> None:
    """Tables, columns with types and collations, defaults, comments, indexes, constraints and sequences."""
    engine = make_engine(empty_database_url)
    metadata.create_all(engine)
    engine.dispose()
    migrated, modelled = catalogue(database_url), catalogue(empty_database_url)
    assert modelled["tables"]
    for part in _CATALOGUE:
        assert migrated[part] == modelled[part], part


def test_alembic_finds_nothing_to_migrate(database_url: str) -> None:
    engine = make_engine(database_url)
    with engine.connect() as db:
        context = MigrationContext.configure(db, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_every_table_and_column_says_what_it_holds() -> None:
    """Ids and what the fold remembers speak for themselves."""
    for table in metadata.sorted_tables:
        assert table.comment, table.name
        silent = [c.name for c in table.columns if not c.comment and c.name != "id"]
        assert silent == [], table.name


def test_migrating_brings_an_empty_database_to_the_head_and_again_changes_nothing(empty_database_url: str) -> None:
    assert migrate(empty_database_url) == (None, head_revision())
    stands = catalogue(empty_database_url)
    assert migrate(empty_database_url) == (head_revision(), head_revision())
    assert catalogue(empty_database_url) == stands


def test_two_that_migrate_at_once_take_turns(empty_database_url: str) -> None:
    with ThreadPoolExecutor(2) as threads:
        results = list(threads.map(migrate, [empty_database_url] * 2))
    assert sorted(results, key=str) == sorted([(None, head_revision()), (head_revision(), head_revision())], key=str)


def test_downgrading_to_the_base_leaves_nothing(database_url: str) -> None:
    engine = make_engine(database_url)
    with engine.begin() as db:
        config = configuration()
        config.attributes["connection"] = db
        command.downgrade(config, "base")
        assert current_revision(db) is None
        assert inspect(db).get_table_names() == ["alembic_version"]
        assert inspect(db).get_sequence_names() == []
    engine.dispose()
    assert migrate(database_url) == (None, head_revision())


@pytest.mark.parametrize("failed", [False, True])
def test_an_index_built_beforehand_is_kept_and_one_whose_building_failed_is_made_anew(
    empty_database_url: str, *, failed: bool
) -> None:
    """On a long log `create index concurrently` comes first, so that recorders do not wait (decision 90)."""
    engine = make_engine(empty_database_url)
    config = configuration()
    with engine.begin() as db:
        config.attributes["connection"] = db
        command.upgrade(config, "0008")
    with psycopg.connect(empty_database_url, autocommit=True) as db:
        db.execute("create index concurrently log_case_reference_idx on log (case_reference)")
        if failed:
            db.execute("update pg_index set indisvalid = false where indexrelid = 'log_case_reference_idx'::regclass")
        built = _index(db, "log_case_reference_idx")
    migrate(empty_database_url)
    with psycopg.connect(empty_database_url) as db:
        found = _index(db, "log_case_reference_idx")
        assert found is not None
        assert found[1]
        assert (found == built) is not failed
        assert _index(db, "log_case_reference_occurred_at_idx") is None
    with engine.begin() as db:
        config.attributes["connection"] = db
        command.downgrade(config, "0008")
    with psycopg.connect(empty_database_url) as db:
        assert _index(db, "log_case_reference_idx") is None
        assert _index(db, "log_case_reference_occurred_at_idx") is not None
    engine.dispose()


def _index(db: psycopg.Connection, name: str) -> tuple[int, bool] | None:
    """Which one it is, and whether it may be used."""
    query = "select indexrelid::bigint, indisvalid from pg_index where indexrelid = to_regclass(%s)"
    return db.execute(query, [name]).fetchone()


# --- what a migration may ask of recorders that are older than it ---

# Where a row that is refused would be taken for its event's fault. What the tasks write, they try again.
_RECORDED = {"log", "case", "timer", "dead_letter", "parked", "report_outbox", "code_definition"}
# Up to here nobody ran the version before beside it.
_FREE_UP_TO = "0005"
_COLUMNS = """
    select relname, attname, format_type(atttypid, atttypmod), attnotnull,
           atthasdef or attidentity <> '' or attgenerated <> ''
    from pg_attribute join pg_class on pg_class.oid = attrelid
    where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') and attnum > 0 and not attisdropped
"""
_RULES = """
    select relname, conname, pg_get_constraintdef(pg_constraint.oid)
    from pg_constraint join pg_class on pg_class.oid = conrelid
    where connamespace = 'public'::regnamespace and contype in ('c', 'f', 'u', 'x', 'p')
    union select tablename, indexname, indexdef from pg_indexes
    where schemaname = 'public' and indexdef like 'CREATE UNIQUE%'
"""


class Demands:
    """What a schema demands of a row: the columns, and the rules that a row may break."""

    def __init__(self, db: psycopg.Connection) -> None:
        self.columns = {(row[0], row[1]): row[2:] for row in db.execute(_COLUMNS.encode()).fetchall()}
        self.rules = set(db.execute(_RULES.encode()).fetchall())

    @property
    def tables(self) -> set[str]:
        return {table for table, _ in self.columns} & _RECORDED


def new_demands(before: Demands, after: Demands) -> list[str]:
    """What rows have to fulfil now that a recorder of the version before does not know of.

    It would take the error for its event's fault and set the event aside. What it cannot write at all, because a
    column or a table is gone, it waits for instead: so that is the way to stop it.
    """
    # Where a column that it writes is gone, it cannot write the table at all.
    shorter = {table for table, _ in before.columns.keys() - after.columns.keys()}
    kept = (before.tables & after.tables) - shorter
    found = [f"{row[0]}: {row[1]} {row[2]}" for row in sorted(after.rules - before.rules) if row[0] in kept]
    for (table, column), (type_, required, has_default) in sorted(after.columns.items()):
        old = before.columns.get((table, column))
        if table not in kept:
            continue
        if old is not None and old[0] != type_:
            found.append(f"{table}.{column} was {old[0]} and is {type_}")
        if required and not has_default and (old is None or not old[1] or old[2]):
            found.append(f"{table}.{column} is required")
    return found


def test_no_migration_asks_of_rows_what_older_recorders_do_not_know(empty_database_url: str) -> None:
    """Whoever deploys migrates first, and old recorders go on until new ones take their place (docs/deploy.md)."""
    config = configuration()
    steps = sorted(step.revision for step in ScriptDirectory.from_config(config).walk_revisions())
    engine = make_engine(empty_database_url)
    demands = []
    for revision in steps[steps.index(_FREE_UP_TO) :]:
        with engine.begin() as db:
            config.attributes["connection"] = db
            command.upgrade(config, revision)
        with psycopg.connect(empty_database_url) as db:
            demands.append((revision, Demands(db)))
    engine.dispose()
    assert len(demands) >= 3
    for (_, before), (revision, after) in pairwise(demands):
        assert new_demands(before, after) == [], f"{revision}: give it a default, or let the recorders check it"


@pytest.mark.parametrize(
    ("change", "demand"),
    [
        ("alter table log add column clerk text not null", ["log.clerk is required"]),
        ("alter table log add column clerk text not null default ''", []),
        ("alter table log add column clerk text", []),
        ("alter table log drop column notes", []),
        ("create table clerk (name text not null)", []),
        ("alter table log alter column level type int", ["log.level was smallint and is integer"]),
        ("alter table log alter column notes drop default", ["log.notes is required"]),
        ("alter table log alter column actor set not null", ["log.actor is required"]),
        ("alter table log add constraint short check (length(notes) < 9)", ["log: short CHECK ((length(notes) < 9))"]),
        (
            "create unique index once on parked (key)",
            ["parked: once CREATE UNIQUE INDEX once ON public.parked USING btree (key)"],
        ),
    ],
)
def test_what_older_recorders_do_not_know_is_told_from_what_they_can_ignore(
    database_url: str, change: str, demand: list[str]
) -> None:
    with psycopg.connect(database_url) as db:
        before = Demands(db)
        db.execute(change.encode())
        assert new_demands(before, Demands(db)) == demand
        db.rollback()
