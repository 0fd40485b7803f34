"""The bundled apps: how each decides its code, what it refuses, what it suppresses and what it does to a case.

Expectations are read off docs/rules.md §1.3, §3.2, §3.3 and §5.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from caselog.events.errors import CodeNotResolved, EventError, EventRejected
from caselog.events.folding.fold import fold_case
from caselog.events.folding.resolve import Rules
from caselog.events.model.codes import RequiresActionBy
from caselog.events.model.registry import Registered, autodiscover, event_registry
from caselog.events.model.state import CaseState, Log

MONDAY = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
LATER = MONDAY + timedelta(hours=2)
BEFORE = MONDAY - timedelta(days=1)


@pytest.fixture(autouse=True)
def _bundled() -> None:
    autodiscover()


def registered(key: str) -> Registered:
    return event_registry.registered(key)


def new_case(**columns: Any) -> CaseState:
    return CaseState(reference="AB-1234-5678", **columns)


def entry(key: str, code: str, at: datetime = MONDAY, **fields: Any) -> Log:
    definition = event_registry.get_code(key, code)
    return Log(
        id=1,
        source="/test",
        event_id="1",
        key=key,
        code=code,
        type=definition.type,
        level=definition.level,
        occurred_at=at,
        case="AB-1234-5678",
        **fields,
    )


def applied(case: CaseState, key: str, code: str, at: datetime = MONDAY, **fields: Any) -> CaseState:
    """The case after an unsuppressed log of this code."""
    registered(key).event.apply(case, entry(key, code, at, **fields))
    return case


def folded(case: CaseState, key: str, code: str, at: datetime = MONDAY, **fields: Any) -> CaseState:
    """The case after a log of this code, with what its definition says as well."""
    log = entry(key, code, at, **fields)
    fold_case(case, log, event_registry.get_code(key, code), registered(key), Rules(zone=ZoneInfo("Europe/London")))
    assert not log.suppressed
    return case


def resolve(key: str, case: CaseState | None = None, **params: Any) -> str:
    return registered(key).event.get_log_code(case or new_case(), **params)


ASSIGNED = {
    "provider": "prov-7",
    "provider_assigned_at": BEFORE,
    "provider_viewed": BEFORE,
    "provider_accepted": BEFORE,
    "provider_closed": BEFORE,
}


class TestWhichCode:
    @pytest.mark.parametrize(
        ("key", "params", "code"),
        [
            ("case", {"status": "created"}, "CASE_CREATED"),
            ("case", {"status": "viewed"}, "CASE_VIEWED"),
            ("case", {"status": "complaint_flag_toggled"}, "COMPLAINT_FLAG_TOGGLED"),
            ("case", {"status": "call_started"}, "CALL_STARTED"),
            ("means_test", {"status": "created"}, "MT_CREATED"),
            ("means_test", {"status": "changed"}, "MT_CHANGED"),
            ("means_test", {"status": "passed"}, "MT_PASSED"),
            ("means_test", {"status": "failed"}, "MT_FAILED"),
            ("diagnosis", {"status": "created"}, "DIAGNOSIS_CREATED"),
            ("diagnosis", {"status": "incomplete_deleted"}, "INCOMPLETE_DIAGNOSIS_DELETED"),
            ("diagnosis", {"status": "deleted"}, "DIAGNOSIS_DELETED"),
            ("assign_to_provider", {}, "REFSP"),
            ("assign_to_provider", {"is_manual": True}, "MANALC"),
            ("assign_to_provider", {"is_manual": True, "is_manual_ref": True}, "MANREF"),
            ("assign_to_provider", {"is_manual": True, "is_manual_ref": True, "is_spor": True}, "SPOR"),
            ("assign_to_provider", {"is_spor": False, "is_manual": None}, "REFSP"),
            ("reject_case", {"is_conflict": True}, "COI"),
            ("close_case", {}, "CLSP"),
            ("close_case", {"is_debt_referral": True}, "DREFER"),
            ("split_case", {"internal": True}, "REF-INT"),
            ("split_case", {"internal": False}, "REF-EXT"),
            ("split_case", {}, "REF-EXT"),
            ("accept_case", {}, "SPOP"),
            ("open_case", {}, "CASE_VIEWED"),
            ("reopen_case", {}, "REOPEN"),
            ("defer_assignment", {}, "CBSP"),
            ("change_category", {}, "CATEGORY_CHANGED"),
        ],
    )
    def test_the_params_decide_the_code(self, key: str, params: dict[str, Any], code: str) -> None:
        assert resolve(key, **params) == code

    @pytest.mark.parametrize("key", ["complaint", "suspend_case", "decline_help", "timer"])
    def test_where_only_the_sender_knows_the_code_must_be_given(self, key: str) -> None:
        with pytest.raises(CodeNotResolved, match=key):
            resolve(key)

    @pytest.mark.parametrize("key", ["case", "means_test", "diagnosis"])
    @pytest.mark.parametrize("status", [None, "unheard-of", "", 7, ["created"], {}])
    def test_a_status_that_means_nothing_leaves_the_code_unresolved(self, key: str, status: Any) -> None:
        with pytest.raises(CodeNotResolved, match=r"params\.status"):
            resolve(key, status=status)

    @pytest.mark.parametrize("is_conflict", [None, False])
    def test_a_rejection_without_conflict_must_give_its_code(self, is_conflict: bool | None) -> None:  # noqa: FBT001 - a parameter of the test
        with pytest.raises(CodeNotResolved, match="MIS-OOS"):
            resolve("reject_case", is_conflict=is_conflict)

    @pytest.mark.parametrize(
        ("category", "code"),
        [
            ("family", "SPFN"),
            ("housing", "SPFN"),
            ("debt", "SPFM"),
            ("education", "SPFM"),
            ("discrimination", "SPFM"),
            ("welfare", "COSPF"),
            (None, "COSPF"),
        ],
    )
    def test_alternative_help_goes_by_the_cases_category(self, category: str | None, code: str) -> None:
        assert resolve("alternative_help", new_case(category=category)) == code

    @pytest.mark.parametrize(("attempts", "code"), [(0, "CB1"), (1, "CB2"), (2, "CB3")])
    def test_the_callback_is_counted_by_the_case(self, attempts: int, code: str) -> None:
        assert resolve("call_me_back", new_case(callback_attempt=attempts)) == code

    @pytest.mark.parametrize("attempts", [3, 4])
    def test_a_fourth_callback_is_refused(self, attempts: int) -> None:
        with pytest.raises(EventRejected, match="CB3 is the last"):
            resolve("call_me_back", new_case(callback_attempt=attempts))

    @pytest.mark.parametrize("attempts", [0, 2, 3, 7])
    def test_a_priority_callback_is_never_refused(self, attempts: int) -> None:
        assert resolve("call_me_back", new_case(callback_attempt=attempts), priority_callback=True) == "PCB"

    @pytest.mark.parametrize("code", ["CB1", "CB2", "CB3", "PCB"])
    @pytest.mark.parametrize("moment", ["2026-03-02T11:30:00Z", "2026-03-02T13:30:00.000+02:00"])
    def test_a_callback_at_the_moment_awaited_is_that_callback_again(self, code: str, moment: str) -> None:
        case = applied(new_case(), "call_me_back", code, context={"requires_action_at": "2026-03-02T11:30:00+00:00"})
        assert registered("call_me_back").event.get_repeated_code(case, {"requires_action_at": moment}) == code

    def test_a_callback_at_another_moment_or_after_a_reset_is_another_callback(self) -> None:
        event, at_1130, at_1200 = (
            registered("call_me_back").event,
            {"requires_action_at": "2026-03-02T11:30:00Z"},
            {"requires_action_at": "2026-03-02T12:00:00Z"},
        )
        assert event.get_repeated_code(new_case(), at_1130) is None
        case = applied(new_case(), "call_me_back", "CB1", context=at_1130)
        assert event.get_repeated_code(case, at_1200) is None
        applied(case, "call_me_back", "CB2", context=at_1200)
        assert event.get_repeated_code(case, at_1130) is None
        assert event.get_repeated_code(case, at_1200) == "CB2"
        applied(case, "stop_call_me_back", "CALLBACK_COMPLETE")
        assert event.get_repeated_code(case, at_1200) is None

    def test_a_callback_is_cancelled_or_completed(self) -> None:
        case = new_case(callback_attempt=1)
        assert resolve("stop_call_me_back", case, cancel=True) == "CBC"
        assert resolve("stop_call_me_back", case, complete=True) == "CALLBACK_COMPLETE"
        assert resolve("stop_call_me_back", case, cancel=False, complete=True) == "CALLBACK_COMPLETE"

    @pytest.mark.parametrize("params", [{}, {"cancel": False}, {"complete": None}])
    def test_stopping_a_callback_in_neither_way_is_refused(self, params: dict[str, Any]) -> None:
        with pytest.raises(EventRejected, match="neither"):
            resolve("stop_call_me_back", new_case(callback_attempt=1), **params)

    @pytest.mark.parametrize("params", [{"cancel": True}, {"complete": True}])
    def test_stopping_a_callback_that_a_case_does_not_have_is_refused(self, params: dict[str, Any]) -> None:
        with pytest.raises(EventRejected, match="no callback"):
            resolve("stop_call_me_back", new_case(callback_attempt=0), **params)

    @pytest.mark.parametrize(
        ("key", "param"),
        [
            ("assign_to_provider", "is_spor"),
            ("call_me_back", "priority_callback"),
            ("stop_call_me_back", "cancel"),
            ("reject_case", "is_conflict"),
            ("close_case", "is_debt_referral"),
            ("split_case", "internal"),
        ],
    )
    @pytest.mark.parametrize("value", ["false", 1, [], {}])
    def test_a_flag_that_is_neither_true_nor_false_is_refused_by_name(self, key: str, param: str, value: Any) -> None:
        with pytest.raises(EventRejected, match=rf"params\.{param} must be true or false"):
            resolve(key, new_case(callback_attempt=1), **{param: value})

    @pytest.mark.parametrize("key", ["case", "call_me_back", "reject_case", "timer"])
    def test_params_may_have_any_name(self, key: str) -> None:
        """Also the names of the hook's own arguments: a sender cannot make it fail by a name."""
        params = {"self": 1, "case": 2, "key": 3, "": 4}
        with pytest.raises(EventError):
            registered(key).event.get_log_code(new_case(callback_attempt=3), **params)


class TestRefusedForWhatItSays:
    """docs/rules.md §1.4: refused before any case is looked at, also while the code is not resolved."""

    @pytest.mark.parametrize("code", [None, "REFSP", "MANALC", "MANREF", "SPOR"])
    @pytest.mark.parametrize("context", [{}, {"provider": None}, {"provider": ""}, {"provider": 7}])
    def test_an_assignment_without_provider(self, code: str | None, context: dict[str, Any]) -> None:
        with pytest.raises(EventRejected, match=r"context\.provider"):
            registered("assign_to_provider").event.check(code, context)

    @pytest.mark.parametrize("code", [None, "CB1", "CB2", "CB3", "PCB"])
    @pytest.mark.parametrize(
        "value",
        [None, "", "tomorrow", "2026-03-02", "2026-03-02T10:00:00", 1772445600, {}, "0001-01-01T00:00:00Z"],
    )
    def test_a_callback_without_a_time_with_offset(self, code: str | None, value: Any) -> None:
        with pytest.raises(EventRejected, match=r"context\.requires_action_at"):
            registered("call_me_back").event.check(code, {"requires_action_at": value})

    @pytest.mark.parametrize(
        ("key", "code", "context"),
        [
            ("case", "CASE_CREATED", {"source": "FAX"}),
            ("case", "CASE_CREATED", {"source": "phone"}),
            ("case", "CASE_CREATED", {"source": ["WEB"]}),
            ("case", "CASE_CREATED", {"category": "x" * 101}),
            ("case", "CASE_CREATED", {"organisation": 5}),
            ("case", "CASE_CREATED", {"eligibility_state": {}}),
            ("case", "CASE_CREATED", {"from_case": True}),
            ("case", "CASE_CREATED", {"from_case": "x", "provider": []}),
            ("case", "CASE_CREATED", {"from_case": "x", "provider_assigned_at": "2026-03-02T10:00:00"}),
            ("case", "CASE_CREATED", {"from_case": "x", "requires_action_by": "somebody"}),
            ("case", "CASE_ORGANISATION_SET", {"organisation": []}),
            ("case", "COMPLAINT_FLAG_TOGGLED", {"complaint_flag": "yes"}),
            ("means_test", "MT_PASSED", {"state": 1}),
            ("diagnosis", "DIAGNOSIS_CREATED", {"state": 1}),
            ("diagnosis", "DIAGNOSIS_CREATED", {"category": 1}),
            ("change_category", "CATEGORY_CHANGED", {"new_category": ""}),
            ("change_category", None, {"new_category": 5}),
            ("complaint", "COMPLAINT_CREATED", {"complaint": 12}),
            ("complaint", "COMPLAINT_NOTE", {"complaint": "x" * 101}),
        ],
    )
    def test_a_value_that_no_column_can_hold(self, key: str, code: str | None, context: dict[str, Any]) -> None:
        with pytest.raises(EventRejected, match=r"^context\.") as refusal:
            registered(key).event.check(code, context)
        assert "xxx" not in str(refusal.value), "the value may be personal data"

    @pytest.mark.parametrize(
        ("key", "code", "context"),
        [
            ("case", "CASE_CREATED", {}),
            ("case", "CASE_CREATED", {"provider": [], "provider_assigned_at": 5, "requires_action_by": 5}),
            ("case", "CASE_CREATED", {"category": "x" * 100, "from_case": "x" * 255}),
            ("case", "CASE_VIEWED", {"source": "FAX"}),
            ("case", None, {"source": "FAX"}),
            ("assign_to_provider", None, {"provider": "prov-7"}),
            ("call_me_back", None, {"requires_action_at": "2026-03-02T10:00:00.5+02:00"}),
            ("suspend_case", "ABND", {"provider": 7}),
            ("diagnosis", "DIAGNOSIS_DELETED", {"state": 1, "category": 1}),
            ("diagnosis", "INCOMPLETE_DIAGNOSIS_DELETED", {"state": 1, "category": 1}),
        ],
    )
    def test_what_the_code_does_not_read_may_be_anything(
        self, key: str, code: str | None, context: dict[str, Any]
    ) -> None:
        registered(key).event.check(code, context)


class TestSuppression:
    def test_a_view_under_a_timer_counts_once(self) -> None:
        """docs/rules.md §3.2: an unsuppressed view or the creation of the case under the same timer came before."""
        event = registered("case").event
        case = applied(new_case(), "case", "CASE_VIEWED", timer_id=5)
        assert event.suppresses(case, entry("case", "CASE_VIEWED", LATER, timer_id=5))
        assert not event.suppresses(case, entry("case", "CASE_VIEWED", LATER, timer_id=6))

    def test_a_view_under_the_timer_that_created_the_case_is_suppressed(self) -> None:
        case = applied(new_case(), "case", "CASE_CREATED", timer_id=5)
        assert registered("case").event.suppresses(case, entry("case", "CASE_VIEWED", LATER, timer_id=5))

    def test_a_view_without_a_timer_is_always_kept(self) -> None:
        case = applied(new_case(), "case", "CASE_VIEWED")
        assert not registered("case").event.suppresses(case, entry("case", "CASE_VIEWED", LATER))

    def test_other_logs_under_a_timer_are_no_views(self) -> None:
        case = applied(new_case(), "case", "CALL_STARTED", timer_id=5)
        applied(case, "case", "CASE_ORGANISATION_SET", timer_id=5)
        assert not registered("case").event.suppresses(case, entry("case", "CASE_VIEWED", LATER, timer_id=5))

    def test_a_view_under_the_timer_under_which_the_case_was_opened_is_suppressed(self) -> None:
        """`open_case`/CASE_VIEWED is a view too, and is itself never suppressed by a timer."""
        case = applied(new_case(), "open_case", "CASE_VIEWED", timer_id=5)
        assert registered("case").event.suppresses(case, entry("case", "CASE_VIEWED", LATER, timer_id=5))
        assert not registered("case").event.suppresses(case, entry("case", "CASE_VIEWED", LATER, timer_id=6))
        assert not registered("open_case").may_suppress

    @pytest.mark.parametrize("callback", ["CB1", "CB2", "CB3", "PCB"])
    def test_a_call_starts_once_a_callback(self, callback: str) -> None:
        """docs/rules.md §3.3."""
        event, started = registered("case").event, entry("case", "CALL_STARTED", LATER)
        case = new_case()
        assert not event.suppresses(case, started)
        assert event.suppresses(applied(case, "case", "CALL_STARTED"), started)
        applied(case, "call_me_back", callback, context={"requires_action_at": "2026-03-03T10:00:00Z"})
        assert not event.suppresses(case, started)
        assert event.suppresses(applied(case, "case", "CALL_STARTED"), started)

    @pytest.mark.parametrize(("key", "code"), [("stop_call_me_back", "CBC"), ("alternative_help", "IRKB")])
    def test_the_end_of_a_callback_starts_no_new_count_of_calls(self, key: str, code: str) -> None:
        """docs/rules.md §3.3 counts from the latest callback, not from its end."""
        case = applied(applied(new_case(), "case", "CALL_STARTED"), key, code)
        assert registered("case").event.suppresses(case, entry("case", "CALL_STARTED", LATER))


class TestCreation:
    def test_a_case_comes_by_phone_unless_said_otherwise(self) -> None:
        assert applied(new_case(), "case", "CASE_CREATED").source == "PHONE"

    @pytest.mark.parametrize("source", ["PHONE", "VOICEMAIL", "SMS", "WEB"])
    def test_the_context_names_the_source(self, source: str) -> None:
        assert applied(new_case(), "case", "CASE_CREATED", context={"source": source}).source == source

    def test_the_context_gives_category_organisation_and_eligibility(self) -> None:
        context = {"category": "debt", "organisation": "advice-north", "eligibility_state": "unknown"}
        case = applied(new_case(), "case", "CASE_CREATED", context=context)
        assert (case.category, case.organisation, case.eligibility_state) == ("debt", "advice-north", "unknown")

    SPLIT = {
        "provider": "prov-7",
        "provider_assigned_at": "2026-03-01T09:30:00+00:00",
        "requires_action_by": "2_provider",
    }

    def test_a_split_case_keeps_its_provider(self) -> None:
        case = applied(new_case(), "case", "CASE_CREATED", context={**self.SPLIT, "from_case": "AB-0000-0001"})
        assert case.from_case == "AB-0000-0001"
        assert (case.provider, case.provider_assigned_at) == ("prov-7", BEFORE)
        assert case.requires_action_by == "2_provider"

    def test_without_from_case_the_provider_in_the_context_means_nothing(self) -> None:
        case = applied(new_case(), "case", "CASE_CREATED", context=dict(self.SPLIT))
        assert (case.provider, case.provider_assigned_at, case.requires_action_by) == (None, None, "operator")

    def test_a_split_case_that_says_nobody_is_nobodys_and_one_that_is_silent_the_operators(self) -> None:
        silent = applied(new_case(), "case", "CASE_CREATED", context={"from_case": "x"})
        nobody = applied(new_case(), "case", "CASE_CREATED", context={"from_case": "x", "requires_action_by": None})
        assert (silent.requires_action_by, nobody.requires_action_by) == ("operator", None)


class TestProvider:
    @pytest.mark.parametrize("code", ["REFSP", "MANALC", "MANREF", "SPOR"])
    def test_an_assignment_starts_afresh(self, code: str) -> None:
        case = new_case(**ASSIGNED, callback_attempt=2, requires_action_at=BEFORE)
        applied(case, "assign_to_provider", code, context={"provider": "prov-8"})
        assert (case.provider, case.provider_assigned_at) == ("prov-8", MONDAY)
        assert (case.provider_viewed, case.provider_accepted, case.provider_closed) == (None, None, None)
        assert (case.callback_attempt, case.requires_action_at) == (0, None)

    @pytest.mark.parametrize("key", ["case", "open_case"])
    def test_the_first_view_by_the_cases_provider_counts(self, key: str) -> None:
        case = new_case(provider="prov-7")
        applied(case, key, "CASE_VIEWED", MONDAY, role="specialist", actor_provider="prov-7")
        applied(case, key, "CASE_VIEWED", LATER, role="specialist", actor_provider="prov-7")
        assert case.provider_viewed == MONDAY

    @pytest.mark.parametrize("key", ["case", "open_case"])
    @pytest.mark.parametrize(
        ("provider", "role", "actor_provider"),
        [
            ("prov-7", "specialist", "prov-8"),
            ("prov-7", "specialist", None),
            ("prov-7", "operator", "prov-7"),
            ("prov-7", None, "prov-7"),
            (None, "specialist", "prov-7"),
            (None, "specialist", None),
        ],
    )
    def test_a_view_by_anyone_else_does_not_count(
        self, key: str, provider: str | None, role: str | None, actor_provider: str | None
    ) -> None:
        case = applied(new_case(provider=provider), key, "CASE_VIEWED", role=role, actor_provider=actor_provider)
        assert case.provider_viewed is None

    def test_the_first_acceptance_since_the_assignment_stands_and_reopens(self) -> None:
        case = new_case(provider="prov-7", provider_assigned_at=BEFORE, provider_closed=BEFORE)
        assigned: dict[str, Any] = {"provider": "prov-7", "provider_assigned_at": BEFORE}
        assert applied(case, "accept_case", "SPOP", MONDAY) == new_case(**assigned, provider_accepted=MONDAY)
        case.provider_closed = MONDAY
        assert applied(case, "accept_case", "SPOP", LATER) == new_case(**assigned, provider_accepted=MONDAY)

    @pytest.mark.parametrize(
        ("key", "code"),
        [("reject_case", code) for code in ("MIS-OOS", "MIS-MEANS", "MERI", "CLOT", "DUPL")]
        + [("close_case", code) for code in ("CLSP", "DREFER")],
    )
    def test_a_rejection_or_closing_closes_and_empties_nothing(self, key: str, code: str) -> None:
        case = applied(new_case(**{**ASSIGNED, "provider_closed": None}), key, code)
        assert case == new_case(**{**ASSIGNED, "provider_closed": MONDAY})

    @pytest.mark.parametrize("code", ["COI", "MIS"])
    def test_a_case_that_went_to_the_wrong_provider_has_none(self, code: str) -> None:
        case = applied(new_case(**ASSIGNED, category="debt"), "reject_case", code)
        assert case == new_case(category="debt")

    @pytest.mark.parametrize(
        ("key", "code"),
        [("accept_case", "SPOP"), ("reopen_case", "REOPEN"), ("close_case", "CLSP"), ("close_case", "DREFER")]
        + [("reject_case", code) for code in ("MIS-OOS", "MIS-MEANS", "MERI", "CLOT", "DUPL")],
    )
    @pytest.mark.parametrize("emptied_by", [None, "COI", "MIS"])
    def test_on_a_case_without_a_provider_a_providers_code_is_an_outcome_and_no_more(
        self, key: str, code: str, emptied_by: str | None
    ) -> None:
        """Never assigned, or sent back: accepted and closed in nobody's list, and the next move stays whose it was."""
        case = new_case(requires_action_by="operator_manager")
        if emptied_by is not None:
            case = folded(new_case(**ASSIGNED), "reject_case", emptied_by)
        owner = case.requires_action_by
        folded(case, key, code, LATER)
        assert case.outcome_code == code
        assert case.requires_action_by == owner
        times = (case.provider_assigned_at, case.provider_viewed, case.provider_accepted, case.provider_closed)
        assert (case.provider, *times) == (None,) * 5
        assert case.state == "new"

    @pytest.mark.parametrize("code", ["COI", "MIS"])
    def test_a_case_without_a_provider_that_is_sent_back_is_the_operators(self, code: str) -> None:
        assert folded(new_case(requires_action_by=None), "reject_case", code).requires_action_by == "operator"

    def test_on_an_assigned_case_a_providers_code_sets_the_next_move(self) -> None:
        assert folded(new_case(provider="prov-7"), "accept_case", "SPOP").requires_action_by == "2_provider"
        assert folded(new_case(provider="prov-7"), "close_case", "CLSP").requires_action_by is None

    def test_a_duplicate_found_by_an_operator_closes_nothing(self) -> None:
        """`suspend_case`/DUPL is another code than `reject_case`/DUPL; suspending does nothing else to a case."""
        assert not registered("suspend_case").applies

    def test_reopening_empties_the_closing(self) -> None:
        case = applied(new_case(**ASSIGNED), "reopen_case", "REOPEN")
        assert case == new_case(**{**ASSIGNED, "provider_closed": None})

    @pytest.mark.parametrize("key", ["split_case", "decline_help", "defer_assignment", "suspend_case", "timer"])
    def test_the_others_leave_the_case_to_the_rules_for_all(self, key: str) -> None:
        assert not registered(key).applies


class TestCallbacks:
    @pytest.mark.parametrize("code", ["CB1", "CB2", "CB3", "PCB"])
    def test_a_callback_sets_the_time_and_counts(self, code: str) -> None:
        case = new_case(callback_attempt=1, requires_action_at=BEFORE)
        applied(case, "call_me_back", code, context={"requires_action_at": "2026-03-02T11:30:00+00:00"})
        assert (case.requires_action_at, case.callback_attempt) == (LATER, 2)

    def test_the_time_may_have_any_offset(self) -> None:
        context = {"requires_action_at": "2026-03-02T13:30:00+02:00"}
        assert applied(new_case(), "call_me_back", "CB1", context=context).requires_action_at == LATER

    @pytest.mark.parametrize(
        ("key", "code"),
        [("stop_call_me_back", code) for code in ("CBC", "CALLBACK_COMPLETE")]
        + [("alternative_help", code) for code in ("IRKB", "COSPF", "SPFN", "SPFM", "EDFF")],
    )
    def test_what_ends_a_callback_resets_it(self, key: str, code: str) -> None:
        case = applied(new_case(callback_attempt=2, requires_action_at=BEFORE, provider="prov-7"), key, code)
        assert case == new_case(provider="prov-7")


class TestColumnsFromTheContext:
    @pytest.mark.parametrize(
        ("key", "code", "member", "column"),
        [
            ("change_category", "CATEGORY_CHANGED", "new_category", "category"),
            ("case", "CASE_ORGANISATION_SET", "organisation", "organisation"),
            ("means_test", "MT_CREATED", "state", "eligibility_state"),
            ("means_test", "MT_CHANGED", "state", "eligibility_state"),
            ("means_test", "MT_PASSED", "state", "eligibility_state"),
            ("means_test", "MT_FAILED", "state", "eligibility_state"),
            ("diagnosis", "DIAGNOSIS_CREATED", "state", "scope_state"),
            ("diagnosis", "DIAGNOSIS_CREATED", "category", "category"),
        ],
    )
    def test_the_column_is_set_where_the_context_gives_a_value(
        self, key: str, code: str, member: str, column: str
    ) -> None:
        case = new_case(**{column: "before"})
        assert getattr(applied(case, key, code), column) == "before"
        assert getattr(applied(case, key, code, context={member: None}), column) == "before"
        assert getattr(applied(case, key, code, context={member: "after"}), column) == "after"

    @pytest.mark.parametrize("code", ["DIAGNOSIS_DELETED", "INCOMPLETE_DIAGNOSIS_DELETED"])
    @pytest.mark.parametrize("context", [{}, {"state": "OUTOFSCOPE", "category": "housing"}])
    def test_with_a_diagnosis_goes_what_it_found_of_the_scope(self, code: str, context: dict[str, Any]) -> None:
        """And not the category, which the case may have had before."""
        case = new_case(scope_state="INSCOPE", category="debt")
        applied(case, "diagnosis", code, context=context)
        assert (case.scope_state, case.category) == (None, "debt")


class TestComplaints:
    @pytest.mark.parametrize("before", [True, False])
    def test_the_flag_is_what_is_given_or_raised(self, before: bool) -> None:  # noqa: FBT001 - a parameter of the test
        """It is never flipped: sent twice, it is raised as well."""

        def toggled(context: dict[str, Any]) -> bool:
            case = new_case(complaint_flag=before)
            return applied(case, "case", "COMPLAINT_FLAG_TOGGLED", context=context).complaint_flag

        assert toggled({}) is True
        assert toggled({"complaint_flag": None}) is True
        assert toggled({"complaint_flag": True}) is True
        assert toggled({"complaint_flag": False}) is False

    @pytest.mark.parametrize("opening", ["COMPLAINT_CREATED", "COMPLAINT_REOPENED"])
    @pytest.mark.parametrize("closing", ["COMPLAINT_CLOSED", "COMPLAINT_VOID"])
    def test_the_flag_stands_while_any_complaint_is_open(self, opening: str, closing: str) -> None:
        case = new_case()
        for code, complaint, flag in (
            (opening, "b", True),
            (opening, None, True),
            (opening, "a", True),
            (opening, "a", True),
            (closing, "a", True),
            (closing, "never-opened", True),
            (closing, "b", True),
            (closing, None, False),
        ):
            applied(case, "complaint", code, context={} if complaint is None else {"complaint": complaint})
            assert case.complaint_flag is flag, (code, complaint)
        assert case.open_complaints == ()

    def test_closing_a_complaint_that_is_not_open_leaves_no_flag_where_none_is_open(self) -> None:
        """The flag after a closing says whether another complaint is open, whoever set it before."""
        assert applied(new_case(complaint_flag=True), "complaint", "COMPLAINT_CLOSED").complaint_flag is False

    @pytest.mark.parametrize(
        "code",
        ["OWNER_SET", "COMPLAINT_NOTE", "HOLDING_LETTER_SENT", "FULL_RESPONSE_SENT", "TRANSFERRED_TO_SPECIALIST"],
    )
    def test_what_happens_to_an_open_complaint_changes_no_column(self, code: str) -> None:
        before = new_case(complaint_flag=True, open_complaints=("a",))
        case = new_case(complaint_flag=True, open_complaints=("a",))
        assert applied(case, "complaint", code, context={"complaint": "a"}) == before

    def test_open_complaints_are_the_same_in_whichever_order_they_came(self) -> None:
        def opened(*names: str) -> CaseState:
            case = new_case()
            for name in names:
                applied(case, "complaint", "COMPLAINT_CREATED", context={"complaint": name})
            return case

        assert opened("a", "b").open_complaints == opened("b", "a").open_complaints == ("a", "b")


@pytest.mark.parametrize("owner", [None, *RequiresActionBy])
def test_only_the_call_centres_own_turn_ends_with_the_call(owner: str | None) -> None:
    """`none_if_owned_by_operator_or_manager`, docs/rules.md §5.2."""
    expected = None if owner in ("operator", "operator_manager") else owner
    case = new_case(requires_action_by=owner)
    assert RequiresActionBy.none_if_owned_by_operator_or_manager(case) == expected
