"""What reports keep of single cases: their callbacks, complaints and assignments to providers (docs/rules.md §7).

Facts are what a case's log says and nothing else. Whatever depends on the moment of asking, such as whether a deadline
that nobody met is over by now, is left to the report.
"""

from __future__ import annotations

from datetime import datetime
from operator import attrgetter
from typing import Any, Final

import msgspec

from caselog.events.calendar.working_time import CALLBACK_MINUTES, CLOSING_DAYS, HOLDING_LETTER_DAYS, WorkingTime
from caselog.events.errors import EventRejected
from caselog.events.model import context as read
from caselog.events.model.codes import LogLevel, LogType, Role
from caselog.events.model.state import CaseState, Log

CALLBACK_CODES: Final = frozenset({"CB1", "CB2", "CB3", "PCB"})
ASSIGNMENT_CODES: Final = frozenset({"REFSP", "MANALC", "MANREF", "SPOR"})
RESOLVING_CODES: Final = frozenset(
    {
        "TERM", "ABND", "PCB", "COPE", "DUPL", "INSUF", "IRCB", "DESP", "DECL", "IRKB", "MRCC", "NRES", "SAME", "COSPF",
        "SPFM", "EDFF", "SPFN", "CBSP", "MANALC", "MANREF", "RDSP", "REFSP", "SPOR", "WROF", "REFDPA", "RELBD", "RSTR",
        "NOLA",
    }
)  # fmt: skip
OPERATORS: Final = frozenset({Role.OPERATOR.value, Role.OPERATOR_MANAGER.value})
# Who wrote or spoke waits for a call since then, whatever time is arranged: since the case was created.
_WAITING_SINCE_CREATION: Final = frozenset({"SMS", "VOICEMAIL"})
_CALL_STARTED: Final = "CALL_STARTED"
_COMPLAINT: Final = "complaint"
_REJECTING: Final = "reject_case"
_CLOSING: Final = "close_case"
_OPENING: Final = ("COMPLAINT_CREATED", "COMPLAINT_REOPENED")
_ENDING: Final = ("COMPLAINT_CLOSED", "COMPLAINT_VOID")
_CONTACTS: Final = frozenset({LogType.OUTCOME.value, LogType.EVENT.value})


class Callback(msgspec.Struct, kw_only=True):
    """A log that arranged a callback. What comes after `organisation` is known of a CB1 alone.

    `next_outcome` is the code of the first contact. The deadlines are those that the event brought along, or else
    counted from `callback_at`; of a case that came in by SMS or voicemail, from its creation.
    """

    log_id: int
    case_reference: str
    code: str
    attempt: int
    logged_at: datetime
    callback_at: datetime
    source: str | None
    organisation: str | None
    first_contact_at: datetime | None = None
    next_outcome: str | None = None
    call_started_at: datetime | None = None
    resolved_at: datetime | None = None
    sla_15: datetime | None = None
    sla_30: datetime | None = None
    sla_120: datetime | None = None
    sla_480: datetime | None = None
    sla_72h: datetime | None = None


class Complaint(msgspec.Struct, kw_only=True):
    """One complaint of a case, by its name; None is the unnamed one. `log_id` is the log that first opened it.

    Opened again it is the same complaint: the letters stay those of the first time, and so do the days that it has.
    """

    log_id: int
    case_reference: str
    complaint: str | None
    created_at: datetime
    holding_letter_due_at: datetime
    closing_due_at: datetime
    owner: str | None = None
    holding_letter_at: datetime | None = None
    full_response_at: datetime | None = None
    closed_at: datetime | None = None
    voided: bool = False


class Assignment(msgspec.Struct, kw_only=True):
    """A case's stay with a provider: from the log that assigned it to the next one, or until it was sent back.

    `category` is the case's at that log; `out_of_hours` says that no operators were at work then.
    """

    log_id: int
    case_reference: str
    code: str
    category: str | None
    provider: str | None
    assigned_at: datetime
    out_of_hours: bool
    viewed_at: datetime | None = None
    accepted_at: datetime | None = None
    rejected_at: datetime | None = None
    closed_at: datetime | None = None


class Facts(msgspec.Struct):
    """All that reports keep of one case, each kind in the order of the case's log."""

    callbacks: list[Callback] = msgspec.field(default_factory=list)
    complaints: list[Complaint] = msgspec.field(default_factory=list)
    assignments: list[Assignment] = msgspec.field(default_factory=list)


_transitions: Final = attrgetter(
    "provider_assigned_at", "provider_viewed", "provider_accepted", "provider_closed", "callback_attempt"
)
_NOTHING_YET: Final = (None, None, None, None, 0)


def matters(log: Log, case: CaseState) -> bool:
    """Whether a log may change the facts of its case by what it says. `case` is as folded with it, or later."""
    if log.suppressed:
        return False
    # Closed again at the very moment of the closing before, a case is as it was, and perhaps no longer rejected.
    if log.key in (_COMPLAINT, _REJECTING, _CLOSING) or log.code in ASSIGNMENT_CODES:
        return True
    return case.called_back and (
        log.code in CALLBACK_CODES or log.code == _CALL_STARTED or log.code in RESOLVING_CODES or _is_contact(log)
    )


def moved(before: CaseState | None, after: CaseState) -> bool:
    """Whether a case went through one of the transitions that facts are made of."""
    return (_NOTHING_YET if before is None else _transitions(before)) != _transitions(after)


class FactsFold:
    """The facts of one case, log by log in its order. A suppressed log is no fact and ends none."""

    def __init__(self, reference: str, working_time: WorkingTime) -> None:
        self.facts = Facts()
        self._reference = reference
        self._working_time = working_time
        self._open: list[Callback] = []
        self._complaints: dict[str | None, Complaint] = {}
        self._assignment: Assignment | None = None
        self._closed: datetime | None = None

    def take(self, log: Log, case: CaseState) -> None:
        """Take the next log in. `case` is the case as folded with it."""
        if log.suppressed:
            return
        if self._open:
            self._open = [callback for callback in self._open if not _followed(callback, log)]
        if log.code in CALLBACK_CODES and case.requires_action_at is not None:
            self._call_back(log, case, case.requires_action_at)
        if log.key == _COMPLAINT:
            self._complain(log)
        self._assign(log, case)

    def _call_back(self, log: Log, case: CaseState, at: datetime) -> None:
        callback = Callback(
            log_id=log.id,
            case_reference=self._reference,
            code=log.code,
            attempt=case.callback_attempt,
            logged_at=log.occurred_at,
            callback_at=at,
            source=log.case_source,
            organisation=log.organisation,
        )
        if log.code == "CB1":
            since = case.created_at if log.case_source in _WAITING_SINCE_CREATION else at
            for name, minutes in CALLBACK_MINUTES.items():
                setattr(callback, name, _moment(log.context, name) or self._deadline(since or at, minutes))
            self._open.append(callback)
        self.facts.callbacks.append(callback)

    def _deadline(self, at: datetime, minutes: int) -> datetime | None:
        try:
            return self._working_time.add_minutes(at, minutes)
        except OverflowError:  # a callback at the end of the calendar; nobody will have missed it
            return None

    def _complain(self, log: Log) -> None:
        name = _name(log.context, "complaint")
        complaint = self._complaints.get(name)
        if complaint is None:
            if log.code not in _OPENING:
                return
            complaint = self._complaints[name] = Complaint(
                log_id=log.id,
                case_reference=self._reference,
                complaint=name,
                created_at=log.occurred_at,
                holding_letter_due_at=self._working_time.add_days(log.occurred_at, HOLDING_LETTER_DAYS),
                closing_due_at=self._working_time.add_days(log.occurred_at, CLOSING_DAYS),
            )
            self.facts.complaints.append(complaint)
        complaint.owner = _name(log.context, "owner") or complaint.owner
        if log.code in _OPENING:
            complaint.closed_at, complaint.voided = None, False
        elif log.code in _ENDING:
            complaint.closed_at, complaint.voided = log.occurred_at, log.code == "COMPLAINT_VOID"
        elif log.code == "HOLDING_LETTER_SENT":
            complaint.holding_letter_at = complaint.holding_letter_at or log.occurred_at
        elif log.code == "FULL_RESPONSE_SENT":
            complaint.full_response_at = complaint.full_response_at or log.occurred_at

    def _assign(self, log: Log, case: CaseState) -> None:
        closed_before, self._closed = self._closed, case.provider_closed
        if log.code in ASSIGNMENT_CODES and case.provider_assigned_at is not None:
            self._assignment = Assignment(
                log_id=log.id,
                case_reference=self._reference,
                code=log.code,
                category=log.category,
                provider=case.provider,
                assigned_at=case.provider_assigned_at,
                out_of_hours=not self._working_time.is_open(case.provider_assigned_at),
            )
            self.facts.assignments.append(self._assignment)
            return
        stay = self._assignment
        if stay is None:
            return
        if case.provider_assigned_at != stay.assigned_at:  # sent back, or given to another one by other means
            self._assignment = None
            if log.key == _REJECTING:
                stay.rejected_at, stay.closed_at = log.occurred_at, None
            return
        stay.viewed_at, stay.accepted_at = case.provider_viewed, case.provider_accepted
        if case.provider_closed is None:
            stay.closed_at = stay.rejected_at = None
        elif case.provider_closed != closed_before or (
            log.key in (_REJECTING, _CLOSING) and case.provider_closed == log.occurred_at
        ):
            rejected = log.key == _REJECTING
            stay.rejected_at = case.provider_closed if rejected else None
            stay.closed_at = None if rejected else case.provider_closed


def _followed(callback: Callback, log: Log) -> bool:
    """Note what the log is to an earlier CB1. True once there is nothing left to wait for."""
    if callback.first_contact_at is None and _is_contact(log):
        callback.first_contact_at, callback.next_outcome = log.occurred_at, log.code
    if callback.call_started_at is None and log.code == _CALL_STARTED:
        callback.call_started_at = log.occurred_at
    if callback.resolved_at is None and log.code in RESOLVING_CODES:
        callback.resolved_at = log.occurred_at
    return None not in (callback.first_contact_at, callback.call_started_at, callback.resolved_at)


def _is_contact(log: Log) -> bool:
    return log.type in _CONTACTS and log.level >= LogLevel.HIGH and log.role in OPERATORS


def _moment(context: dict[str, Any], name: str) -> datetime | None:
    """A deadline that the upstream app computed; what is no time is passed over."""
    try:
        return read.moment(context, name)
    except EventRejected:
        return None


def _name(context: dict[str, Any], name: str) -> str | None:
    try:
        return read.text(context, name)
    except EventRejected:
        return None
