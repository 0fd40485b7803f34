"""An object store of this test's own."""

from __future__ import annotations

from collections.abc import Iterator

import fsspec
import pytest
from bucket import Bucket


@pytest.fixture
def bucket() -> Iterator[type[Bucket]]:
    """The store behind `bucket://`, empty, and open."""
    fsspec.register_implementation("bucket", Bucket, clobber=True)
    Bucket.empty()
    yield Bucket
    Bucket.empty()
