"""An object store of this test's own."""

from __future__ import annotations

from collections.abc import Iterator

import fsspec
import pytest
from bucket import Bucket

from workers import export_target


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Bucket]]:
    """The store behind `bucket://`, empty, and open."""
    fsspec.register_implementation("bucket", Bucket, clobber=True)
    monkeypatch.setattr(export_target, "STORES", (*export_target.STORES, "bucket"))
    Bucket.empty()
    yield Bucket
    Bucket.empty()
