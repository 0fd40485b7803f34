"""The bearer tokens of the HTTP API: who may do what over HTTP (`CASELOG_API_TOKENS`)."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterator
from enum import StrEnum
from typing import Final, Self

import msgspec

SECRET_CHARACTERS_MIN: Final = 20
# Nobody types more; what is longer is not hashed.
SECRET_CHARACTERS_MAX: Final = 512
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
# What RFC 6750 allows in `Authorization: Bearer …`.
_SECRET: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")
_HOW: Final = (
    "expected name:role:secret, separated by commas, with a role of {roles} (several: operator+publisher) and a secret "
    f"of at least {SECRET_CHARACTERS_MIN} characters, such as: openssl rand -hex 24"
)


class TokenRole(StrEnum):
    """What a token is good for: `OPERATOR` acts on the ops page, `PUBLISHER` publishes events."""

    OPERATOR = "operator"
    PUBLISHER = "publisher"


class Token(msgspec.Struct, frozen=True):
    """One token. `name` is who the audit and the log say; `digest` is the SHA-256 of the secret, which is not kept."""

    name: str
    roles: frozenset[TokenRole]
    digest: bytes


class Tokens:
    """The tokens in force. Asking takes the same time whichever of them is right, or none."""

    def __init__(self, tokens: tuple[Token, ...]) -> None:
        self._tokens = tokens

    @classmethod
    def parse(cls, text: str) -> Self:
        """Tokens from `name:role:secret,…`. Raises `ValueError` in one line that shows nothing of what was given.

        A name may have several tokens of the same roles: so a secret is changed without an interruption.
        """
        tokens: list[Token] = []
        for position, part in enumerate((part.strip() for part in text.split(",")), 1):
            if part:
                token = _token(part, position)
                if any(token.digest == other.digest for other in tokens):
                    raise ValueError(f"token {position} has the secret of another one: give each its own")
                if any(token.name == other.name and token.roles != other.roles for other in tokens):
                    raise ValueError(f"token {position} has the name of another one with other roles: give it its own")
                tokens.append(token)
        return cls(tuple(tokens))

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

    def __iter__(self) -> Iterator[Token]:
        return iter(self._tokens)

    def __bool__(self) -> bool:
        return bool(self._tokens)

    def masked(self) -> str:
        """As in the setting, the secrets as stars."""
        return ",".join(f"{token.name}:{'+'.join(sorted(token.roles))}:***" for token in self._tokens)


def _token(text: str, position: int) -> Token:
    # Nothing given is shown: where a part is missing, what stands in the place of a name may be a secret.
    name, first, rest = text.partition(":")
    roles, second, secret = rest.partition(":")
    if not (first and second):
        raise ValueError(f"token {position} has {1 + bool(first)} of 3 parts: {_how()}")
    if not _NAME.fullmatch(name):
        raise ValueError(f"token {position} has a name with other than letters, digits and . _ @ -: {_how()}")
    try:
        granted = frozenset(TokenRole(role) for role in roles.split("+"))
    except ValueError:
        raise ValueError(f"token {position} has an unknown role: {_how()}") from None
    if not _SECRET.fullmatch(secret):
        raise ValueError(f"token {position} has a secret with other than letters, digits and - . _ ~ + / =: {_how()}")
    if not SECRET_CHARACTERS_MIN <= len(secret) <= SECRET_CHARACTERS_MAX:
        raise ValueError(f"token {position} has a secret of {len(secret)} characters: {_how()}")
    return Token(name, granted, _digest(secret))


def _how() -> str:
    return _HOW.format(roles=" or ".join(TokenRole))


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="surrogatepass")).digest()
