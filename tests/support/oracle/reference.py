"""A second, slow and simple reading of docs/rules.md §1 to §5: the whole set of events in, what must stand out.

Written from the rules and the catalogue's facts alone, on plain dicts; it imports nothing of caselog, so it shares no
mistake with it. It folds all events at once, in their order, and so needs no notion of batches or of late events.

Where the rules leave room, it takes them so:

* The log that starts a timer, and the one that cancels it, carry that timer.
* A timer is linked to the case of its last log that has one, also while it runs; the log that stops it is its last.
* `CASE_CREATED` of a case: the first in order creates it and is folded first; the others keep their place and are
  suppressed. A timer meets each of them at its own time.
* "Earlier in the order" (§3.2) is the case's order, with the creation first.
* The dimensions of a log are the case's after it: an assignment counts for the new provider, a conflict of interest
  for none. They stand on suppressed logs too, which change nothing.
* A code that is left to the class is held against `selectable_by` when it is known: after the case is found, whatever
  the key, and after what the key's rule refuses.
* The rules of `call_me_back` and `stop_call_me_back` refuse only where they are asked, not where the code is given.
* A callback without a code at the moment that the case awaits takes the code of the case's latest unsuppressed
  callback, whether or not it says `priority_callback`, and at whatever attempt the case is.
* What every code of a key needs in its context (a provider, a time for the callback) is asked of the event itself,
  whether its code is given or not.
* Context values that are null count as not given, but for the `requires_action_by` of a split case: null is a value
  of it, because the case that was split may have it. Where it is not given, it is `operator` as for any new case.
* COI and MIS write no provider time, they empty them: their `requires_action_by` is set also without a provider.
* A first view counts against §3.1. It does not count against §3.2, which looks at no column.
* To alternative help, the categories are their names as written here, in lower case.
* Two copies of an event, with the same (source, id), must be equal; one of them is read.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

Identity = tuple[str, str]
"""(source, id) of an event."""

# key, type, level, who may select it, whether it stops the timer, requires_action_by | codes
_TABLE = """
accept_case       outcome 29 anyone              -     2_provider        | SPOP
alternative_help  outcome 29 operator,specialist stops none_if_operator  | COSPF EDFF IRKB SPFM SPFN
assign_to_provider outcome 29 anyone             stops 1_provider_review | MANALC MANREF REFSP SPOR
call_me_back      outcome 29 operator,web        stops operator          | CB1
call_me_back      outcome 29 operator            stops operator          | CB2 CB3 PCB
case              event   29 operator            -     same              | CALL_STARTED
case              system  29 anyone              -     same              | CASE_CREATED
case              system  11 anyone              -     same | CASE_ORGANISATION_SET CASE_VIEWED COMPLAINT_FLAG_TOGGLED
change_category   system  29 anyone              -     same              | CATEGORY_CHANGED
close_case        outcome 29 anyone              -     nobody            | CLSP DREFER
complaint         system  29 operator            -     same              | COMPLAINT_CLOSED COMPLAINT_VOID
complaint         system  29 operator -     same | FULL_RESPONSE_SENT HOLDING_LETTER_SENT TRANSFERRED_TO_SPECIALIST
complaint         system  29 anyone - same | COMPLAINT_CREATED COMPLAINT_REOPENED OWNER_SET
complaint         system  11 operator            -     same              | COMPLAINT_NOTE
decline_help      outcome 29 operator            stops none_if_operator  | DECL DESP NRES
defer_assignment  outcome 29 operator            stops same              | CBSP
diagnosis         system  29 anyone - same | DIAGNOSIS_CREATED DIAGNOSIS_DELETED INCOMPLETE_DIAGNOSIS_DELETED
means_test        system  29 anyone              -     same              | MT_CHANGED MT_CREATED MT_FAILED MT_PASSED
open_case         outcome 29 anyone              -     2_provider        | CASE_VIEWED
reject_case       outcome 29 anyone              -     nobody            | MIS-OOS MIS-MEANS
reject_case       outcome 29 specialist          -     operator          | COI
reject_case       outcome 29 anyone              -     operator          | MIS
reject_case       outcome 29 specialist          -     nobody            | MERI DUPL CLOT
reopen_case       outcome 29 anyone              -     same              | REOPEN
split_case        outcome 29 anyone              -     same              | REF-EXT REF-INT
split_case        system  29 anyone              -     same              | REF-EXT_CREATED REF-INT_CREATED
stop_call_me_back system  29 anyone              -     same              | CALLBACK_COMPLETE
stop_call_me_back outcome 29 operator            stops none_if_operator  | CBC
suspend_case      outcome 29 operator            stops none_if_operator  | INSUF COPE DUPL WROF RDSP SAME MRNB MRCC
suspend_case      outcome 29 operator            stops none_if_operator  | REFDPA RELBD RSTR NOLA
suspend_case      outcome 29 operator,specialist stops none_if_operator  | ABND TERM
suspend_case      outcome 29 operator            stops operator_manager  | IRCB
timer             system  11 anyone              -     same              | TIMER_STARTED TIMER_CANCELLED
"""


@dataclass(frozen=True)
class Fact:
    """What the catalogue says of a code."""

    type: str
    level: int
    selectable_by: tuple[str, ...]
    stops_timer: bool
    requires_action: str


def _facts() -> dict[tuple[str, str], Fact]:
    facts = {}
    for line in _TABLE.strip().splitlines():
        left, _, codes = line.partition("|")
        key, kind, level, roles, stops, action = left.split()
        selectable = () if roles == "anyone" else tuple(roles.split(","))
        for code in codes.split():
            facts[key, code] = Fact(kind, int(level), selectable, stops == "stops", action)
    return facts


FACTS = _facts()
KEYS = {key: [code for k, code in FACTS if k == key] for key, _ in FACTS}
CALLBACKS = ("CB1", "CB2", "CB3", "PCB")
ASSIGNMENTS = ("REFSP", "MANALC", "MANREF", "SPOR")
WRITE_PROVIDER_TIMES = ("SPOP", "MIS-OOS", "MIS-MEANS", "MERI", "CLOT", "CLSP", "DREFER", "REOPEN")
"""And `reject_case`/DUPL."""
PROVIDER_TIMES = ("provider_assigned_at", "provider_viewed", "provider_accepted", "provider_closed")
NEVER_TOLD_APART = ("callback_attempt", "outcome_code_id", "level", "billable_time")
"""What of a case a repetition may change."""
SOURCES = ("PHONE", "VOICEMAIL", "SMS", "WEB")
BY_STATUS = {
    "case": {
        "created": "CASE_CREATED",
        "viewed": "CASE_VIEWED",
        "complaint_flag_toggled": "COMPLAINT_FLAG_TOGGLED",
        "call_started": "CALL_STARTED",
    },
    "means_test": {"created": "MT_CREATED", "changed": "MT_CHANGED", "passed": "MT_PASSED", "failed": "MT_FAILED"},
    "diagnosis": {
        "created": "DIAGNOSIS_CREATED",
        "incomplete_deleted": "INCOMPLETE_DIAGNOSIS_DELETED",
        "deleted": "DIAGNOSIS_DELETED",
    },
}


@dataclass
class Outcome:
    """What must stand when every event has been recorded."""

    logs: dict[Identity, dict[str, Any]] = field(default_factory=dict)
    cases: dict[str, dict[str, Any]] = field(default_factory=dict)
    timers: dict[Identity, dict[str, Any]] = field(default_factory=dict)
    """By the (source, id) of the event that started it."""
    refused: dict[Identity, str] = field(default_factory=dict)
    """The dead letter's reason."""
    waiting: set[Identity] = field(default_factory=set)
    """Events whose case is never created."""
    outcomes: Counter[tuple[Any, ...]] = field(default_factory=Counter)
    """The report: (day, key, code, category, provider, organisation, source) to how many."""


@dataclass(frozen=True)
class _Settings:
    zone: ZoneInfo
    search_context: tuple[str, ...]


class Refused(Exception):
    """The event becomes a dead letter of this reason."""


class _Happened:
    """One event, read: its place in the order, and its code once that is known."""

    def __init__(self, event: Mapping[str, Any]) -> None:
        data = event.get("data") or {}
        actor = data.get("actor") or {}
        self.source, self.id, self.key = event["source"], event["id"], event["type"]
        self.identity: Identity = (self.source, self.id)
        self.time = datetime.fromisoformat(event["time"])
        self.case: str | None = event.get("subject")
        self.given: str | None = data.get("code")
        self.code: str = self.given or ""
        self.params: dict[str, Any] = data.get("params") or {}
        self.context: dict[str, Any] = data.get("context") or {}
        self.notes: str = data.get("notes") or ""
        self.actor: str | None = actor.get("id")
        self.role: str | None = actor.get("role")
        self.provider: str | None = actor.get("provider")

    @property
    def order(self) -> tuple[datetime, str, str]:
        return (self.time, self.source, self.id)

    @property
    def fact(self) -> Fact:
        return FACTS[self.key, self.code]

    @property
    def is_high_outcome(self) -> bool:
        return self.fact.type == "outcome" and self.fact.level >= 29

    @property
    def writes_provider_times(self) -> bool:
        return self.code in WRITE_PROVIDER_TIMES or (self.key, self.code) == ("reject_case", "DUPL")

    @property
    def may_be_by_its_role(self) -> bool:
        """What an operator may, an operator manager may."""
        role = "operator" if self.role == "operator_manager" else self.role
        return not self.fact.selectable_by or role in self.fact.selectable_by

    @property
    def creates(self) -> bool:
        """Known without the case: the code is given, or the status says it."""
        return self.key == "case" and (
            self.given == "CASE_CREATED" or (self.given is None and self.params.get("status") == "created")
        )


def fold_all(
    events: Iterable[Mapping[str, Any]],
    *,
    zone: str = "Europe/London",
    latest: datetime | None = None,
    search_context: tuple[str, ...] = (),
) -> Outcome:
    """Fold a set of events. `latest`: an event after it is refused as `time_in_future` (None: none is)."""
    settings = _Settings(ZoneInfo(zone), search_context)
    outcome = Outcome()
    happened = {h.identity: h for h in map(_Happened, events)}
    accepted: list[_Happened] = []
    for one in sorted(happened.values(), key=lambda h: h.order):
        try:
            _refuse_for_itself(one, latest)
            accepted.append(one)
        except Refused as reason:
            outcome.refused[one.identity] = str(reason)

    created = {one.case for one in accepted if one.creates}
    outcome.waiting = {one.identity for one in accepted if one.case is not None and one.case not in created}
    accepted = [one for one in accepted if one.identity not in outcome.waiting]

    # Codes first: they depend on the case, and through suppression on notes and days, but on no timer. What §3.2
    # suppresses by a timer are views of level 11: they write `provider_viewed` alone, by which a later assignment is a
    # repetition or not; and the callback that it would reset, the assignment that it repeats has reset before.
    by_case: dict[str, list[_Happened]] = {}
    for one in accepted:
        if one.case is None:
            _resolve(one, None, None)
        else:
            by_case.setdefault(one.case, []).append(one)
    for reference, its_events in by_case.items():
        _fold_case(reference, its_events, {}, outcome, settings)
    accepted = [one for one in accepted if one.identity not in outcome.refused]

    carried = _fold_timers(accepted, outcome)
    outcome.cases.clear()
    outcome.logs = {one.identity: _log(one, carried) for one in accepted}
    for reference, its_events in by_case.items():
        left = [one for one in its_events if one.identity not in outcome.refused]
        _fold_case(reference, left, carried, outcome, settings)
    for timer in outcome.timers.values():
        if timer["case"] is not None and timer["stopped_at"] is not None and not timer["cancelled"]:
            outcome.cases[timer["case"]]["billable_time"] += timer["seconds"]
    _report(outcome, settings.zone)
    return outcome


# --- §1: from event to code ---


def _refuse_for_itself(one: _Happened, latest: datetime | None) -> None:
    if latest is not None and one.time > latest:
        raise Refused("time_in_future")
    if one.key not in KEYS:
        raise Refused("unknown_event")
    if one.given is not None:
        if one.given not in KEYS[one.key]:
            raise Refused("unknown_code")
        if not one.may_be_by_its_role:
            raise Refused("role_not_allowed")
    _check_context(one)


def _check_context(one: _Happened) -> None:
    """What §5 says of an event that is refused."""
    if one.key == "assign_to_provider" and not one.context.get("provider"):
        raise Refused("rejected")
    if one.key == "call_me_back" and _moment(one.context.get("requires_action_at")) is None:
        raise Refused("rejected")
    if one.creates and one.context.get("source") not in (None, *SOURCES):
        raise Refused("rejected")


def _moment(value: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return moment if moment.tzinfo is not None else None


def _resolve(one: _Happened, case: dict[str, Any] | None, awaited: str | None) -> None:
    """Choose the code where it is not given. `awaited`: the code of the callback that the case awaits."""
    if one.given is None:
        one.code = _chosen(one.key, one.params, one.context, case or {}, awaited)
        if not one.may_be_by_its_role:
            raise Refused("role_not_allowed")


def _chosen(  # noqa: C901, PLR0911, PLR0912 - the table of §1.3, row by row
    key: str, params: dict[str, Any], context: dict[str, Any], case: dict[str, Any], awaited: str | None
) -> str:
    if key in BY_STATUS and params.get("status") in BY_STATUS[key]:
        return BY_STATUS[key][params["status"]]
    if key == "assign_to_provider":
        return next((code for flag, code in _ASSIGNED_BY.items() if params.get(flag)), "REFSP")
    if key == "call_me_back":
        if awaited is not None and _moment(context["requires_action_at"]) == case["requires_action_at"]:
            return awaited
        if params.get("priority_callback"):
            return "PCB"
        if case["callback_attempt"] >= 3:
            raise Refused("rejected")
        return f"CB{case['callback_attempt'] + 1}"
    if key == "stop_call_me_back":
        if case["callback_attempt"] == 0 or not (params.get("cancel") or params.get("complete")):
            raise Refused("rejected")
        return "CBC" if params.get("cancel") else "CALLBACK_COMPLETE"
    if key == "reject_case" and params.get("is_conflict"):
        return "COI"
    if key == "close_case":
        return "DREFER" if params.get("is_debt_referral") else "CLSP"
    if key == "split_case":
        return "REF-INT" if params.get("internal") else "REF-EXT"
    if key == "alternative_help":
        return _HELPED_BY.get(case["category"], "COSPF")
    if len(KEYS[key]) == 1:
        return KEYS[key][0]
    raise Refused("code_not_resolved")


_HELPED_BY = {"family": "SPFN", "housing": "SPFN", "debt": "SPFM", "education": "SPFM", "discrimination": "SPFM"}
_ASSIGNED_BY = {"is_spor": "SPOR", "is_manual_ref": "MANREF", "is_manual": "MANALC"}


# --- §2, §4: logs and timers ---


def _log(one: _Happened, carried: Mapping[Identity, Identity]) -> dict[str, Any]:
    return {
        "key": one.key,
        "code": one.code,
        "type": one.fact.type,
        "level": one.fact.level,
        "case": one.case,
        "actor": one.actor,
        "role": one.role,
        "actor_provider": one.provider,
        "notes": one.notes,
        "context": one.context,
        "occurred_at": one.time,
        "timer": carried.get(one.identity),
        "suppressed": False,
        "category": None,
        "provider": None,
        "organisation": None,
        "case_source": None,
    }


def _fold_timers(accepted: list[_Happened], outcome: Outcome) -> dict[Identity, Identity]:
    """Fold the timers over each actor's logs in plain order; gives back which timer each log carries."""
    carried: dict[Identity, Identity] = {}
    running: dict[str, Identity] = {}
    for one in sorted(accepted, key=lambda h: h.order):
        if one.actor is None:
            continue
        if one.code == "TIMER_STARTED" and one.actor not in running:
            running[one.actor] = one.identity
            outcome.timers[one.identity] = {
                "actor": one.actor,
                "started_at": one.time,
                "stopped_at": None,
                "cancelled": False,
                "case": None,
                "seconds": None,
            }
        if one.actor not in running:
            continue
        carried[one.identity] = running[one.actor]
        timer = outcome.timers[running[one.actor]]
        if one.case is not None:
            timer["case"] = one.case
        if one.fact.stops_timer or one.code == "TIMER_CANCELLED":
            timer["stopped_at"] = one.time
            timer["cancelled"] = one.code == "TIMER_CANCELLED"
            timer["seconds"] = math.ceil((one.time - timer["started_at"]) / timedelta(seconds=1))
            del running[one.actor]
    return carried


# --- §3, §5: what stands on the case ---


def _fold_case(
    reference: str,
    its_events: list[_Happened],
    carried: Mapping[Identity, Identity],
    outcome: Outcome,
    settings: _Settings,
) -> None:
    creation = min((one for one in its_events if one.creates), key=lambda h: h.order)
    rest = sorted((one for one in its_events if one is not creation), key=lambda h: h.order)
    case = outcome.cases[reference] = _new_case(reference, creation, settings.search_context)
    kept: list[_Happened] = []
    complaints: set[str] = set()
    for one in [creation, *rest]:
        callbacks = [k.code for k in kept if k.code in CALLBACKS]
        try:
            _resolve(one, case, callbacks[-1] if case["requires_action_at"] is not None else None)
        except Refused as reason:
            outcome.refused[one.identity] = str(reason)
            continue
        suppressed = one is not creation and _is_suppressed(one, case, kept, carried, settings.zone)
        if not suppressed:
            kept.append(one)
            if one is not creation:
                _apply(one, case, complaints)
        if one.identity in outcome.logs:
            outcome.logs[one.identity] |= {
                "suppressed": suppressed,
                "category": case["category"],
                "provider": case["provider"],
                "organisation": case["organisation"],
                "case_source": case["source"],
            }
    closed, accepted = case["provider_closed"], case["provider_accepted"]
    if closed is not None:
        case["state"] = "rejected" if accepted is None else "completed"
    elif accepted is not None:
        case["state"] = "accepted"
    elif case["provider_viewed"] is not None:
        case["state"] = "opened"


def _new_case(reference: str, creation: _Happened, search_context: tuple[str, ...]) -> dict[str, Any]:
    context = creation.context
    words = [reference.replace("-", ""), *(str(context[name]) for name in search_context if context.get(name))]
    case: dict[str, Any] = {
        "reference": reference,
        "category": context.get("category"),
        "source": context.get("source") or "PHONE",
        "organisation": context.get("organisation"),
        "outcome_code": None,
        "outcome_code_id": None,
        "level": None,
        "requires_action_by": "operator",
        "requires_action_at": None,
        "callback_attempt": 0,
        "provider": None,
        "provider_assigned_at": None,
        "provider_viewed": None,
        "provider_accepted": None,
        "provider_closed": None,
        "billable_time": 0,
        "complaint_flag": False,
        "eligibility_state": context.get("eligibility_state"),
        "scope_state": None,
        "from_case": context.get("from_case"),
        "search_field": " ".join(words),
        "state": "new",
        "created_at": creation.time,
    }
    if case["from_case"] is not None:
        case["provider"] = context.get("provider")
        case["provider_assigned_at"] = _moment(context.get("provider_assigned_at"))
        case["requires_action_by"] = context.get("requires_action_by", "operator")
    return case


def _is_suppressed(
    one: _Happened,
    case: dict[str, Any],
    kept: list[_Happened],
    carried: Mapping[Identity, Identity],
    zone: ZoneInfo,
) -> bool:
    if one.code == "CASE_CREATED":
        return True
    if one.is_high_outcome:
        last = next((k for k in reversed(kept) if k.is_high_outcome), None)
        return last is not None and _says(last, zone) == _says(one, zone) and _changes_nothing(one, case)
    if (one.key, one.code) == ("case", "CASE_VIEWED"):
        timer = carried.get(one.identity)
        return timer is not None and any(
            (k.key, k.code) in _VIEWS_OF_A_TIMER and carried.get(k.identity) == timer for k in kept
        )
    if one.code == "CALL_STARTED":
        latest_callback = max((i for i, k in enumerate(kept) if k.code in CALLBACKS), default=-1)
        return any(k.code == "CALL_STARTED" for k in kept[latest_callback + 1 :])
    return False


_VIEWS_OF_A_TIMER = (("case", "CASE_CREATED"), ("case", "CASE_VIEWED"), ("open_case", "CASE_VIEWED"))


def _says(one: _Happened, zone: ZoneInfo) -> tuple[Any, ...]:
    return (one.key, one.code, one.notes, one.time.astimezone(zone).date())


def _changes_nothing(one: _Happened, case: dict[str, Any]) -> bool:
    """Whether an outcome would leave the case as it is, of a provider time only whether there is one."""
    after = dict(case)
    _apply(one, after, set())  # an outcome opens and closes no complaint
    return _looks(after) == _looks(case)


def _looks(case: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value is None if name in PROVIDER_TIMES else value
        for name, value in case.items()
        if name not in NEVER_TOLD_APART
    }


def _apply(one: _Happened, case: dict[str, Any], complaints: set[str]) -> None:  # noqa: C901, PLR0912, PLR0915 - the table of §5
    code, context = one.code, one.context
    owned_by_operator = case["requires_action_by"] in ("operator", "operator_manager")
    if one.is_high_outcome:
        case |= {"outcome_code": code, "outcome_code_id": one.identity, "level": one.fact.level}
    if one.writes_provider_times and case["provider"] is None:
        return
    if one.fact.requires_action == "nobody" or (one.fact.requires_action == "none_if_operator" and owned_by_operator):
        case["requires_action_by"] = None
    elif one.fact.requires_action not in ("same", "none_if_operator"):
        case["requires_action_by"] = one.fact.requires_action

    reset_callback = {"requires_action_at": None, "callback_attempt": 0}
    if code == "CASE_VIEWED":
        by_its_provider = one.role == "specialist" and one.provider is not None and one.provider == case["provider"]
        if by_its_provider and case["provider_viewed"] is None:
            case["provider_viewed"] = one.time
    elif code in ASSIGNMENTS:
        case |= {"provider": context["provider"], "provider_assigned_at": one.time}
        case |= {"provider_viewed": None, "provider_accepted": None, "provider_closed": None}
        case |= reset_callback
    elif code == "SPOP":
        if case["provider_accepted"] is None:
            case["provider_accepted"] = one.time
        case["provider_closed"] = None
    elif code == "REOPEN":
        case["provider_closed"] = None
    elif one.writes_provider_times:
        case["provider_closed"] = one.time
    elif code in ("COI", "MIS"):
        case |= {"provider": None, "provider_assigned_at": None}
        case |= {"provider_viewed": None, "provider_accepted": None, "provider_closed": None}
    elif code in CALLBACKS:
        case["requires_action_at"] = _moment(context["requires_action_at"])
        case["callback_attempt"] += 1
    elif code in ("CBC", "CALLBACK_COMPLETE", "IRKB", "COSPF", "SPFN", "SPFM", "EDFF"):
        case |= reset_callback
    elif code == "CATEGORY_CHANGED" and context.get("new_category") is not None:
        case["category"] = context["new_category"]
    elif code == "CASE_ORGANISATION_SET" and context.get("organisation") is not None:
        case["organisation"] = context["organisation"]
    elif code.startswith("MT_") and context.get("state") is not None:
        case["eligibility_state"] = context["state"]
    elif code == "DIAGNOSIS_CREATED":
        case["scope_state"] = case["scope_state"] if context.get("state") is None else context["state"]
        case["category"] = case["category"] if context.get("category") is None else context["category"]
    elif code in ("DIAGNOSIS_DELETED", "INCOMPLETE_DIAGNOSIS_DELETED"):
        case["scope_state"] = None
    elif code == "COMPLAINT_FLAG_TOGGLED":
        case["complaint_flag"] = True if context.get("complaint_flag") is None else context["complaint_flag"]
    elif code in ("COMPLAINT_CREATED", "COMPLAINT_REOPENED"):
        complaints.add(context.get("complaint") or "")
        case["complaint_flag"] = True
    elif code in ("COMPLAINT_CLOSED", "COMPLAINT_VOID"):
        complaints.discard(context.get("complaint") or "")
        case["complaint_flag"] = bool(complaints)


# --- §7: the first report ---


def _report(outcome: Outcome, zone: ZoneInfo) -> None:
    for log in outcome.logs.values():
        if log["type"] == "outcome" and not log["suppressed"]:
            day = log["occurred_at"].astimezone(zone).date()
            dimensions = (log["category"], log["provider"], log["organisation"], log["case_source"])
            outcome.outcomes[(day, log["key"], log["code"], *dimensions)] += 1
