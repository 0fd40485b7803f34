"""The rules of version 2: what those before made is outdated, and workers that know no others stand still.

A repetition is what would change nothing, deadlines of written and spoken messages count from the case's creation, and
more (docs/coming-from-cla.md): recorders of both versions at once would make two histories. So what every batch of an
old recorder begins with, and what an old tasks worker takes reports from, is renamed (docs/decisions/0107).
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

WHY = "the rules for repetitions, callbacks, providers and reports are other ones since 0011"


def _rename_references(old: str, new: str) -> None:
    op.alter_column("report_outbox", old, new_column_name=new, existing_type=sa.ARRAY(sa.Text()))
    # From PostgreSQL 18 on, that a column is not null is a constraint with a name of its own.
    constraint = f"report_outbox_{old}_not_null"
    if (
        op.get_bind()
        .execute(sa.text("select 1 from pg_constraint where conname = :name"), {"name": constraint})
        .first()
    ):
        op.execute(f"alter table report_outbox rename constraint {constraint} to report_outbox_{new}_not_null")


def upgrade() -> None:
    op.create_table(
        "outdated",
        sa.Column("part", sa.Text(), nullable=False, comment="timers, cases or reports"),
        sa.Column("why", sa.Text(), nullable=False, comment="What has changed, in words"),
        sa.Column(
            "since",
            sa.DateTime(timezone=True),
            server_default=sa.func.now(),
            nullable=False,
            comment="When it was migrated",
        ),
        sa.PrimaryKeyConstraint("part", name=op.f("outdated_pkey")),
        comment="What rules that are no longer in force made, until `caselog rebuild` has written it anew",
    )
    op.execute(
        sa.text(
            """
            insert into outdated (part, why)
            select part, :why from unnest(array['timers', 'cases', 'reports']) as part
            where exists (select 1 from log)
            """
        ).bindparams(why=WHY)
    )
    op.execute("alter sequence log_id_seq rename to log_id_2_seq")
    op.alter_column("log", "id", comment="Given by log_id_2_seq before the fold", existing_type=sa.BigInteger())
    _rename_references("cases", "case_references")


def downgrade() -> None:
    _rename_references("case_references", "cases")
    op.alter_column("log", "id", comment="Given by log_id_seq before the fold", existing_type=sa.BigInteger())
    op.execute("alter sequence log_id_2_seq rename to log_id_seq")
    op.drop_table("outdated")
