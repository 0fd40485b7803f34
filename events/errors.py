"""Every error that caselog raises on purpose, in one tree.

An `EventError` means: this event will always fail, set it aside; its `reason` is the dead letter's reason and the
metric's label (docs/dead-letters.md "Find the cause"). Anything else means: the world failed, try again.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import ClassVar, Final

from caselog.events.credentials import hide


class CaselogError(Exception):
    """Any error of caselog."""


class Interrupted(BaseException):
    """Raised within a rule by who looks on, or by Ctrl-C. No `Exception`, so that a rule does not take it for its own.

    All else that is raised there is the rule's fault, a `SystemExit` and a `KeyboardInterrupt` of its own, too: it ends
    the rule's event, and never the process.
    """


class EventError(CaselogError):
    """An event that cannot be recorded as it is. The message says what to do next and holds no case data."""

    reason: ClassVar[str] = "failed"


class MalformedEvent(EventError):
    """The bytes are no valid event (docs/rules.md §1, docs/events.md "Publish an event")."""

    reason = "malformed"


class OversizedMessage(MalformedEvent):
    """A message that is too large, or holds too many events, for them to be told apart."""


class TimeInFuture(EventError):
    """The event's time lies too far ahead of the database's clock (docs/rules.md §4.6)."""

    reason = "time_in_future"


class UnknownEvent(EventError):
    """No event class is registered under the event's type."""

    reason = "unknown_event"


class UnknownCode(EventError):
    """The event's class has no such code."""

    reason = "unknown_code"


class CodeNotResolved(EventError):
    """No code was given, and the event's class cannot tell which of its codes is meant."""

    reason = "code_not_resolved"


class RoleNotAllowed(EventError):
    """The actor's role may not choose this code (`selectable_by`)."""

    reason = "role_not_allowed"


class UnknownCase(EventError):
    """The case did not come to exist while the event was parked."""

    reason = "unknown_case"


class EventRejected(EventError):
    """An event rule said no. Raise it from `get_log_code`, `check` or `apply` with the reason in words."""

    reason = "rejected"


class IdentityTaken(EventRejected):
    """Another event with the same source and id is in the log: the first stands (docs/decisions/0080)."""


class EventFailed(EventError):
    """An event rule raised something unexpected; the message carries the traceback."""

    reason = "failed"

    def __init__(self, message: str) -> None:
        super().__init__(hide(message))  # a rule's error may hold any text: how it connects to something, for one


# Every reason that a dead letter may have, in the order of the classes above, the base's own last.
REASONS: Final = (
    *(
        reason
        for reason in dict.fromkeys(one.reason for one in EventError.__subclasses__())
        if reason != EventError.reason
    ),
    EventError.reason,
)


class RegistrationError(CaselogError):
    """An event class or its codes are declared wrongly. Names the class, the code, the key and what was expected."""


class SettingsError(CaselogError):
    """A setting has no usable value; one line that names the variable."""


class BrokerRefusal(CaselogError):
    """The broker is there and refuses; to try again is of no use before somebody did what the message says."""


class PublishError(CaselogError):
    """The broker did not confirm these events; publishing them again, with the same ids, is safe.

    `unsent` holds each event's JSON bytes, in the order of publishing.
    """

    def __init__(self, message: str, unsent: Sequence[bytes]) -> None:
        super().__init__(message)
        self.unsent = tuple(unsent)


class BufferFull(CaselogError):
    """The Publisher holds as many unconfirmed events as it may, and was told not to block. None was taken."""


class PublisherClosed(CaselogError):
    """`publish` was called after `close`."""


def did_you_mean(wrong: str, known: Sequence[str]) -> str:
    """' Did you mean …?' for the nearest known name, or the empty string where none is near."""
    near = get_close_matches(wrong, known, n=1) or [name for name in known if name.lower() == wrong.lower()]
    return f" Did you mean {near[0]!r}?" if near else ""
