"""From an event to its code: what is refused, in which order, and what is decided when (docs/rules.md §1)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support.oracle.memory import MemoryWorld
from support.oracle.stored import body

from caselog.events.errors import EventError, EventFailed, EventRejected, RoleNotAllowed
from caselog.events.folding.resolve import Screened, refuses_at_once, resolve, screen
from caselog.events.model.codes import LogLevel, LogType, Role
from caselog.events.model.message import Event, parse_event
from caselog.events.model.registry import BaseEvent, EventRegistry, autodiscover, event_registry
from caselog.events.model.state import CaseState

Json = dict[str, Any]
NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
LATEST = NOW + timedelta(minutes=5)


@pytest.fixture(autouse=True)
def _bundled() -> None:
    autodiscover()


def as_json(key: str, data: Json | None = None, *, subject: str | None = "AB-1", time: datetime = NOW) -> Json:
    event = {"specversion": "1.0", "id": "1", "source": "/test", "type": key, "time": time.isoformat()}
    return event | {"data": data or {}} | ({} if subject is None else {"subject": subject})


def an_event(key: str, data: Json | None = None, *, subject: str | None = "AB-1", time: datetime = NOW) -> Event:
    return parse_event(body(as_json(key, data, subject=subject, time=time)))


def screened(key: str, data: Json | None = None, registry: EventRegistry = event_registry, **more: Any) -> Screened:
    return screen(0, an_event(key, data, **more), registry, LATEST)


def refusal(key: str, data: Json | None = None, registry: EventRegistry = event_registry, **more: Any) -> EventError:
    with pytest.raises(EventError) as caught:
        screened(key, data, registry, **more)
    return caught.value


def code_of(key: str, data: Json | None = None, case: CaseState | None = None) -> str:
    """The code that an event of a case comes to."""
    event = screened(key, data)
    if event.code is not None:
        return event.code.code
    return resolve(event.event, event.registered, event_registry, case or CaseState(reference="AB-1")).code


def by(role: str | None) -> Json:
    return {"actor": {"id": "someone"} | ({} if role is None else {"role": role})}


# --- what an event says itself ---


def test_an_event_of_an_unregistered_type_is_unknown_and_told_the_nearest() -> None:
    error = refusal("acept_case", {"code": "SPOP"})
    assert error.reason == "unknown_event"
    assert "'acept_case'" in str(error)
    assert "Did you mean 'accept_case'?" in str(error)
    assert "caselog dead requeue" in str(error)


def test_a_given_code_stands_under_its_key_or_is_unknown() -> None:
    assert code_of("accept_case", {"code": "SPOP"}) == "SPOP"
    error = refusal("accept_case", {"code": "CLSP"})
    assert error.reason == "unknown_code"
    assert "'SPOP'" in str(error)


def test_codes_belong_to_their_key() -> None:
    """DUPL stands under two keys, each with roles of its own."""
    assert code_of("suspend_case", {"code": "DUPL", **by("operator")}) == "DUPL"
    assert refusal("reject_case", {"code": "DUPL", **by("operator")}).reason == "role_not_allowed"


@pytest.mark.parametrize("role", [None, "web", "specialist", "system"])
def test_a_given_code_may_be_chosen_by_its_roles_only(role: str | None) -> None:
    error = refusal("decline_help", {"code": "DESP", **by(role)})
    assert isinstance(error, RoleNotAllowed)
    assert "is for operator, operator_manager." in str(error)


def test_an_operator_manager_may_what_an_operator_may() -> None:
    """Also what is left to the class; and what is for specialists alone is for neither."""
    assert code_of("decline_help", {"code": "DESP", **by("operator_manager")}) == "DESP"
    assert code_of("defer_assignment", by("operator_manager")) == "CBSP"
    assert refusal("reject_case", {"code": "MERI", **by("operator_manager")}).reason == "role_not_allowed"


@pytest.mark.parametrize("code", ["CB1", None])
def test_the_web_form_may_ask_for_a_first_callback(code: str | None) -> None:
    data = {"context": {"requires_action_at": "2026-03-03T10:00:00Z"}, **by("web")}
    assert code_of("call_me_back", data | ({} if code is None else {"code": code})) == "CB1"


@pytest.mark.parametrize(
    ("key", "role", "params", "code"),
    [
        ("reject_case", "operator", {"is_conflict": True}, "COI"),
        ("case", "specialist", {"status": "call_started"}, "CALL_STARTED"),
        ("call_me_back", "web", {"priority_callback": True}, "PCB"),
        ("call_me_back", "specialist", {}, "CB1"),
        ("defer_assignment", None, {}, "CBSP"),
    ],
)
def test_a_code_left_to_the_class_is_for_the_same_roles_as_a_given_one(
    key: str, role: str | None, params: Json, code: str
) -> None:
    data = {"context": {"requires_action_at": "2026-03-03T10:00:00Z"}, **by(role)}
    given = refusal(key, data | {"code": code})
    with pytest.raises(RoleNotAllowed) as left:
        code_of(key, data | {"params": params})
    assert str(left.value) == str(given)


def test_the_role_is_held_against_the_code_that_the_case_leads_to() -> None:
    """The web form asks a second time: that would be CB2, which is for operators."""
    data = {"context": {"requires_action_at": "2026-03-03T10:00:00Z"}, **by("web")}
    with pytest.raises(RoleNotAllowed, match="'CB2'"):
        code_of("call_me_back", data, CaseState(reference="AB-1", callback_attempt=1))


def test_without_an_actor_only_what_anyone_may_choose_is_allowed() -> None:
    assert refusal("decline_help", {"code": "DESP"}).reason == "role_not_allowed"
    assert code_of("accept_case", {"code": "SPOP"}) == "SPOP"


def test_a_missing_actor_a_missing_role_and_a_wrong_one_are_three_things() -> None:
    assert "data.actor is missing" in str(refusal("decline_help", {"code": "DESP"}))
    assert "data.actor.role is missing" in str(refusal("decline_help", {"code": "DESP", **by(None)}))
    wrong = str(refusal("decline_help", {"code": "DESP", **by("web")}))
    assert "an actor with the role 'web' may not choose code 'DESP'" in wrong
    assert "None" not in wrong


def test_an_event_up_to_the_tolerance_ahead_is_taken_and_a_later_one_is_not() -> None:
    assert screened("accept_case", {"code": "SPOP"}, time=LATEST).code is not None
    error = refusal("accept_case", {"code": "SPOP"}, time=LATEST + timedelta(microseconds=1))
    assert error.reason == "time_in_future"
    assert "CASELOG_FUTURE_TOLERANCE_S" in str(error)


def test_an_event_about_a_case_without_a_subject_is_malformed() -> None:
    error = refusal("accept_case", {"code": "SPOP"}, subject=None)
    assert error.reason == "malformed"
    assert "subject" in str(error)


@pytest.mark.parametrize(
    ("key", "data", "subject", "reason"),
    [
        ("accept_case", {"code": "SPOP"}, None, "malformed"),
        ("timer", {"code": "TIMER_STARTED"}, None, "malformed"),
        ("decline_help", {"code": "DESP"}, "AB-1", "role_not_allowed"),
        ("assign_to_provider", {"code": "REFSP"}, "AB-1", "rejected"),
        ("accept_case", {"code": "SPOP"}, "AB-1", None),
        ("acept_case", {"code": "SPOP"}, None, None),  # a newer recorder may know it
        ("accept_case", {"code": "SPOPP"}, "AB-1", None),
        ("suspend_case", {}, "AB-1", None),
        ("call_me_back", {"code": "NONE", "context": {}}, "AB-1", None),
    ],
)
def test_at_once_is_refused_what_is_known_here_in_the_recorders_own_words(
    key: str, data: Json, subject: str | None, reason: str | None
) -> None:
    """Whenever it happened: the time is the database clock's to judge."""
    error = refuses_at_once(an_event(key, data, subject=subject, time=NOW + timedelta(days=9000)), event_registry)
    assert (None if error is None else error.reason) == reason
    if reason is not None:
        assert str(error) == str(refusal(key, data, subject=subject))


def test_a_rule_that_breaks_is_no_reason_to_refuse_at_once() -> None:
    """It can be mended, and the event be recorded then."""

    class Broken(BaseEvent):
        key = "broken"

        def check(self, _code: str | None, _context: Json) -> None:
            raise ZeroDivisionError

    registry = EventRegistry()
    registry.register(Broken)
    assert refusal("broken", registry=registry).reason == "failed"
    assert refuses_at_once(an_event("broken"), registry) is None


def test_a_timer_event_is_about_an_actor_and_about_no_case() -> None:
    assert refusal("timer", {"code": "TIMER_STARTED"}, subject=None).reason == "malformed"
    assert screened("timer", {"code": "TIMER_STARTED", **by("operator")}, subject=None).case is None
    assert screened("timer", {"code": "TIMER_STARTED", **by("operator")}, subject="AB-1").case is None


@pytest.mark.parametrize(
    ("key", "data"),
    [
        ("assign_to_provider", {"code": "REFSP"}),
        ("assign_to_provider", {"params": {"is_spor": True}}),
        ("call_me_back", {"code": "CB1", "context": {"requires_action_at": "2026-03-03T10:00:00"}, **by("operator")}),
        ("call_me_back", {"params": {}}),
        ("case", {"code": "CASE_CREATED", "context": {"source": "FAX"}}),
        ("case", {"params": {"status": "created"}, "context": {"source": "FAX"}}),
    ],
)
def test_what_the_rules_need_of_the_context_is_asked_before_any_case_is_looked_for(key: str, data: Json) -> None:
    """So such an event is refused at once and never waits for its case (docs/rules.md §1.4)."""
    error = refusal(key, data)
    assert error.reason == "rejected"
    assert "context." in str(error)


# Each event has its own fault and all of those after it; the first decides.
_FUTURE = LATEST + timedelta(days=1)
_FAULTS = [
    ("malformed", {"key": "call_me_back", "data": {"code": "NO_SUCH", **by("web")}, "subject": None, "time": _FUTURE}),
    ("malformed", {"key": "timer", "data": {"code": "TIMER_STARTED"}, "time": _FUTURE}),
    ("time_in_future", {"key": "no_such", "data": {"code": "NO_SUCH"}, "time": _FUTURE}),
    ("time_in_future", {"key": "call_me_back", "data": {"code": "NO_SUCH", **by("web")}, "time": _FUTURE}),
    ("unknown_event", {"key": "no_such", "data": {"code": "NO_SUCH"}}),
    ("unknown_code", {"key": "call_me_back", "data": {"code": "NO_SUCH", **by("web")}}),
    ("role_not_allowed", {"key": "call_me_back", "data": {"code": "CB2", **by("web")}}),
    ("rejected", {"key": "call_me_back", "data": {"code": "CB2", **by("operator")}}),
]


@pytest.mark.parametrize(("reason", "event"), _FAULTS)
def test_of_several_faults_the_first_in_the_order_of_the_rules_is_named(reason: str, event: Json) -> None:
    assert refusal(**event).reason == reason


@pytest.mark.parametrize(
    ("key", "data"),
    [
        ("call_me_back", {"context": {}, **by("operator")}),
        ("assign_to_provider", {"context": {"provider": 7}, **by("operator")}),
        ("case", {"params": {"status": "complaint_flag_toggled"}, "context": {"complaint_flag": "yes"}}),
        ("diagnosis", {"params": {"status": "created"}, "context": {"state": 5}}),
        ("diagnosis", {"params": {"status": "created"}, "context": {"category": ""}}),
        ("means_test", {"params": {"status": "passed"}, "context": {"state": 5}}),
    ],
)
def test_an_event_refused_for_what_it_says_itself_never_waits_for_its_case(key: str, data: Json) -> None:
    """Also where its code is left to its class, and follows from its params alone."""
    world = MemoryWorld()
    world.record(as_json(key, data))
    assert world.waiting == {}
    assert [error.reason for error in world.refused.values()] == ["rejected"]


@pytest.mark.parametrize(
    ("key", "data", "reason"),
    [
        ("case", {"params": {"status": "call_started"}, **by("web")}, "role_not_allowed"),
        ("case", {"params": {"status": "no such"}}, "code_not_resolved"),
        ("stop_call_me_back", {"params": {"cancel": True}, **by("operator")}, "rejected"),
    ],
)
def test_what_is_asked_once_the_code_is_looked_for_waits_for_the_case(key: str, data: Json, reason: str) -> None:
    """Whether the case exists comes before the code that is not given, its roles and what its rule refuses."""
    world = MemoryWorld()
    world.record(as_json(key, data))
    assert (len(world.waiting), world.refused) == (1, {})
    world.record(as_json("case", {"code": "CASE_CREATED"}, time=NOW - timedelta(hours=1)) | {"id": "0"})
    assert world.waiting == {}
    assert [error.reason for error in world.refused.values()] == [reason]


# --- what the case decides ---


@pytest.mark.parametrize(("attempts", "code"), [(0, "CB1"), (1, "CB2"), (2, "CB3")])
def test_a_callback_without_a_code_goes_by_the_cases_attempts(attempts: int, code: str) -> None:
    data = {"context": {"requires_action_at": "2026-03-03T10:00:00Z"}, **by("operator")}
    assert code_of("call_me_back", data, CaseState(reference="AB-1", callback_attempt=attempts)) == code


def test_an_event_with_several_codes_and_no_rule_must_give_one() -> None:
    for key in ("complaint", "decline_help", "suspend_case", "reject_case", "timer"):
        with pytest.raises(EventError) as caught:
            code_of(key, by("operator"))
        assert caught.value.reason == "code_not_resolved"
        assert "data.code" in str(caught.value)


def test_an_event_with_one_code_needs_none() -> None:
    assert code_of("accept_case") == "SPOP"
    assert code_of("reopen_case") == "REOPEN"


def test_a_creation_is_known_by_its_status_before_its_case_exists() -> None:
    assert screened("case", {"code": "CASE_CREATED"}).creates_case
    assert screened("case", {"params": {"status": "created"}}).creates_case
    for status in ("viewed", "closed", None):
        assert not screened("case", {"params": {"status": status}}).creates_case


def test_a_code_is_resolved_against_the_case_as_folded_up_to_that_event() -> None:
    """Three callbacks in one batch, in any order in it, are the first, the second and the third."""
    story = [
        as_json(
            "call_me_back",
            {"context": {"requires_action_at": f"2026-03-03T1{hour}:00:00Z"}, **by("operator")},
            time=NOW + timedelta(hours=hour),
        )
        | {"id": str(hour)}
        for hour in (1, 2, 3)
    ]
    world = MemoryWorld()
    world.record(*reversed(story), as_json("case", {"code": "CASE_CREATED"}) | {"id": "0"})
    codes = {log.event_id: log.code for log in world.logs.values()}
    assert codes == {"0": "CASE_CREATED", "1": "CB1", "2": "CB2", "3": "CB3"}


def test_a_code_once_resolved_stands_whatever_arrives_late() -> None:
    """The late callback is the first in time; the one recorded before it keeps the code that it got (§1.5)."""
    due = {name: {"requires_action_at": f"2026-03-03T1{name}:00:00Z"} for name in (1, 2)}
    later, earlier = (
        as_json("call_me_back", {"context": due[n], **by("operator")}, time=NOW + timedelta(hours=n)) | {"id": name}
        for n, name in ((2, "later"), (1, "earlier"))
    )
    world = MemoryWorld()
    world.record(as_json("case", {"code": "CASE_CREATED"}) | {"id": "0"}, later)
    world.record(earlier)
    assert {log.event_id: log.code for log in world.logs.values() if log.event_id != "0"} == {
        "later": "CB1",
        "earlier": "CB1",
    }


# --- what an organisation's own rules do ---

FIELDS: Json = {
    "type": LogType.OUTCOME,
    "level": LogLevel.HIGH,
    "selectable_by": [Role.OPERATOR],
    "description": "d",
    "stops_timer": False,
}


class Contrary(BaseEvent):
    """Each hook does what the event's params or context tell it to."""

    key = "contrary"
    codes = {"ONE": FIELDS, "TWO": FIELDS}

    def get_log_code(self, _case: CaseState | None, /, **params: Any) -> str:
        if "raises" in params:
            raise ZeroDivisionError(params["raises"])
        if "refuses" in params:
            raise EventRejected(params["refuses"])
        code: str = params["returns"]
        return code

    def check(self, code: str | None, context: Json) -> None:
        if context.get("bad"):
            raise KeyError("boom")
        if context.get("bad_two") and code == "TWO":
            raise EventRejected("no two")


class Codeless(BaseEvent):
    key = "codeless"


@pytest.fixture
def own_registry() -> EventRegistry:
    registry = EventRegistry()
    registry.register(Contrary)
    registry.register(Codeless)
    return registry


def resolved(registry: EventRegistry, data: Json) -> str:
    event = screened("contrary", data | by("operator"), registry)
    return resolve(event.event, event.registered, registry, None).code


def test_a_rule_that_refuses_is_a_rejection_in_its_own_words(own_registry: EventRegistry) -> None:
    with pytest.raises(EventRejected, match=r"^not on Sundays$"):
        resolved(own_registry, {"params": {"refuses": "not on Sundays"}})


def test_a_rule_that_breaks_is_that_events_fault_with_the_traceback(own_registry: EventRegistry) -> None:
    broken: list[Json] = [{"params": {"raises": "x"}}, {"params": {}}, {"context": {"bad": True}}]
    for data in broken:
        with pytest.raises(EventFailed) as caught:
            resolved(own_registry, data)
        assert caught.value.reason == "failed"
        assert "test_resolve.py" in str(caught.value)


@pytest.mark.parametrize("returned", ["THREE", None, 7, ["ONE"], {"code": "ONE"}])
def test_a_rule_that_returns_what_is_no_code_is_the_events_fault(own_registry: EventRegistry, returned: Any) -> None:
    """Whatever it returns, it is an `EventError`: a rule's mistake never stops the recorder."""
    with pytest.raises(EventError):
        resolved(own_registry, {"params": {"returns": returned}})


def test_params_that_the_rule_does_not_take_are_the_events_fault(own_registry: EventRegistry) -> None:
    """Also those that are named like an argument, or are no Python name at all."""
    for name in ("self", "case", "no such name", ""):
        assert resolved(own_registry, {"params": {"returns": "ONE", name: 1}}) == "ONE"


def test_a_check_sees_the_code_once_it_is_resolved(own_registry: EventRegistry) -> None:
    assert resolved(own_registry, {"params": {"returns": "ONE"}, "context": {"bad_two": True}}) == "ONE"
    with pytest.raises(EventRejected, match="no two"):
        resolved(own_registry, {"params": {"returns": "TWO"}, "context": {"bad_two": True}})


def test_an_event_class_without_codes_resolves_to_nothing_and_says_so(own_registry: EventRegistry) -> None:
    event = screened("codeless", {}, own_registry)
    with pytest.raises(EventError) as caught:
        resolve(event.event, event.registered, own_registry, None)
    assert caught.value.reason == "code_not_resolved"
    assert refusal("codeless", {"code": "ANY"}, own_registry).reason == "unknown_code"
