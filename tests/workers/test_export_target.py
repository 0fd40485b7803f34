"""Where exports go: no half file is ever seen there, and no secret is ever kept."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from bucket import Bucket

from workers.export_target import BadTarget, StoreError, open_target, plain_url


def names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("s3://bucket/reports/", "s3://bucket/reports"),
        ("S3://bucket", "S3://bucket"),
        ("/var/exports", "/var/exports"),
        ("file:///var/exports", "/var/exports"),
        ("var/exports", str(Path.cwd() / "var/exports")),
        ("~/exports", str(Path("~/exports").expanduser())),
    ],
)
def test_a_target_is_kept_as_whoever_reads_it_later_needs_it(given: str, kept: str) -> None:
    """A directory by its absolute path: the tasks worker runs elsewhere."""
    assert plain_url(given) == kept


@pytest.mark.parametrize(
    "url", ["s3://key:hunter2@bucket/x", "s3://hunter2@bucket", "s3://bucket/x?token=hunter2", "sftp://a:hunter2@h/x"]
)
def test_a_url_with_a_secret_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(BadTarget, match="may hold no user, password or query") as refused:
        plain_url(url)
    assert "hunter2" not in str(refused.value)
    assert "AWS_SECRET_ACCESS_KEY" in str(refused.value)


@pytest.mark.parametrize("url", ["", "file://", "memory://x", "https://example.org/x", "s3://", "s3:///"])
def test_what_cannot_be_exported_to_is_refused_with_what_can(url: str) -> None:
    with pytest.raises(BadTarget, match="s3://bucket/exports"):
        plain_url(url)


def test_a_store_whose_library_is_missing_is_told_at_once_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)  # what an import finds where it is not installed
    with pytest.raises(BadTarget, match=r"pip install 'caselog\[s3\]'"):
        open_target("s3://bucket/x")
    with pytest.raises(BadTarget, match="there is no store 's4'"):
        open_target("s4://bucket/x")


def test_a_file_in_a_directory_is_whole_or_not_there(tmp_path: Path) -> None:
    """The directory is made for its owner alone; a beginning that died leaves a hidden part, which goes."""
    exports = tmp_path / "a" / "exports"
    target = open_target(str(exports))
    dead = target.create("r.csv", "1")
    dead.out.write(b"half")
    dead.out.flush()
    new = target.create("r.csv", "2")
    new.out.write(b"whole")
    assert new.complete() == 5
    assert all(name.startswith(".") for name in names(exports))
    new.publish()
    assert (exports / "r.csv").read_bytes() == b"whole"
    assert exports.stat().st_mode & 0o777 == 0o700
    target.remove_leftovers("r.csv")
    assert names(exports) == ["r.csv"]
    dead.discard()
    assert names(exports) == ["r.csv"]
    target.remove("r.csv")
    target.remove("r.csv")
    assert names(exports) == []


def test_discarding_leaves_nothing_in_a_directory(tmp_path: Path) -> None:
    file = open_target(str(tmp_path)).create("r.csv", "1")
    file.out.write(b"half")
    file.discard()
    assert names(tmp_path) == []


def test_an_object_appears_with_the_end_of_its_upload(bucket: type[Bucket]) -> None:
    target = open_target("bucket://name/exports")
    file = target.create("r.csv", "1")
    file.out.write(b"x" * 1_000_000)
    assert bucket.objects == {}
    assert file.complete() == 1_000_000
    assert bucket.objects == {}
    file.publish()
    assert bucket.objects == {"name/exports/r.csv": b"x" * 1_000_000}
    target.remove("r.csv")
    target.remove("r.csv")
    assert bucket.objects == {}


def test_a_discarded_upload_is_ended(bucket: type[Bucket]) -> None:
    file = open_target("bucket://name/exports").create("r.csv", "1")
    file.out.write(b"x" * 1_000_000)
    assert bucket.uploads == 1
    file.discard()
    assert (bucket.objects, bucket.uploads) == ({}, 0)


def test_what_a_store_says_is_told_with_its_url(bucket: type[Bucket]) -> None:
    """Stores' libraries raise errors of their own kinds."""
    file = open_target("bucket://name/exports").create("r.csv", "1")
    bucket.fault = LookupError("the quota\nis used up")
    file.out.write(b"x")
    with pytest.raises(StoreError, match=r"'bucket://name/exports' cannot be used: the quota is used up\. Check"):
        file.complete()
    file.discard()
    assert bucket.objects == {}
