"""What the fold carries from log to log: cases, timers and the log entries themselves."""

from __future__ import annotations

import math
from datetime import datetime
from operator import attrgetter
from typing import Any, Final, TypeAlias

import msgspec

OrderKey: TypeAlias = tuple[datetime, str, str]
"""(time, source, id): the order of everything (docs/rules.md "Order")."""


class Log(msgspec.Struct):
    """One entry of the log: an event whose code is resolved (docs/rules.md §2). Fields are in the order of columns.

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
    """One stretch of an actor's billable time (docs/rules.md §4). Its id is the id of the log that started it.

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
        """Whole seconds, rounded up; None while it runs (docs/rules.md §4.5)."""
        if self.stopped_at is None:
            return None
        return math.ceil((self.stopped_at - self.started_at).total_seconds())


class CaseState(msgspec.Struct, kw_only=True):
    """A case's columns as folded so far (docs/rules.md §5.3).

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
    """Fingerprint of the latest unsuppressed HIGH outcome: local day, key, code, notes (docs/rules.md §3.1)."""
    viewed_timers: tuple[int, ...] = ()
    """Timers under which the case was created or viewed, unsuppressed (docs/rules.md §3.2)."""
    call_started: bool = False
    """An unsuppressed CALL_STARTED stands since the latest callback (docs/rules.md §3.3)."""
    open_complaints: tuple[str, ...] = ()
    """Names of the complaints that are open, sorted; "" is the unnamed one (docs/rules.md §5.7)."""
    called_back: bool = False
    """A callback was arranged at some time: reports look at what came after it (docs/rules.md §7)."""
    callback_code: str | None = None
    """The code of the callback that is awaited: one that is sent twice without a code takes it."""

    def differs_from(self, other: CaseState) -> bool:
        """Whether a column differs by which a second outcome is more than a repetition of the first.

        Of the provider's times it matters only which are set. Not looked at is what every outcome writes anew
        (`outcome_code_id`, `level`), what counts on with each (`callback_attempt`) or comes from elsewhere
        (`billable_time`), and what the fold remembers.
        """
        return _columns(self) != _columns(other) or _which(self) != _which(other)

    @property
    def state(self) -> str:
        """new, opened, accepted, rejected or completed (docs/rules.md §5.6)."""
        if self.provider_closed is not None:
            return "rejected" if self.provider_accepted is None else "completed"
        if self.provider_accepted is not None:
            return "accepted"
        return "new" if self.provider_viewed is None else "opened"

    def reset_callback(self) -> None:
        """No callback is due any more (docs/rules.md §5.4)."""
        self.requires_action_at = None
        self.callback_attempt = 0
        self.callback_code = None


MEMORY: Final = (
    "last_log", "last_outcome", "viewed_timers", "call_started", "open_complaints", "called_back", "callback_code",
)  # fmt: skip
"""The fields of a case that are no columns of it, but what the fold remembers."""
_TIMES: Final = ("provider_assigned_at", "provider_viewed", "provider_accepted", "provider_closed")
_WRITTEN_ANYWAY: Final = ("outcome_code_id", "level", "callback_attempt", "billable_time")
_columns: Final = attrgetter(
    *(name for name in CaseState.__struct_fields__ if name not in (*MEMORY, *_TIMES, *_WRITTEN_ANYWAY))
)
_times: Final = attrgetter(*_TIMES)


def _which(case: CaseState) -> list[bool]:
    return [time is not None for time in _times(case)]
