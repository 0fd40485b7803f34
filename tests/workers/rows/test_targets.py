"""Where exports go: no half file is ever seen there, and no secret is ever kept."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support.servers.bucket import Bucket

from caselog.workers.rows.targets import BadTarget, StoreError, open_target, plain_url, refuse_outside


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
    "url", ["s3://key:hunter2@bucket/x", "s3://hunter2@bucket", "s3://bucket/x?token=hunter2", "gs://a:hunter2@h/x"]
)
def test_a_url_with_a_secret_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(BadTarget, match="may hold no user, password or query") as refused:
        plain_url(url)
    assert "hunter2" not in str(refused.value)
    assert "AWS_SECRET_ACCESS_KEY" in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        *(
            "",
            "file://",
            "file:/x",
            "file:x",
            "file://host/x",
            "local:x",
            "s3://",
            "s3:///",
            "s3:/bucket/x",
            "s3:bucket",
        ),
        *(
            "memory://x",
            "https://h/x",
            "ftp://h/x",
            "ftp:/h/x",
            "sftp://h/x",
            "webhdfs://h/x",
            "webhdfs:/h/x",
            "hdfs://h/x",
        ),
        *(
            "arrow_hdfs://h/x",
            "arrow_hdfs:/x",
            "smb://h/x",
            "dbfs:/x",
            "github://x",
            "zip://x",
            "data:x",
            "s4://bucket/x",
        ),
        *("simplecache::s3://bucket/x", "filecache::ftp://h/x", "zip://x::s3://bucket/x", "simplecache::/etc", "::x"),
        *("s3://bucket/x::file:///etc", "s3://bucket::ftp://h/x", "s3://bucket/../x", "s3://../x", "s3://bucket/a/./b"),
        *("C:\\exports", "c:/exports", "C:exports", "\\\\server\\share", "a:b", "a:b/c", "~nobody-of-this-name/x"),
        *("s3 ://bucket/x", "javascript:x", "hunter2:x"),
    ],
)
def test_what_cannot_be_exported_to_is_refused_in_one_line_with_what_can(url: str) -> None:
    """And makes no directory of that name."""
    with pytest.raises(BadTarget, match=r"^(exports go to a directory|a URL of)") as refused:
        plain_url(url)
    assert "\n" not in str(refused.value)
    assert "hunter2" not in str(refused.value)
    if not url.startswith("~"):
        assert "s3://bucket/exports" in str(refused.value)


@pytest.mark.parametrize(
    "url", ["webhdfs://h/x", "webhdfs:/x", "exports", "./exports", "memory://x", "s3://bucket/x::ftp://h/x"]
)
def test_a_worker_writes_nowhere_else_whatever_a_row_says(url: str) -> None:
    with pytest.raises(BadTarget):
        open_target(url)


@pytest.mark.parametrize(("given", "kept"), [("./a:b", "a:b"), ("x/../y", "y"), ("x/a:b", "x/a:b"), ("a b", "a b")])
def test_a_directory_may_have_any_name(given: str, kept: str) -> None:
    assert plain_url(given) == str(Path.cwd() / kept)


@pytest.mark.parametrize("below", ["", "sub", "sub/deep", "link back"])
def test_a_directory_of_the_setting_and_those_below_it_are_written_to(tmp_path: Path, below: str) -> None:
    exports = tmp_path / "exports"
    (exports / "sub").mkdir(parents=True)
    (exports / "link back").symlink_to(exports / "sub")
    refuse_outside(plain_url(str(exports / below)), plain_url(str(exports)))


@pytest.mark.parametrize("outside", ["..", "../exports2", "sub/../../x", "link/x", "link", "circle/x", "/etc", "/"])
def test_a_directory_elsewhere_needs_the_setting(tmp_path: Path, outside: str) -> None:
    """Also where a link leads there, or it only begins with the same letters."""
    exports = tmp_path / "exports"
    exports.mkdir()
    (exports / "link").symlink_to("/etc")
    (exports / "circle").symlink_to(exports / "circle")
    for target in (str(exports / outside), plain_url(str(exports / outside))):
        with pytest.raises(BadTarget, match="CASELOG_EXPORT_URL"):
            refuse_outside(target, str(exports))
    with pytest.raises(BadTarget):
        refuse_outside(str(tmp_path), "s3://bucket/x")
    refuse_outside("s3://bucket/x", str(exports))


def test_a_store_whose_library_is_missing_is_told_at_once_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)  # what an import finds where it is not installed
    with pytest.raises(BadTarget, match=r"pip install 'caselog\[workers,s3\]'"):
        open_target("s3://bucket/x")


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
