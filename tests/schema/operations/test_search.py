"""Finding cases by what an operator types, on a real PostgreSQL with its two indexes."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, text

from caselog.events.errors import CaselogError
from caselog.schema.operations.search import CANDIDATES, merge_new_cases, search_cases

INSERT = text(
    """
    insert into "case" (reference, callback_attempt, billable_time, complaint_flag, search_field, state, created_at)
    select reference, 0, 0, false, search_field, 'new', now()
    from unnest(cast(:references as text[]), cast(:fields as text[])) as new(reference, search_field)
    """
)


def put(engine: Engine, **fields: str) -> None:
    """Cases by reference, each with what stands in its search field beside the reference."""
    put_all(engine, {reference.replace("_", "-"): field for reference, field in fields.items()})


def put_all(engine: Engine, fields: dict[str, str]) -> None:
    searched = [f"{reference.replace('-', '')} {field}".strip() for reference, field in fields.items()]
    with engine.begin() as db:
        db.execute(INSERT, {"references": list(fields), "fields": searched})


def found(engine: Engine, searched: str, limit: int = 20) -> list[str]:
    with engine.connect() as db:
        return [row["reference"] for row in search_cases(db, searched, limit).cases]


@pytest.mark.parametrize(
    "typed",
    [
        "AB-1234-5678",
        "ab12345678",
        "AB 1234 5678",
        "Ab\u20101234\u20135678",
        "aB-12345-678",
        "1234",
        "34-56",
        "B-12",
        "5678",
    ],
)
def test_a_case_is_found_however_its_reference_is_typed(engine: Engine, typed: str) -> None:
    """With any dashes or none, in any case, in part."""
    put(engine, AB_1234_5678="", CD_0000_0000="")
    assert found(engine, typed) == ["AB-1234-5678"]


def test_what_is_searched_by_beside_the_reference_is_found_likewise(engine: Engine) -> None:
    put(engine, AB_1="Ömer Smith-Jones", AB_2="Anna O'Brien")
    assert found(engine, "smith jones") == ["AB-1"]
    assert found(engine, "ÖMER") == ["AB-1"]
    assert found(engine, "o'brien") == ["AB-2"]


def test_the_best_matches_come_first(engine: Engine) -> None:
    """The case itself, then those that begin with it, then those that hold it; within these, by reference."""
    put(engine, ZZ_100="", XAB_100="", AB_1000="", AB_100="Smith", AB_1009="", YAB_100="")
    assert found(engine, "ab100") == ["AB-100", "AB-1000", "AB-1009", "XAB-100", "YAB-100"]
    assert found(engine, "ab100", 3) == ["AB-100", "AB-1000", "AB-1009"]
    assert found(engine, "ab100", 4)[-1] == "XAB-100"


def test_the_best_matches_are_among_more_than_can_be_looked_at(engine: Engine) -> None:
    put_all(engine, {f"X{number}-AB-100": "" for number in range(CANDIDATES * 2)} | {"AB-100": ""})
    with engine.connect() as db:
        answer = search_cases(db, "ab100", 20)
    assert answer.cases[0]["reference"] == "AB-100"
    assert (len(answer.cases), answer.cut) == (20, True)


@pytest.mark.parametrize("typed", ["%", "_", "100%", "a_c", "\\", "%%%", "a%c"])
def test_wildcards_are_nothing_special(engine: Engine, typed: str) -> None:
    put(engine, AB_1="1000 abc aXXc", AB_2="")
    assert found(engine, typed) == []
    put_all(engine, {f"{typed}-Q": ""})
    assert found(engine, typed) == [f"{typed}-Q"]


def test_a_short_text_is_looked_for_at_the_beginning(engine: Engine) -> None:
    """And so is one without three letters or digits in a row: no index could find it elsewhere."""
    put(engine, AB_1="", XAB_1="")
    for short in ("ab", "a", "ab'1"):
        with engine.connect() as db:
            answer = search_cases(db, short, 20)
        assert answer.only_beginnings
        assert [row["reference"] for row in answer.cases] == ([] if "'" in short else ["AB-1"])


@pytest.mark.parametrize("nothing", ["", "  ", "-", "\u2013", "\x00"])
def test_searching_for_nothing_says_what_to_give(engine: Engine, nothing: str) -> None:
    with engine.connect() as db, pytest.raises(CaselogError, match="part of a reference"):
        search_cases(db, nothing, 20)


def test_text_that_is_no_utf_8_finds_nothing(engine: Engine) -> None:
    assert found(engine, "abc\udcff") == []


@pytest.mark.parametrize("searched", ["ab-0007", "7-0001", "ab", "nowhere"])
def test_a_search_reads_an_index_and_not_every_case(engine: Engine, searched: str) -> None:
    """By PostgreSQL's own count of sequential scans."""
    put_all(engine, {f"AB-{number % 100:04}-{number:04}": "Smith" for number in range(3000)})
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as db:
        db.execute(text('vacuum analyze "case"'))
        before = _scans(engine)
        search_cases(db, searched, 20)
        db.execute(text("select pg_stat_force_next_flush()"))
    assert _scans(engine) == before


def _scans(engine: Engine) -> int:
    with engine.connect() as db:
        count: int = db.execute(text("select seq_scan from pg_stat_user_tables where relname = 'case'")).scalar_one()
        return count


# --- what the index of parts only lists ---


def test_new_cases_are_found_before_they_are_merged_into_the_index_and_after(engine: Engine) -> None:
    put_all(engine, {f"AB-{number:04}": "" for number in range(300)})
    assert found(engine, "0299") == ["AB-0299"]
    with engine.begin() as db:
        assert merge_new_cases(db) > 0
        assert merge_new_cases(db) == 0
    assert found(engine, "0299") == ["AB-0299"]


def test_who_does_not_own_the_index_leaves_its_merging_to_others(engine: Engine) -> None:
    """As where one role migrates and the workers connect as another."""
    put(engine, AB_1="")
    with engine.connect() as db:
        db.execute(text("create role stranger"))
        db.execute(text("set local role stranger"))
        assert merge_new_cases(db) == 0
        db.rollback()
    with engine.begin() as db:
        assert merge_new_cases(db) > 0
