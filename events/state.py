"""What the fold carries from log to log: cases, timers and the log entries themselves."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any, TypeAlias

import msgspec

OrderKey: TypeAlias = tuple[datetime, str, str]
"""(time, source, id): the order of everything (RULES.md "Order")."""


class Log(msgspec.Struct):
    """One entry of the log: an event whose code is resolved (RULES.md §2). Its fields are in the order of its columns.

    `actor_provider` is the provider that the actor belongs to. `timer_id`, `suppressed` and the dimensions (`category`,
    `provider`, `organisation`, `case_source`, `case_created_at`: the case's, as folded including this log) are derived:
    folding again writes them anew. Everything else is never edited.
    """

    id: int
    source: str
    event_id: str
    key: str
    code: str
    type: str
    level: int
    occurred_at: datetime
    case: str | None = None
    actor: str | None = None
    role: str | None = None
    actor_provider: str | None = None
    notes: str = ""
    context: dict[str, Any] = msgspec.field(default_factory=dict)
    patch: Any = None
    extensions: dict[str, Any] | None = None
    timer_id: int | None = None
    suppressed: bool = False
    category: str | None = None
    provider: str | None = None
    organisation: str | None = None
    case_source: str | None = None
    case_created_at: datetime | None = None

    @property
    def order_key(self) -> OrderKey:
        return (self.occurred_at, self.source, self.event_id)


class TimerState(msgspec.Struct, kw_only=True):
    """One stretch of an actor's billable time (RULES.md §4). Its id is the id of the log that started it.

    `case` is the case of its last log while it runs, and the case it is linked to once it has ended.
    """

    id: int
    actor: str
    started_at: datetime
    stopped_at: datetime | None = None
    cancelled: bool = False
    case: str | None = None

    @property
    def running(self) -> bool:
        return self.stopped_at is None

    @property
    def seconds(self) -> int | None:
        """Whole seconds, rounded up; None while it runs (RULES.md §4.5)."""
        if self.stopped_at is None:
            return None
        return math.ceil((self.stopped_at - self.started_at).total_seconds())


class CaseState(msgspec.Struct, kw_only=True):
    """A case's columns as folded so far (DESIGN.md "Case columns", RULES.md §5).

    An event's `apply` sets these. Times are the events' times; `billable_time` is in seconds.
    """

    reference: str
    category: str | None = None
    source: str | None = None
    organisation: str | None = None
    outcome_code: str | None = None
    outcome_code_id: int | None = None
    level: int | None = None
    requires_action_by: str | None = "operator"
    requires_action_at: datetime | None = None
    callback_attempt: int = 0
    provider: str | None = None
    provider_assigned_at: datetime | None = None
    provider_viewed: datetime | None = None
    provider_accepted: datetime | None = None
    provider_closed: datetime | None = None
    billable_time: int = 0
    complaint_flag: bool = False
    eligibility_state: str | None = None
    scope_state: str | None = None
    from_case: str | None = None
    search_field: str = ""
    created_at: datetime | None = None

    # What the fold remembers so that the next event needs nothing but this row.
    last_log: OrderKey | None = None
    """The order key of the last log folded, the one that created the case aside."""
    last_outcome: str | None = None
    """Fingerprint of the latest unsuppressed outcome at level HIGH: local day, key, code, notes (RULES.md §3.1)."""
    viewed_timers: tuple[int, ...] = ()
    """Timers under which the case was created or viewed, unsuppressed (RULES.md §3.2)."""
    call_started: bool = False
    """An unsuppressed CALL_STARTED stands since the latest callback (RULES.md §3.3)."""
    open_complaints: tuple[str, ...] = ()
    """Names of the complaints that are open, sorted; "" is the unnamed one (RULES.md §5)."""
    called_back: bool = False
    """A callback was arranged at some time: reports look at what came after it (RULES.md §7)."""

    @property
    def state(self) -> str:
        """new, opened, accepted, rejected or completed (RULES.md §5, last paragraph)."""
        if self.provider_closed is not None:
            return "rejected" if self.provider_accepted is None else "completed"
        if self.provider_accepted is not None:
            return "accepted"
        return "new" if self.provider_viewed is None else "opened"

    def reset_callback(self) -> None:
        """No callback is due any more (RULES.md §5)."""
        self.requires_action_at = None
        self.callback_attempt = 0
