"""An object store of this test's own."""

from __future__ import annotations

from collections.abc import Iterator

import fsspec
import pytest
from support.servers.bucket import Bucket

from caselog.workers.rows import targets


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Bucket]]:
    """The store behind `bucket://`, empty, and open."""
    fsspec.register_implementation("bucket", Bucket, clobber=True)
    monkeypatch.setattr(targets, "STORES", (*targets.STORES, "bucket"))
    Bucket.empty()
    yield Bucket
    Bucket.empty()
