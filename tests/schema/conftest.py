"""Connections to this test's own database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from caselog.schema.sessions.connection import make_engine


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """Connects as caselog does; up to four at once."""
    engine = make_engine(database_url, connections=4)
    yield engine
    engine.dispose()
