"""Dead letters as people find them: by every filter, and by the faults that they share."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from alembic import command
from sqlalchemy import Connection, Engine, text

from caselog.schema.migrations.upgrade import configuration, migrate
from caselog.schema.operations import dead_letter_queries
from caselog.schema.operations.dead_letter_queries import Filter
from caselog.schema.recording import dead_letters
from caselog.schema.recording.dead_letters import DeadLetter
from caselog.schema.sessions.connection import make_engine


def a_letter(raw: bytes, reason: str = "malformed", message: str = "mend it", **fields: Any) -> DeadLetter:
    return DeadLetter(reason=reason, message=message, raw=raw, **fields)


def put(engine: Engine, *letters: DeadLetter) -> None:
    """Each in a transaction of its own, so that they are set aside one after the other."""
    for letter in letters:
        with engine.begin() as db:
            dead_letters.set_aside(db, [letter])


def faults(engine: Engine) -> dict[bytes, str | None]:
    with engine.connect() as db:
        return {letter.raw: letter.fault for letter in dead_letter_queries.find(db, Filter())}


def test_dead_letters_are_found_by_every_filter_alone_and_together(engine: Engine) -> None:
    put(
        engine,
        a_letter(b"1", "failed", key="own", code="DONE", case_reference="AB-1", source="/s", event_id="Seven"),
        a_letter(b"2", "rejected", "the Provider is full", key="own"),
        a_letter(b"3", "rejected", key="case", case_reference="AB-1", source="/s/t"),
    )
    with engine.connect() as db:
        first, second, third = dead_letter_queries.find(db, Filter())

        def found(**filters: Any) -> list[bytes]:
            letters = [letter.raw for letter in dead_letter_queries.find(db, Filter(**filters))]
            assert len(dead_letter_queries.select(db, Filter(**filters))) == len(letters)
            return letters

        assert found() == [b"1", b"2", b"3"]
        assert found(ids=(first.id, third.id, 999)) == [b"1", b"3"]
        assert found(reason="rejected") == [b"2", b"3"]
        assert found(key="own") == [b"1", b"2"]
        assert found(code="DONE") == [b"1"]
        assert found(case="AB-1") == [b"1", b"3"]
        assert found(source="/s") == [b"1"]
        assert found(fault=second.fault) == [b"2"]
        assert found(since=second.received_at) == [b"2", b"3"]
        assert found(until=second.received_at) == [b"1", b"2"]
        assert found(case="AB-1", reason="rejected") == [b"3"]
        assert [letter.raw for letter in dead_letter_queries.find(db, Filter(), limit=2)] == [b"1", b"2"]


@pytest.mark.parametrize(
    ("searched", "raws"),
    [("PROVIDER", [b"2"]), ("sev", [b"1"]), ("/s", [b"1", b"3"]), ("ab-1", [b"1", b"3"]), ("own", []), ("%", [])],
)
def test_a_text_is_searched_in_message_id_source_and_case_alone_and_as_it_is(
    engine: Engine, searched: str, raws: list[bytes]
) -> None:
    put(
        engine,
        a_letter(b"1", "failed", key="own", case_reference="AB-1", source="/s", event_id="Seven"),
        a_letter(b"2", "rejected", "the Provider is full", key="own"),
        a_letter(b"3", "rejected", case_reference="AB-1", source="/s/t"),
    )
    with engine.connect() as db:
        assert [letter.raw for letter in dead_letter_queries.find(db, Filter(text=searched))] == raws


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("time 2026-03-02T10:00:00+00:00 is too late", "time 2027-01-01T11:30:00.5+01:00 is too late"),
        ("provider 'prov-7' is full", "provider 'north' is full"),
        ("the case's provider 'a' is full", "the case's provider 'b c' is full"),
        ('provider "it\'s" is full', 'provider "not" is full'),
        ("no case within 86,400 seconds", "no case within 90 seconds"),
        ("id 0192f6a0-1111-7abc-8def-0123456789ab is bad", "id 93fe0c11-2222-4abc-9def-abcdefabcdef is bad"),
        ("own raised KeyError: 'a'\n File x, line 7", "own raised KeyError: 'b'\n File y, line 8\n and more"),
    ],
)
def test_what_differs_only_in_values_is_one_fault(engine: Engine, one: str, other: str) -> None:
    put(engine, a_letter(b"1", message=one), a_letter(b"2", message=other))
    found = faults(engine)
    assert found[b"1"] == found[b"2"]
    assert len(found[b"1"] or "") == 16


def test_another_reason_key_code_or_message_is_another_fault(engine: Engine) -> None:
    letters = [
        a_letter(b"0"),
        a_letter(b"1", "failed"),
        a_letter(b"2", key="own"),
        a_letter(b"3", key="own", code="DONE"),
        a_letter(b"4", key="own", code="MADE"),
        a_letter(b"5", code="own"),
        a_letter(b"6", message="mend that"),
    ]
    put(engine, *letters)
    assert len(set(faults(engine).values())) == len(letters)


def test_groups_are_counted_the_busiest_first_with_their_newest_letter(engine: Engine) -> None:
    put(engine, a_letter(b"lonely", "failed", "x", key="own", code="DONE"))
    put(engine, *(a_letter(b"%d" % number, message=f"value {number} is wrong") for number in range(3)))
    with engine.connect() as db:
        many, one = dead_letter_queries.groups(db, Filter())
        letters = list(dead_letter_queries.find(db, Filter()))
        assert (many.letters, many.reason, many.key, many.code) == (3, "malformed", None, None)
        assert (many.example, many.message) == (letters[3].id, "value 2 is wrong")
        assert (many.first, many.last) == (letters[1].received_at, letters[3].received_at)
        assert (one.letters, one.key, one.code, one.fault) == (1, "own", "DONE", letters[0].fault)
        assert [group.fault for group in dead_letter_queries.groups(db, Filter(key="own"))] == [one.fault]
        assert dead_letter_queries.groups(db, Filter(), limit=1) == [many]


def test_a_discarded_letter_leaves_its_identity_and_the_same_bytes_make_it_anew(engine: Engine) -> None:
    put(engine, a_letter(b"1", "failed", source="/s", event_id="7"), a_letter(b"2"))
    with engine.begin() as db:
        before = {letter.raw: letter.id for letter in dead_letter_queries.find(db, Filter())}
        [gone] = dead_letter_queries.discard(db, [before[b"1"] or 0, 999])
    assert (gone.id, gone.source, gone.event_id, gone.reason) == (before[b"1"], "/s", "7", "failed")
    # sha256sum of the byte "1"
    assert gone.fingerprint == "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"
    assert faults(engine).keys() == {b"2"}
    put(engine, a_letter(b"1", "failed", source="/s", event_id="7"))
    assert faults(engine).keys() == {b"1", b"2"}


def test_what_one_claims_nobody_else_claims_or_discards(engine: Engine) -> None:
    put(engine, a_letter(b"1"), a_letter(b"2"))
    with engine.begin() as db, engine.begin() as other:
        first, second = dead_letter_queries.find(db, Filter())
        assert dead_letters.claim(db, [first]) == {first.id}
        assert dead_letters.claim(other, [first, second]) == {second.id}
        assert dead_letter_queries.discard(other, [first.id or 0]) == []


def test_a_letter_that_failed_again_is_no_more_as_it_was_read(engine: Engine) -> None:
    put(engine, a_letter(b"1"))
    with engine.begin() as db:
        [before] = dead_letter_queries.find(db, Filter())
        dead_letters.fail_again(db, [DeadLetter(reason="failed", message="no", raw=b"", attempts=2, id=before.id)])
        [after] = dead_letter_queries.find(db, Filter())
        assert (after.id, after.received_at, after.raw) == (before.id, before.received_at, b"1")
        assert (after.reason, after.message, after.attempts) == ("failed", "no", 2)
        assert after.fault != before.fault
        assert dead_letters.claim(db, [before]) == set()
        assert dead_letters.claim(db, [after]) == {after.id}


def test_letters_are_old_by_the_time_they_were_set_aside(engine: Engine) -> None:
    put(engine, a_letter(b"1"), a_letter(b"2"), a_letter(b"3"))
    with engine.begin() as db:
        _let_pass(db, "raw <> '\\x33'", timedelta(days=30, seconds=1))
        first, second, _ = dead_letter_queries.select(db, Filter())
        assert dead_letter_queries.older_than(db, 30, limit=9) == [first, second]
        assert dead_letter_queries.older_than(db, 30, limit=1) == [first]
        assert dead_letter_queries.older_than(db, 31, limit=9) == []


def _let_pass(db: Connection, which: str, gone: timedelta) -> None:
    db.execute(text(f"update dead_letter set received_at = received_at - :gone where {which}"), {"gone": gone})


def test_the_migration_reads_the_codes_of_the_letters_that_there_are(
    make_database: Callable[[str], str], template: str
) -> None:
    """Whatever their bytes are."""
    raws = {
        b'{"data": {"code": "SPOB"}}': "SPOB",
        b'{"data": {"code": "a\\u0000b"}}': "a\N{REPLACEMENT CHARACTER}b",
        b'{"data": {"code": 7}}': None,
        b'{"data": {}}': None,
        b'{"data": [1]}': None,
        b"[]": None,
        b"\xff no JSON": None,
        b"[" * 100_000: None,
    }
    url = make_database(template)
    engine = make_engine(url)
    with engine.begin() as connection:
        config = configuration()
        config.attributes["connection"] = connection
        command.downgrade(config, "0003")
    with psycopg.connect(url) as db:
        for raw in raws:
            db.execute(
                "insert into dead_letter (reason, message, attempts, raw, fingerprint) values ('failed', 'x', 1, %s, "
                "sha256(%s))",
                [raw, raw],
            )
    migrate(url)
    with engine.connect() as connection:
        found = {letter.raw: letter for letter in dead_letter_queries.find(connection, Filter())}
    engine.dispose()
    assert {raw: letter.code for raw, letter in found.items()} == raws
    assert all(letter.fault for letter in found.values())
