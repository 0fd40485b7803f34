"""The code that a dead letter gave, and what faults it shares with others."""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        r"""
        create function fault_of(reason text, key text, code text, message text) returns text immutable parallel safe
        return lpad(to_hex(hashtextextended(
            reason || chr(31) || coalesce(key, '') || chr(31) || coalesce(code, '') || chr(31) || regexp_replace(
                regexp_replace(split_part(message, chr(10), 1), '(?<!\w)''[^'']*''|"[^"]*"', '?', 'g'),
                '\S*\d\S*', '#', 'g'
            ), 0)), 16, '0')
        """
    )
    op.add_column(
        "dead_letter",
        sa.Column(
            "code",
            sa.Text(),
            nullable=True,
            comment="Code given in the event, where there was one and it could be read",
        ),
    )
    _read_codes()
    op.add_column(
        "dead_letter",
        sa.Column(
            "fault",
            sa.Text(),
            sa.Computed("fault_of(reason, key, code, message)", persisted=True),
            nullable=False,
            comment="Told by reason, key, code and message: the same fault has the same",
        ),
    )


def _read_codes() -> None:
    """Fill in the codes of the dead letters that there are, where their bytes can be read."""
    db = op.get_bind()
    last = 0
    while found := db.execute(
        sa.text("select id, raw from dead_letter where id > :last order by id limit 500"), {"last": last}
    ).all():
        last = found[-1].id
        codes = {row.id: code for row in found if (code := _code(row.raw)) is not None}
        db.execute(
            sa.text(
                """
                update dead_letter set code = given.code
                from unnest(cast(:ids as bigint[]), cast(:codes as text[])) as given(id, code)
                where dead_letter.id = given.id
                """
            ),
            {"ids": list(codes), "codes": list(codes.values())},
        )


def _code(raw: bytes) -> str | None:
    try:
        event: Any = msgspec.json.decode(raw)
        code = event["data"]["code"]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, LookupError, TypeError):
        return None
    return code.replace("\x00", "\N{REPLACEMENT CHARACTER}")[:255] if isinstance(code, str) else None


def downgrade() -> None:
    op.drop_column("dead_letter", "fault")
    op.drop_column("dead_letter", "code")
    op.execute("drop function fault_of(text, text, text, text)")
