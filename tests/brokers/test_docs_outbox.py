"""docs/events.md, "An outbox of your own": what a stranger copies from it works."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from broker_under_test import Broker
from sqlalchemy import MetaData

from caselog.events.outbox import outbox_table
from caselog.schema.sessions.connection import make_engine
from caselog.workers.producers.relay import Relay

PAGE = (Path(__file__).parents[2] / "docs" / "events.md").read_text()


def after(remark: str) -> str:
    found = re.search(rf"<!-- {re.escape(remark)} -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    assert found, f"docs/events.md has no code block after <!-- {remark} -->"
    return found[1]


def test_the_example_with_sqlalchemy_publishes_its_event(empty_database_url: str, redis_broker: Broker) -> None:
    url = empty_database_url.replace("postgresql://", "postgresql+psycopg://", 1)
    names: dict[str, Any] = {"DATABASE_URL": url}
    exec(compile(after("run: outbox"), "docs/events.md", "exec"), names)
    engine = make_engine(empty_database_url)
    assert Relay(engine, outbox_table(MetaData()), redis_broker.url).once().published == 1
    engine.dispose()
    [event] = redis_broker.events(1)
    assert (event.source, event.type, event.data.code) == ("/call-centre", "accept_case", "SPOP")
    names["engine"].dispose()


def test_the_model_for_django_has_the_columns_of_the_table() -> None:
    """Django is no dependency of ours, so its recipe is read, not run."""
    [model] = [node for node in ast.parse(after("django: outbox")).body if isinstance(node, ast.ClassDef)]
    kinds = {"BigAutoField": "BIGINT", "TextField": "TEXT", "DateTimeField": "DATETIME"}
    fields = {}
    for node in model.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            options = {keyword.arg for keyword in node.value.keywords}
            fields[ast.unparse(node.targets[0])] = (kinds[ast.unparse(node.value.func)[7:]], "null" in options)
    table = outbox_table(MetaData())
    assert fields == {column.name: (str(column.type), bool(column.nullable)) for column in table.columns}
    [index] = table.indexes
    assert {f'db_table = "{table.name}"', f'name="{index.name}"'} <= set(
        re.findall(r'db_table = "\w+"|name="\w+"', after("django: outbox"))
    )
