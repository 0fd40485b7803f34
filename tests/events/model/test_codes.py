"""A code's definition: what the dict form may say, and what is said where it is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from caselog.events.errors import RegistrationError
from caselog.events.model.codes import DEFAULT_ORDER, Code, LogLevel, LogType, RequiresActionBy, Role, parse_code
from caselog.events.model.state import CaseState

SMALLEST: dict[str, Any] = {
    "type": LogType.OUTCOME,
    "level": LogLevel.HIGH,
    "selectable_by": [],
    "description": "Case taken",
    "stops_timer": False,
}


def parsed(**fields: Any) -> Code:
    return parse_code("AcceptCase", "accept_case", "SPOP", {**SMALLEST, **fields})


def test_the_smallest_definition_leaves_order_and_next_action_alone() -> None:
    code = parsed()
    assert (code.key, code.code, code.order) == ("accept_case", "SPOP", DEFAULT_ORDER)
    assert not code.touches_requires_action
    assert (code.creates_case, code.starts_timer, code.cancels_timer) == (False, False, False)


def test_levels_and_types_have_the_values_of_the_contract() -> None:
    assert {level.name: int(level) for level in LogLevel} == {"HIGH": 29, "MODERATE": 21, "MINOR": 11}
    assert set(LogType) == {"outcome", "system", "event"}
    assert set(Role) == {"operator", "operator_manager", "specialist", "system", "web"}
    assert set(RequiresActionBy) == {"operator", "operator_manager", "1_provider_review", "2_provider"}


def test_plain_values_are_as_good_as_the_enumerations() -> None:
    plain = parsed(type="outcome", level=29, selectable_by=("operator",), set_requires_action_by="2_provider")
    assert (
        plain.facts() == parsed(selectable_by=[Role.OPERATOR], set_requires_action_by=RequiresActionBy.PROVIDER).facts()
    )


def test_none_for_the_next_action_is_told_from_not_given() -> None:
    assert parsed(set_requires_action_by=None).facts()["set_requires_action_by"] == {"set": None}
    assert parsed().facts()["set_requires_action_by"] is None


def test_a_rule_for_the_next_action_is_named_in_the_facts() -> None:
    def keep(case: CaseState) -> str | None:
        return case.requires_action_by

    assert parsed(set_requires_action_by=keep).facts()["set_requires_action_by"] == {"rule": "keep"}


def test_the_default_order_is_no_order_in_the_facts() -> None:
    assert parsed().facts()["order"] is None
    assert parsed(order=10).facts()["order"] == 10


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("type", "outcomes", "a LogType"),
        ("type", None, "a LogType"),
        ("level", "HIGH", "a LogLevel"),
        ("level", 30, "a LogLevel"),
        ("level", True, "a LogLevel"),
        ("selectable_by", "operator", "a list of roles"),
        ("selectable_by", None, "a list of roles"),
        ("selectable_by", ["king"], "a list of roles"),
        ("selectable_by", [["operator"]], "a list of roles"),
        ("description", "", "a sentence"),
        ("description", "  ", "a sentence"),
        ("description", 5, "a sentence"),
        ("stops_timer", 1, "True or False"),
        ("stops_timer", None, "True or False"),
        ("order", "10", "a whole number"),
        ("order", True, "a whole number"),
        ("order", None, "a whole number"),
        ("set_requires_action_by", "somebody", "a RequiresActionBy"),
        ("set_requires_action_by", 5, "a RequiresActionBy"),
    ],
)
def test_a_wrong_value_is_named_with_class_code_field_and_what_was_expected(
    field: str, value: Any, expected: str
) -> None:
    with pytest.raises(RegistrationError) as error:
        parsed(**{field: value})
    for part in ("AcceptCase", "'SPOP'", f"{field!r}", expected, repr(value)):
        assert part in str(error.value)


@pytest.mark.parametrize("field", sorted(SMALLEST))
def test_a_missing_field_is_named(field: str) -> None:
    fields = {name: value for name, value in SMALLEST.items() if name != field}
    with pytest.raises(RegistrationError, match=rf"AcceptCase.*'SPOP'.*{field!r} must be .* it is missing"):
        parse_code("AcceptCase", "accept_case", "SPOP", fields)


def test_an_unknown_field_is_named_with_the_nearest_known_one() -> None:
    with pytest.raises(RegistrationError, match=r"AcceptCase.*'SPOP'.*'stop_timer'.*Did you mean 'stops_timer'\?"):
        parsed(stop_timer=True)


@pytest.mark.parametrize("fields", [None, [], "outcome", 5])
def test_a_definition_is_a_dict(fields: Any) -> None:
    with pytest.raises(RegistrationError, match=r"AcceptCase.*'SPOP'.*must be a dict"):
        parse_code("AcceptCase", "accept_case", "SPOP", fields)


@pytest.mark.parametrize("name", ["", None, 5, "a\nb", "a\x00", "x" * 101])
def test_a_code_is_a_printable_string_of_1_to_100_characters(name: Any) -> None:
    with pytest.raises(RegistrationError, match=r"AcceptCase\.codes has the code"):
        parse_code("AcceptCase", "accept_case", name, SMALLEST)


@pytest.mark.parametrize(
    ("kind", "level", "sets"),
    [
        (LogType.OUTCOME, LogLevel.HIGH, True),
        (LogType.OUTCOME, LogLevel.MODERATE, False),
        (LogType.OUTCOME, LogLevel.MINOR, False),
        (LogType.SYSTEM, LogLevel.HIGH, False),
        (LogType.EVENT, LogLevel.HIGH, False),
    ],
)
def test_only_an_outcome_at_level_high_becomes_the_cases_outcome(kind: LogType, level: LogLevel, *, sets: bool) -> None:
    assert parsed(type=kind, level=level).sets_outcome is sets


@pytest.mark.parametrize(
    ("selectable_by", "may"),
    [
        ([], [*Role, None]),
        # An operator manager is an operator, and not the other way round.
        ([Role.OPERATOR], [Role.OPERATOR, Role.OPERATOR_MANAGER]),
        ([Role.OPERATOR_MANAGER], [Role.OPERATOR_MANAGER]),
        ([Role.SPECIALIST], [Role.SPECIALIST]),
        ([Role.WEB, Role.OPERATOR], [Role.OPERATOR, Role.OPERATOR_MANAGER, Role.WEB]),
    ],
)
def test_who_may_choose_a_code_is_whoever_has_or_includes_one_of_its_roles(
    selectable_by: list[Role], may: list[Role | None]
) -> None:
    """An empty list means anyone; a role may come as the plain string that it is on the wire."""
    code = parsed(selectable_by=selectable_by)
    assert [role for role in (*Role, None) if code.selectable_for(role)] == may
    assert [role for role in (*Role, None) if code.selectable_for(role if role is None else str(role))] == may
    assert code.selectable_for("king") is (None in may)
