"""Less work on indexes: none of timers by case, room for updates, and parts of cases are merged by the tasks.

A case's log leads to its timers. A page of cases has more room, so that an update leaves the case's indexes alone; a
timer's updates change what is indexed, so room on its pages never helped. Both hold for pages to come: nothing is
rewritten. The list of what is not merged into the index of parts may be as long as PostgreSQL's default (4 MB).
"""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute('alter table "case" set (fillfactor = 50)')
    op.execute("alter table timer reset (fillfactor)")
    op.execute("alter index case_search_part_idx reset (gin_pending_list_limit)")
    op.drop_index("timer_case_reference_idx", "timer")


def downgrade() -> None:
    op.create_index("timer_case_reference_idx", "timer", ["case_reference"])
    op.execute("alter index case_search_part_idx set (gin_pending_list_limit = 512)")
    op.execute("alter table timer set (fillfactor = 70)")
    op.execute('alter table "case" set (fillfactor = 70)')
