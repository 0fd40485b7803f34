"""Alembic's entry: run the migrations on the connection that `caselog.schema.migrations.upgrade` hands over."""

from __future__ import annotations

from alembic import context

from caselog.schema.sql.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
