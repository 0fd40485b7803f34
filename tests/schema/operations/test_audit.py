"""The audit: what was done by hand is written down with its effect, and found again."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, text

from caselog.schema.operations import audit


def test_an_entry_says_who_did_what_when_and_why(engine: Engine) -> None:
    with engine.begin() as db:
        before = db.execute(text("select now()")).scalar_one()
        entry = audit.record(db, who="anna", action="dead.discard", why="test data", detail={"ids": [1, 2]})
    with engine.begin() as db:
        [found] = audit.list_audit(db)
    assert found == audit.AuditEntry(
        id=entry, at=before, who="anna", action="dead.discard", why="test data", detail={"ids": [1, 2]}
    )


def test_an_action_that_is_rolled_back_leaves_no_entry(engine: Engine) -> None:
    with engine.connect() as db:
        audit.record(db, who="anna", action="pause", why=None, detail={})
        db.rollback()
        assert list(audit.list_audit(db)) == []


def test_entries_are_found_by_every_filter_newest_first(engine: Engine) -> None:
    for who, action in (("anna", "dead.requeue"), ("ben", "dead.discard"), ("anna", "deadline"), ("anna", "pause")):
        with engine.begin() as db:
            audit.record(db, who=who, action=action, why=None, detail={})
    with engine.begin() as db:
        everything = list(audit.list_audit(db))

        def found(**filters: Any) -> list[str]:
            return [entry.action for entry in audit.list_audit(db, **filters)]

        assert found() == ["pause", "deadline", "dead.discard", "dead.requeue"]
        assert found(action="dead") == ["dead.discard", "dead.requeue"]
        assert found(action="dead.requeue") == ["dead.requeue"]
        assert found(action="dea") == []
        assert found(who="anna", limit=2) == ["pause", "deadline"]
        third = everything[2].at
        assert found(since=third) == ["pause", "deadline", "dead.discard"]
        assert found(until=third) == ["dead.discard", "dead.requeue"]
        assert found(until=third, since=third + timedelta(microseconds=1)) == []


@pytest.mark.parametrize(
    "detail",
    [
        {"case": "AB-1"},
        {"cases": ["AB-2", "AB-1"]},
        {"filter": {"case": "AB-1", "key": "own"}},
        {"filter": {"report": "callbacks", "reference": "AB-1"}},  # as reads were kept before they had the case
        {"events": [{"id": 1, "case_reference": "AB-2"}, {"id": 2, "case_reference": "AB-1"}]},
        {"letters": [{"id": 1, "case_reference": None}, {"id": 2, "case_reference": "AB-1"}]},
    ],
)
def test_an_entry_is_found_by_a_case_wherever_it_names_it(engine: Engine, detail: dict[str, Any]) -> None:
    other = json.loads(json.dumps(detail).replace("AB-1", "AB-11"))
    with engine.begin() as db:
        entry = audit.record(db, who="anna", action="dead.discard", why=None, detail=detail)
        audit.record(db, who="anna", action="dead.discard", why="AB-1", detail=other)
        assert [found.id for found in audit.list_audit(db, case="AB-1")] == [entry]


def test_an_action_about_very_many_cases_is_found_by_each_and_its_entry_stays_small(engine: Engine) -> None:
    cases = [f"AB-{number:04}" for number in range(2 * audit.CASES + 1)]
    with engine.begin() as db:
        detail = {"chosen": len(cases)}
        entry = audit.record_naming(
            db, who="anna", action="dead.requeue", why="w", detail=detail, cases=[None, *reversed(cases), *cases]
        )
        *parts, first = audit.list_audit(db)
        assert [len([*audit.list_audit(db, case=case)]) for case in cases[:: audit.CASES]] == [1, 1, 1]
    assert (first.id, first.detail) == (entry, {"chosen": len(cases), "cases": cases[: audit.CASES]})
    assert {(one.who, one.action, one.why, one.detail["part_of"]) for one in parts} == {
        ("anna", "dead.requeue", "w", entry)
    }
    assert [len(one.detail["cases"]) for one in parts] == [1, audit.CASES]


def test_what_postgresql_cannot_store_does_not_stop_an_action_from_being_written_down(engine: Engine) -> None:
    """A command line may hold any bytes: NUL cannot come, but half a character can."""
    strange = b"a\xff\x00b".decode(errors="surrogateescape")
    with engine.begin() as db:
        audit.record(db, who=strange, action="pause", why=strange, detail={"filter": ["a\x00b", r"\u0000", strange]})
        [found] = audit.list_audit(db)
    assert (found.who, found.why) == (r"a\udcff\x00b", r"a\udcff\x00b")
    assert found.detail == {"filter": [r"a\x00b", r"\u0000", r"a\udcff\x00b"]}
