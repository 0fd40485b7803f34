"""An upstream app's outbox: events that it writes in its own transaction, and that `caselog relay` publishes.

    outbox = Outbox(metadata, source="/call-centre")     # beside the app's own tables
    with session.begin():
        case.accepted = True
        outbox.add(session, {"type": "accept_case", "subject": "AB-1234-5678", "data": {"code": "SPOP"}})

So an event is published if, and only if, what it tells of is committed. Needs SQLAlchemy and PostgreSQL.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

from caselog.events.transport.encoding import Publishable, encode

try:
    from sqlalchemy import BigInteger, Column, DateTime, Identity, Index, MetaData, Table, Text, func
    from sqlalchemy.dialects import postgresql
    from sqlalchemy.schema import CreateIndex, CreateTable
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "caselog.events.outbox writes through your app's SQLAlchemy, which is not installed: pip install "
        "'sqlalchemy>=2.1'",
        name=error.name,
    ) from error

TABLE: Final = "caselog_outbox"


class Executes(Protocol):
    """A SQLAlchemy Connection or Session, in the transaction that the event belongs to."""

    def execute(self, statement: Any, /) -> Any: ...


class Outbox:
    """The table `name` (of the schema, where one is given) on the app's own metadata, and the way into it.

    `source` is put into events that name none.
    """

    def __init__(
        self, metadata: MetaData, *, source: str | None = None, name: str = TABLE, schema: str | None = None
    ) -> None:
        self.table = outbox_table(metadata, name=name, schema=schema)
        self._source = source

    def add(self, connection: Executes, event: Publishable) -> None:
        """Write an event, in the transaction of that Connection or Session; it is published once that is committed.

        The event is as `Publisher.publish` takes it, and its id, source and time are settled now. Raises
        `MalformedEvent` at once for one that is none. A normal return promises nothing before the commit.
        """
        raw, _ = encode(event, self._source)
        connection.execute(self.table.insert().values(event=raw.decode()))


def outbox_table(metadata: MetaData, *, name: str = TABLE, schema: str | None = None) -> Table:
    """The outbox as a table; an app's migrations find it on its metadata."""
    table = Table(
        name,
        metadata,
        Column("id", BigInteger, Identity(), primary_key=True),
        Column("event", Text, nullable=False, comment="The event as it is published: CloudEvents 1.0 in JSON"),
        Column(
            "added_at", DateTime(timezone=True), nullable=False, server_default=func.now(), comment="For the lag alone"
        ),
        Column("refused", Text, comment="Why it is no valid event; it is not published, and stays until it is mended"),
        comment="Events that caselog relay has not published yet",
        schema=schema,
    )
    # What is refused stays: the relay must not read over it each time.
    Index(f"{name}_waiting_idx", table.c.id, postgresql_where=table.c.refused.is_(None))
    return table


def ddl(name: str = TABLE, schema: str | None = None) -> str:
    """The statements that make the table, for apps that do not use SQLAlchemy."""
    table = outbox_table(MetaData(), name=name, schema=schema)
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it untyped
    statements: list[CreateTable | CreateIndex] = [CreateTable(table), *map(CreateIndex, table.indexes)]
    return "\n\n".join(
        str(statement.compile(dialect=dialect)).strip().replace("\t", "    ") + ";" for statement in statements
    )
