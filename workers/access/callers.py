"""Who asks over HTTP, and what an address needs of whoever asks: each route declares it (docs/decisions/0111)."""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import Final

import msgspec

from caselog.workers.access.refusals import AnyRequest
from caselog.workers.policy.tokens import Grant, TokenRole

NEEDS: Final = "needs"
"""The name under which a route declares its `Need`: `@route("/x", needs=Need.READER)`."""
READS: Final = "reads"
"""The name under which a route declares what of cases it reads, as the audit calls it: `reads="report"`."""
_CALLER: Final = "caller"


class Need(Enum):
    """What an address needs. `READER` also admits one who is bound to a provider: the address shows his alone.

    `NOBODY` is admitted where an address does not say who is.
    """

    NOTHING = "nothing"
    READER = "reader"
    UNBOUND_READER = "unbound reader"
    OPERATOR = "operator"
    PUBLISHER = "publisher"
    NOBODY = "nobody"

    @property
    def is_reading(self) -> bool:
        """It shows something, and changes nothing."""
        return self in (Need.READER, Need.UNBOUND_READER)


class Way(StrEnum):
    """How somebody says who he is."""

    NONE = "none"
    TOKEN = "token"  # noqa: S105 - no secret
    SESSION = "session"
    PROXY = "proxy"


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks, and what he may. `name` is None where nobody says who he is.

    `reads_all`: where reading is open, everybody reads everything, whoever he is.
    """

    name: str | None = None
    grant: Grant = Grant(frozenset())
    way: Way = Way.NONE
    reads_all: bool = False

    @property
    def provider(self) -> str | None:
        """The provider whose cases alone he may see; None: all."""
        return None if self.reads_all else self.grant.provider

    @property
    def may_read(self) -> bool:
        return self.reads_all or self.grant.includes(TokenRole.READER)

    @property
    def reads_personal(self) -> bool:
        """Whether he sees what events said: notes, context, patch, searched values, messages and bytes."""
        return self.reads_all or TokenRole.PERSONAL in self.grant.roles

    @property
    def may_act(self) -> bool:
        return TokenRole.OPERATOR in self.grant.roles

    @property
    def is_ambient(self) -> bool:
        """What says who he is travels with each request by itself, also with one that a foreign page sends."""
        return self.way in (Way.SESSION, Way.PROXY)

    def may(self, need: Need) -> bool:
        """Whether he is admitted where this is needed."""
        match need:
            case Need.NOTHING:
                return True
            case Need.READER:
                return self.may_read
            case Need.UNBOUND_READER:
                return self.may_read and self.provider is None
            case Need.OPERATOR:
                return self.may_act
            case Need.PUBLISHER:
                return self.way is Way.TOKEN and TokenRole.PUBLISHER in self.grant.roles
            case Need.NOBODY:
                return False


NOBODY: Final = Caller()


def set_caller(request: AnyRequest, caller: Caller) -> None:
    request.scope["state"][_CALLER] = caller


def caller_of(request: AnyRequest) -> Caller:
    """Who asks; nobody where the request did not come in by the door, which is then refused all that needs somebody."""
    found: Caller = request.scope["state"].get(_CALLER, NOBODY)
    return found
