"""The pause: one at most, who may take over and lift it, and that all of it is in the audit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import Engine

from caselog.schema.operations import audit
from caselog.schema.operations import pause as pausing
from caselog.schema.operations.pause import Pause
from caselog.schema.recording.parking import Parked, count_arrivals, park


def actions(engine: Engine) -> list[tuple[str, str, str | None]]:
    """What the audit says, oldest first: action, who, why."""
    with engine.connect() as db:
        return [(entry.action, entry.who, entry.why) for entry in audit.list_audit(db)][::-1]


def found(engine: Engine) -> Pause | None:
    with engine.connect() as db:
        return pausing.find_pause(db)


def trip(engine: Engine, deploy: str = "bad") -> Pause | None:
    with engine.begin() as db:
        return pausing.trip(db, why="they die", deploy=deploy, detail={"arrived": 3, "dead": {"failed": 2}})


def test_a_pause_is_found_until_it_is_lifted_and_both_are_written_down(engine: Engine) -> None:
    assert found(engine) is None
    with engine.begin() as db:
        paused = pausing.pause(db, who="anna", why="a move")
    assert paused is not None
    assert found(engine) == paused
    assert (paused.who, paused.why, paused.is_breakers) == ("anna", "a move", False)
    with engine.begin() as db:
        assert pausing.resume(db, who="bert", why="moved") == paused
        assert pausing.resume(db, who="bert", why="moved") is None
    assert found(engine) is None
    assert actions(engine) == [("pause", "anna", "a move"), ("resume", "bert", "moved")]


def test_who_paused_first_stands_and_the_second_changes_nothing(engine: Engine) -> None:
    with engine.begin() as db:
        first = pausing.pause(db, who="anna", why="a move")
    with engine.begin() as db:
        assert pausing.pause(db, who="bert", why="another") is None
    assert trip(engine) is None
    assert found(engine) == first
    assert len(actions(engine)) == 1


def test_of_many_recorders_whose_breakers_trip_at_once_one_pauses(engine: Engine) -> None:
    with ThreadPoolExecutor(4) as pool:
        tripped = list(pool.map(lambda _: trip(engine), range(4)))
    assert sum(pause is not None for pause in tripped) == 1
    assert actions(engine) == [("pause", "breaker", "they die")]


def test_another_deploy_lifts_the_breakers_pause_and_the_same_does_not(engine: Engine) -> None:
    paused = trip(engine, "bad")
    with engine.begin() as db:
        assert pausing.resume_after_deploy(db, "bad") is None
        assert found(engine) == paused
        assert pausing.resume_after_deploy(db, "good") == paused
    assert found(engine) is None
    assert actions(engine)[-1][:2] == ("resume", "deploy")


def test_no_deploy_lifts_a_persons_pause_also_where_it_took_over_the_breakers(engine: Engine) -> None:
    trip(engine, "bad")
    with engine.begin() as db:
        taken_over = pausing.pause(db, who="anna", why="I look at it")
        assert taken_over is not None
        assert pausing.resume_after_deploy(db, "good") is None
    assert found(engine) == taken_over


def test_parked_events_are_counted_whatever_has_left_since(engine: Engine) -> None:
    with engine.begin() as db:
        assert count_arrivals(db) == 0
        park(db, [Parked(source="s", event_id=str(n), key="k", case_reference="AB-1", raw=b"{}") for n in range(3)])
        db.exec_driver_sql("delete from parked")
        assert count_arrivals(db) == 3
