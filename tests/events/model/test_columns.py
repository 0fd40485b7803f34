"""What an organisation's own rule may set: each column within its bounds, and nothing else, in `apply` alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from support.builders.plain_code import FIELDS
from support.oracle.memory import MemoryWorld
from support.oracle.stored import body

from caselog.events.errors import EventFailed
from caselog.events.folding.resolve import resolve
from caselog.events.model.columns import OWN, SETTABLE
from caselog.events.model.message import parse_event
from caselog.events.model.registry import BaseEvent, EventRegistry
from caselog.events.model.state import MEMORY, CaseState, Log

Json = dict[str, Any]
Rule = Callable[[CaseState, Log], object]

NINE = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
PAGE = (Path(__file__).parents[3] / "docs" / "events.md").read_text()


class Text(str):
    __slots__ = ()


class State(StrEnum):
    OPEN = "open"


class Number(IntEnum):
    THREE = 3


class Claim(BaseEvent):
    key = "claim"
    codes = {"MADE": FIELDS}
    creates_case = ("MADE",)


def event(number: int, key: str, **context: Any) -> Json:
    return {
        "specversion": "1.0",
        "id": f"{number:03}",
        "source": "/test",
        "type": key,
        "subject": "C-1",
        "time": (NINE + timedelta(minutes=number)).isoformat(),
        "data": {"context": context, "notes": str(number)},
    }


def world_of(cls: type[BaseEvent], *, batches: int = 1, **context: Any) -> MemoryWorld:
    """A world in which a case was made, the event happened, and the case was made again: in one batch or in three."""
    registry = EventRegistry()
    registry.register(Claim)
    registry.register(cls)
    world = MemoryWorld(registry=registry)
    story = [event(1, "claim"), event(2, "own", **context), event(3, "claim")]
    for batch in [story] if batches == 1 else [[one] for one in story]:
        world.record(*batch)
    return world


def own(rule: Rule) -> type[BaseEvent]:
    class Own(BaseEvent):
        key = "own"
        codes = {"DONE": FIELDS}

        def apply(self, case: CaseState, log: Log) -> None:
            rule(case, log)

    return Own


def setting(**columns: Any) -> type[BaseEvent]:
    def rule(case: CaseState, _log: Log) -> None:
        for name, value in columns.items():
            setattr(case, name, value)

    return own(rule)


WRONG: list[tuple[str, Any]] = [
    ("reference", "C-2"),
    ("reference", None),
    ("created_at", None),
    ("created_at", NINE),
    ("billable_time", -5),
    ("billable_time", "a"),
    ("billable_time", False),
    ("outcome_code", "x" * 5000),
    ("outcome_code", None),
    ("outcome_code", 5),
    ("outcome_code_id", 7),
    ("outcome_code_id", "a"),
    ("outcome_code_id", 2**70),
    ("level", None),
    ("level", "HIGH"),
    ("level", 2**40),
    ("last_log", None),
    ("last_outcome", "me"),
    ("category", "a\0b"),
    ("category", "\ud800"),
    ("category", "x" * 101),
    ("search_field", None),
    ("search_field", "\udfff"),
    ("requires_action_by", "somebody"),
    ("provider_viewed", NINE.replace(tzinfo=None)),
    ("provider_closed", datetime.max.replace(tzinfo=timezone(timedelta(hours=-2)))),
    ("requires_action_at", datetime(1899, 12, 31, tzinfo=UTC)),
    ("callback_attempt", -1),
    ("callback_attempt", True),
    ("complaint_flag", 1),
    ("open_complaints", ("a", 1)),
    ("viewed_timers", (2**70,)),
    ("called_back", None),
]


@pytest.mark.parametrize(("column", "value"), WRONG, ids=[f"{column}-{n}" for n, (column, _) in enumerate(WRONG)])
@pytest.mark.parametrize("batches", [1, 3])
def test_a_column_that_a_rule_may_not_set_so_is_named_and_nothing_of_it_remains(
    column: str, value: Any, batches: int
) -> None:
    world = world_of(setting(**{column: value}), batches=batches)
    [error] = world.refused.values()
    assert error.reason == "failed"
    assert f"apply of 'own' set case.{column}" in str(error)
    assert "Mend the rule and requeue the dead letter." in str(error)
    assert world.cases == world_of(own(_refuse), batches=batches).cases


def _refuse(_case: CaseState, _log: Log) -> None:
    raise ZeroDivisionError


def test_every_column_of_a_case_has_its_check() -> None:
    assert {*SETTABLE, *OWN} == {*CaseState.__struct_fields__}
    assert not {*SETTABLE} & {*OWN}


def test_the_table_of_columns_on_the_page_says_who_sets_each() -> None:
    _, _, table = PAGE.partition("| column | who sets it |\n|---|---|\n")
    said: dict[str, bool] = {}
    for row in table.partition("\n\n")[0].splitlines():
        _, names, who, _ = row.split("|")
        said |= dict.fromkeys(re.findall(r"`(\w+)`", names), "your `apply`" in who)
    assert said == {name: name in SETTABLE for name in CaseState.__struct_fields__ if name not in MEMORY}


def test_what_a_rule_sets_within_the_bounds_stands_as_plain_values() -> None:
    """A member of an enumeration is a text or a number as good as any; columns hold plain ones."""
    latest = datetime(9998, 12, 31, 23, 59, tzinfo=timezone(timedelta(hours=-12)))
    world = world_of(
        setting(
            scope_state=State.OPEN, category=Text("motor"), callback_attempt=Number.THREE, requires_action_at=latest,
            search_field="Ünï \U0001f600", open_complaints=["a"],
        )
    )  # fmt: skip
    assert world.refused == {}
    case = world.cases["C-1"]
    assert [(value, type(value)) for value in (case.scope_state, case.category, case.callback_attempt)] == [
        ("open", str), ("motor", str), (3, int),
    ]  # fmt: skip
    assert (case.requires_action_at, case.search_field, case.open_complaints) == (latest, "Ünï \U0001f600", ("a",))


class Fickle(tzinfo):
    """A zone that answers something else each time that it is asked."""

    asked = 0

    def utcoffset(self, _: datetime | None) -> timedelta:
        self.asked += 1
        return timedelta(hours=self.asked % 5)

    def dst(self, _: datetime | None) -> None:
        return None

    def tzname(self, _: datetime | None) -> str:
        return "fickle"


@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize("rule_sets", ["first", "second", "gap", "fickle"])
def test_a_time_is_the_same_moment_before_and_after_it_was_stored(rule_sets: str, batches: int) -> None:
    """Clocks show an hour twice, and leave one out: compared by their faces, such times equal each other or nothing."""
    twice = datetime(2026, 10, 25, 1, 30, tzinfo=ZoneInfo("Europe/London"))
    time = {
        "first": twice,
        "second": twice.replace(fold=1),
        "gap": datetime(2026, 3, 29, 1, 30, tzinfo=ZoneInfo("Europe/London")),
        "fickle": datetime(2026, 3, 2, 9, tzinfo=Fickle()),
    }[rule_sets]
    case = world_of(setting(requires_action_at=time), batches=batches).cases["C-1"]
    found = case.requires_action_at
    assert found is not None
    assert (type(found), found.tzinfo, found.fold) == (datetime, UTC, 0)
    if rule_sets != "fickle":
        assert found == time.astimezone(UTC)
    else:
        assert found.date() == time.date()


def test_another_moment_of_the_hour_that_comes_twice_is_no_repetition() -> None:
    """And the same moment is one, however the events come."""

    class Twice(BaseEvent):
        key = "own"
        codes = {"DONE": FIELDS}

        def apply(self, case: CaseState, log: Log) -> None:
            zone = ZoneInfo("Europe/London")
            case.requires_action_at = datetime(2026, 10, 25, 1, 30, tzinfo=zone, fold=log.context["fold"])

    for folds, suppressed in (((0, 0), [False, True]), ((0, 1), [False, False])):
        story = [event(1, "claim"), *(event(number, "own", fold=fold) for number, fold in enumerate(folds, start=2))]
        for one in story:
            one["data"]["notes"] = ""
        for batches in ([story], [[one] for one in story]):
            registry = EventRegistry()
            registry.register(Claim)
            registry.register(Twice)
            world = MemoryWorld(registry=registry)
            for batch in batches:
                world.record(*batch)
            logs = sorted(world.logs.values(), key=lambda log: log.occurred_at)
            assert [log.suppressed for log in logs if log.key == "own"] == suppressed


def test_a_rule_may_set_anew_what_stands_already() -> None:
    def rule(case: CaseState, _log: Log) -> None:
        case.reference, case.billable_time = f"{case.reference} "[:-1], case.billable_time + 0

    assert world_of(own(rule)).refused == {}


CHANGES: list[tuple[str, Rule]] = [
    ("case", lambda _, log: setattr(log, "case", "C-2")),
    ("notes", lambda _, log: setattr(log, "notes", "other")),
    ("suppressed", lambda _, log: setattr(log, "suppressed", True)),
    ("context", lambda _, log: log.context.update(more=1)),
    ("context", lambda _, log: log.context["nested"].append(1)),
]


@pytest.mark.parametrize(("name", "rule"), CHANGES, ids=[f"{name}-{n}" for n, (name, _) in enumerate(CHANGES)])
def test_a_rule_that_changes_its_log_fails_and_the_log_is_not_changed(name: str, rule: Rule) -> None:
    is_mended = False
    seen: list[Any] = []

    def once(case: CaseState, log: Log) -> None:
        seen.append((log.case, log.notes, log.suppressed, {**log.context, "nested": [*log.context["nested"]]}))
        if not is_mended:
            rule(case, log)

    world = world_of(own(once), nested=[])
    [error] = world.refused.values()
    assert f"apply of 'own' changed log.{name}" in str(error)
    assert all(one == ("C-1", "2", False, {"nested": []}) for one in seen)


class Asking(BaseEvent):
    """Each of its rules that only answer sets a column, where the context names the rule."""

    key = "own"
    codes = {"DONE": FIELDS}

    def get_log_code(self, case: CaseState | None, /, *, sets: str = "", **_: Any) -> str:
        if case is not None and sets:
            case.category = "set"
        return "DONE"

    def get_repeated_code(self, case: CaseState, context: Json) -> str | None:
        return self._sets("get_repeated_code", case, context)

    def acts_on(self, case: CaseState, log: Log) -> bool:
        return self._sets("acts_on", case, log.context) is None

    def suppresses(self, case: CaseState, log: Log) -> bool:
        return self._sets("suppresses", case, log.context) is not None

    @staticmethod
    def _sets(name: str, case: CaseState, context: Json) -> None:
        if context.get("which") == name:
            case.category = "set"


def _sets_more(case: CaseState) -> None:
    case.category = "set"


class Tidying(BaseEvent):
    key = "own"
    codes = {"DONE": FIELDS}

    def check(self, code: str | None, context: Json) -> None:  # noqa: ARG002 - as it is called
        context.pop("blank", None)


class TidyingLate(BaseEvent):
    key = "own"
    codes = {"DONE": FIELDS}

    def get_repeated_code(self, case: CaseState, context: Json) -> str | None:  # noqa: ARG002 - as it is called
        context.get("nested", []).clear()
        return None


class Calling(BaseEvent):
    key = "own"
    codes = {"DONE": FIELDS | {"set_requires_action_by": _sets_more}}


@pytest.mark.parametrize("which", ["get_repeated_code", "acts_on", "suppresses"])
@pytest.mark.parametrize("batches", [1, 3])
def test_only_apply_sets_columns(which: str, batches: int) -> None:
    """What the others set would be lost, or not, with the order in which events arrive."""
    world = world_of(Asking, batches=batches, which=which)
    assert [str(error).partition(",")[0] for error in world.refused.values()] == [f"{which} of 'own' set case.category"]
    assert world.cases["C-1"].category is None
    assert world_of(Asking, batches=batches).refused == {}


@pytest.mark.parametrize("cls", [Tidying, TidyingLate])
def test_a_rule_that_changes_the_context_fails_since_what_was_sent_is_what_is_stored(cls: type[BaseEvent]) -> None:
    registry = EventRegistry()
    registry.register(cls)
    registered = registry.registered("own")
    sent = parse_event(body(event(1, "own", blank="", nested=[1])))
    with pytest.raises(EventFailed, match="of 'own' changed the event's context"):
        resolve(sent, registered, registry, CaseState(reference="C-1"))
    assert sent.data.context == {"blank": "", "nested": [1]}


def test_a_function_for_who_has_the_next_move_sets_no_column() -> None:
    [error] = world_of(Calling).refused.values()
    assert str(error).startswith(
        "set_requires_action_by of 'own'/'DONE' set case.category, and only apply sets columns"
    )


def test_what_a_rule_raises_of_its_own_is_its_events_fault_whatever_it_is() -> None:
    """Ctrl-C is another exception: see `caselog.workers.process.command_line`."""

    def rule(_case: CaseState, _log: Log) -> None:
        raise KeyboardInterrupt

    [error] = world_of(own(rule)).refused.values()
    assert str(error).startswith("applying 'own'/'DONE' raised KeyboardInterrupt")
