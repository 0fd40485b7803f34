"""Indexes for `caselog search`, and the definitions of the codes that the log has used."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from caselog.events.errors import CaselogError

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _add_trigrams()
    op.execute(
        r"""
        create function search_key(searched text) returns text immutable strict parallel safe
        return lower(translate(searched, U&'-\2010\2011\2012\2013\2014\2212 \00A0\0009', ''))
        """
    )
    op.create_index("case_search_prefix_idx", "case", [sa.text("search_key(search_field) text_pattern_ops")])
    op.create_index(
        "case_search_part_idx",
        "case",
        [sa.text("search_key(search_field) gin_trgm_ops")],
        postgresql_using="gin",
        postgresql_with={"gin_pending_list_limit": 512},
    )
    op.create_table(
        "code_definition",
        sa.Column("key", sa.Text(), nullable=False, comment="Event key in the registry"),
        sa.Column("code", sa.Text(), nullable=False, comment="Code under that key"),
        sa.Column("version", sa.Integer(), nullable=False, comment="From 1; the highest is the current one"),
        sa.Column("type", sa.Text(), nullable=False, comment="outcome, system or event"),
        sa.Column("level", sa.SmallInteger(), nullable=False, comment="HIGH 29, MODERATE 21, MINOR 11"),
        sa.Column(
            "selectable_by", postgresql.JSONB(), nullable=False, comment="Roles that may choose it; empty: anyone"
        ),
        sa.Column("description", sa.Text(), nullable=False, comment="In words, for people"),
        sa.Column("order", sa.Integer(), nullable=False, comment="Its place among the codes of its key"),
        sa.Column("stops_timer", sa.Boolean(), nullable=False, comment="It stops the actor's timer"),
        sa.Column("creates_case", sa.Boolean(), nullable=False, comment="It creates its case"),
        sa.Column("starts_timer", sa.Boolean(), nullable=False, comment="It starts the actor's timer"),
        sa.Column("cancels_timer", sa.Boolean(), nullable=False, comment="It cancels the actor's timer"),
        sa.Column(
            "set_requires_action_by",
            postgresql.JSONB(),
            nullable=True,
            comment='{"set": value or null} or {"rule": name}; null: left alone',
        ),
        sa.Column(
            "first_seen",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="The database's clock when an event was first recorded under this definition",
        ),
        sa.PrimaryKeyConstraint("key", "code", "version", name=op.f("code_definition_pkey")),
        comment="What the codes of the log meant: a row is added when a definition changes, and none is deleted",
    )


def _add_trigrams() -> None:
    """PostgreSQL's own extension, which any owner of a database may add; say what to do where it cannot be had."""
    try:
        op.execute("create extension if not exists pg_trgm")
    except sa.exc.DBAPIError as error:
        raise CaselogError(
            f"the PostgreSQL extension pg_trgm, which `caselog search` needs, cannot be added here "
            f"({str(error.orig).strip()}). Have an administrator install it (Debian: the package postgresql-contrib) "
            f"and run `create extension pg_trgm` in this database; then run: caselog migrate"
        ) from error


def downgrade() -> None:
    op.drop_table("code_definition")
    op.drop_index("case_search_part_idx", table_name="case")
    op.drop_index("case_search_prefix_idx", table_name="case")
    op.execute("drop function search_key(text)")
    # pg_trgm stays: something else in the database may have come to use it.
