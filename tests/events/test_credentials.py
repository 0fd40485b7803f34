"""Whatever text a library or an app puts into its error, no password in it is said."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caselog.events import credentials
from caselog.events.credentials import hide
from caselog.events.errors import EventFailed


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    credentials.keep(())
    yield
    credentials.keep(())


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        ("could not reach postgresql://app:hunter2@db/x now", "could not reach postgresql://***@db/x now"),
        ("postgresql://app:hun/ter@2@db/x", "postgresql://***@db/x"),
        ("'postgresql://app:hun ter 2@db/x' is wrong", "'postgresql://***@db/x' is wrong"),
        ("redis://:hunter2@r and amqp://a:hunter2@h;amqp://b:hunter2@i", "redis://***@r and amqp://***@i"),
        ("https://hunter2@example.org/x", "https://***@example.org/x"),
        ("host=db user=app password=hunter2 dbname=x", "host=db user=app password=*** dbname=x"),
        ("host=db password='hun ter\\' 2' dbname=x", "host=db password=*** dbname=x"),
        ("postgresql://db/x?user=a&password=hunter2&port=1", "postgresql://db/x?user=a&password=***&port=1"),
        ("connect(password='hunter2', port=1)", "connect(password=***, port=1)"),
        ("{'password': 'hunter2', 'port': 1}", "{'password': ***, 'port': 1}"),
        ('{"db_password": "hunter2"}', '{"db_password": ***}'),
        ("PGPASSWORD=hunter2 psql", "PGPASSWORD=*** psql"),
        ("AWS_SECRET=hunter2", "AWS_SECRET=***"),
    ],
)
def test_what_looks_like_a_credential_is_masked(said: str, heard: str) -> None:
    assert hide(said) == heard


@pytest.mark.parametrize(
    "said",
    [
        'connection to server at 127.0.0.1, port 5432 failed: password authentication failed for user "app"',
        "see http://127.0.0.1:8080/ and write to anna@example.org",
        "expected name:role:secret, separated by commas",
        "the outcome 'x' of https://example.org/a?b=c",
        "CASELOG_API_TOKENS: expected a token: none was given",
    ],
)
def test_other_words_stay(said: str) -> None:
    assert hide(said) == said


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=8))
def test_a_kept_password_is_masked_in_each_spelling(password: str) -> None:
    credentials.keep([password])
    try:
        for spelling in (password, quote(password), quote(password, safe=""), repr(password)):
            assert password not in hide(f"<{spelling}>").replace("***", "")
            assert spelling.strip("'\"") not in hide(f"<{spelling}>") or len(spelling.strip("'\"")) < 4
    finally:
        credentials.keep(())


def test_an_earlier_setting_is_forgotten_and_a_short_one_not_kept() -> None:
    credentials.keep(["hunter2"])
    credentials.keep(["abc"])
    assert hide("hunter2 abc") == "hunter2 abc"


def test_a_rule_that_fails_tells_nobody_how_it_connects() -> None:
    """Its error becomes a dead letter's message."""
    assert "hunter2" not in str(EventFailed("Traceback …\nError: postgresql://app:hunter2@db/x refused"))


@pytest.mark.parametrize("piece", ["a.", "a://", "a://b:", "secret='", "secret=\\'", "a@", "password", "://@:"])
def test_it_takes_no_longer_for_what_is_meant_to_take_long(piece: str) -> None:
    """Each character is looked at a few times: else this runs into the time limit of tests."""
    hide("@" + piece * (262_144 // len(piece)) + "@")
