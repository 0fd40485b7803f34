"""The migrations make what the models say, from nothing and back to nothing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect

from schema.connection import make_engine
from schema.migrate import configuration, current_revision, head_revision, migrate
from schema.tables import metadata

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
