"""The bearer tokens of the HTTP API: who may read and do what over HTTP (`CASELOG_API_TOKENS`)."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterator
from enum import StrEnum
from typing import Final, Self
from urllib.parse import quote, unquote

import msgspec

from caselog.events.model.codes import NAME_CHARACTERS

SECRET_CHARACTERS_MIN: Final = 20
# Nobody types more; what is longer is not hashed.
SECRET_CHARACTERS_MAX: Final = 512
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
# What RFC 6750 allows in `Authorization: Bearer …`.
_SECRET: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")
# A percent sign is the beginning of an encoded byte; what separates the parts of a token is encoded.
_ENCODED: Final = re.compile(r"(?:[^%:,@+\s]|%[0-9A-Fa-f]{2})+")
_HOW: Final = (
    "expected name:role:secret, separated by commas, with a role of {roles} (several: operator+personal; bound to a "
    "provider: reader@PROVIDER, percent-encoded) and a secret "
    f"of at least {SECRET_CHARACTERS_MIN} characters, such as: openssl rand -hex 24"
)


class TokenRole(StrEnum):
    """What somebody may do over HTTP.

    `READER` reads, without what is personal; `PERSONAL` reads that too; `OPERATOR` reads as a `READER` and acts on the
    ops page; `PUBLISHER` publishes events; `ERASER` erases.
    """

    READER = "reader"
    PERSONAL = "personal"
    OPERATOR = "operator"
    PUBLISHER = "publisher"
    ERASER = "eraser"


# A provider's people read what is their provider's; what concerns the whole installation is not theirs to do.
# Nor to publish: an event belongs to a case, whose provider is known where it is folded and not where it is taken.
BINDABLE: Final = frozenset({TokenRole.READER, TokenRole.PERSONAL})


class BadGrant(ValueError):
    """Roles and a provider that make no sense; the message shows nothing of what was given."""


class Grant(msgspec.Struct, frozen=True):
    """Roles as they are written, and the provider whose cases alone they are for; None: everybody's."""

    roles: frozenset[TokenRole]
    provider: str | None = None

    def includes(self, role: TokenRole) -> bool:
        """Whether it has the role, or one that includes it: an operator reads."""
        return role in self.roles or (role is TokenRole.READER and TokenRole.OPERATOR in self.roles)

    def __str__(self) -> str:
        bound = "" if self.provider is None else f"@{quote(self.provider, safe='')}"
        return f"{'+'.join(sorted(self.roles))}{bound}"


def read_grant(text: str) -> Grant:
    """What `reader+personal@prov-7` says, whether it makes sense or not: see `check_grant`. Raises `BadGrant`."""
    names, at, encoded = text.partition("@")
    try:
        roles = frozenset(TokenRole(name) for name in names.split("+"))
    except ValueError:
        raise BadGrant("has an unknown role") from None
    return Grant(roles, read_provider(encoded) if at else None)


def check_grant(grant: Grant) -> Grant:
    """The same. Raises `BadGrant` where nobody can have meant it."""
    if TokenRole.PERSONAL in grant.roles and not grant.includes(TokenRole.READER):
        raise BadGrant("has the role personal without reader, which alone reads nothing")
    if grant.provider is not None and not grant.roles <= BINDABLE:
        raise BadGrant(f"is bound to a provider, which goes with {', '.join(sorted(BINDABLE))} alone")
    return grant


def read_provider(encoded: str) -> str:
    """The provider that is written percent-encoded. Raises `BadGrant`."""
    try:
        provider = unquote(encoded, errors="strict") if _ENCODED.fullmatch(encoded) else ""
    except UnicodeDecodeError:
        provider = ""
    if not (0 < len(provider) <= NAME_CHARACTERS and provider.isprintable()):
        raise BadGrant(f"is bound to no provider's name: 1 to {NAME_CHARACTERS} printable characters, percent-encoded")
    return provider


class Token(msgspec.Struct, frozen=True):
    """One token. `name` is who the audit and the log say; `digest` is the SHA-256 of the secret, which is not kept."""

    name: str
    grant: Grant
    digest: bytes


class Tokens:
    """The tokens in force. Asking takes the same time whichever of them is right, or none."""

    def __init__(self, tokens: tuple[Token, ...]) -> None:
        self._tokens = tokens

    @classmethod
    def parse(cls, text: str) -> Self:
        """Tokens from `name:roles[@provider]:secret,…`. Raises `ValueError` in one line that shows nothing of it.

        A name may have several tokens of the same roles: so a secret is changed without an interruption.
        """
        tokens: list[Token] = []
        for position, part in enumerate((part.strip() for part in text.split(",")), 1):
            if part:
                token = _token(part, position)
                if any(token.digest == other.digest for other in tokens):
                    raise ValueError(f"token {position} has the secret of another one: give each its own")
                if any(token.name == other.name and token.grant != other.grant for other in tokens):
                    raise ValueError(
                        f"token {position} has the name of another one with other roles or another provider: give it "
                        "its own"
                    )
                tokens.append(token)
        return cls(tuple(tokens))

    @staticmethod
    def secrets_in(text: str) -> Iterator[str]:
        """The secrets of a setting that `parse` took."""
        for part in text.split(","):
            yield part.strip().rpartition(":")[2]

    def find(self, secret: str) -> Token | None:
        """The token with this secret; None where there is none."""
        if not 0 < len(secret) <= SECRET_CHARACTERS_MAX:
            return None
        digest = _digest(secret)
        found = None
        for token in self._tokens:  # all of them, always
            if hmac.compare_digest(token.digest, digest):
                found = token
        return found

    def include(self, role: TokenRole) -> bool:
        """Whether somebody has this role."""
        return any(token.grant.includes(role) for token in self._tokens)

    def __iter__(self) -> Iterator[Token]:
        return iter(self._tokens)

    def __bool__(self) -> bool:
        return bool(self._tokens)

    def masked(self) -> str:
        """As in the setting, the secrets as stars."""
        return ",".join(f"{token.name}:{token.grant}:***" for token in self._tokens)


def _token(text: str, position: int) -> Token:
    # Nothing given is shown: where a part is missing, what stands in the place of a name may be a secret.
    name, first, rest = text.partition(":")
    roles, second, secret = rest.partition(":")
    if not (first and second):
        raise ValueError(f"token {position} has {1 + bool(first)} of 3 parts: {_how()}")
    if not _NAME.fullmatch(name):
        raise ValueError(f"token {position} has a name with other than letters, digits and . _ @ -: {_how()}")
    try:
        grant = check_grant(read_grant(roles))
    except BadGrant as error:
        raise ValueError(f"token {position} {error}: {_how()}") from None
    if not _SECRET.fullmatch(secret):
        raise ValueError(f"token {position} has a secret with other than letters, digits and - . _ ~ + / =: {_how()}")
    if not SECRET_CHARACTERS_MIN <= len(secret) <= SECRET_CHARACTERS_MAX:
        raise ValueError(f"token {position} has a secret of {len(secret)} characters: {_how()}")
    return Token(name, grant, _digest(secret))


def _how() -> str:
    return _HOW.format(roles=" or ".join(TokenRole))


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="surrogatepass")).digest()
