"""A proxy that says who asks: which one is believed, and what it says (`CASELOG_TRUSTED_PROXY`)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from ipaddress import IPv4Network, IPv6Address, IPv6Network, collapse_addresses, ip_address, ip_network
from typing import Final, Self
from unicodedata import normalize
from urllib.parse import unquote

import msgspec

from caselog.workers.policy.tokens import BadGrant, Grant, TokenRole, check_grant, read_grant

USER_CHARACTERS_MAX: Final = 100
# What a proxy vouches for travels by itself, as cookies do; publishing and erasing take a token.
VOUCHED_ROLES: Final = frozenset({TokenRole.READER, TokenRole.PERSONAL, TokenRole.OPERATOR})
_HEADER: Final = re.compile(r"[A-Za-z0-9-]+")
# Headers that any client sets and proxies hand on as they came: whoever writes them would say who he is.
_NO_HEADERS: Final = re.compile(
    r"(accept|access-control|ce|content|if|sec|x-b3)(-.*)?|authorization|baggage|cache-control|cf-connecting-ip|connection"
    r"|cookie2?|date|dnt|expect|forwarded|from|host|http2-settings|keep-alive|last-event-id|max-forwards|origin|pragma"
    r"|prefer|priority|proxy-(authorization|connection)|range|referer|referrer|save-data|te|trace(parent|state)|trailer"
    r"|transfer-encoding|true-client-ip|upgrade.*|user-agent|via|warning|x-(client|real|originating|remote)-(ip|addr)"
    r"|x-(amzn-trace|correlation|request|trace)-id|x-(csrf|xsrf)-?token|x-http-method.*|x-requested-with|x-rewrite-url"
    r"|x-original-(host|method|ur[il])|x-forwarded(-(by|for|host|method|port|prefix|proto|protocol|scheme|server|ssl|uri))?"
)
_SEPARATORS: Final = re.compile(r"[,;]+")
# IPv4 addresses as a socket for IPv6 has them.
_MAPPED: Final = IPv6Network("::ffff:0:0/96")
# Shorter prefixes are no proxies but a good part of everybody.
_PREFIX_MIN: Final = {4: 8, 6: 16}
# Nor are more than so many networks of the shortest prefix.
_LARGEST_MAX: Final = 4
_ALIKE: Final = 0.8
# What stands before a role where somebody says that it is one: `role:`, `caselog/`, `app_`.
_PREFIX: Final = re.compile(r".*[:/_.\-=|]")
_HOW: Final = (
    "expected addresses=10.1.2.3,10.2.0.0/16 user=X-Forwarded-User roles=X-Forwarded-Groups: where the proxy comes "
    "from, and the headers in which it says user and roles"
)


class Vouched(msgspec.Struct, frozen=True):
    """A user whom the proxy names, and what he may do."""

    name: str
    grant: Grant


class TrustedProxy(msgspec.Struct, frozen=True):
    """Where the proxy comes from, and the names of its headers, in small letters."""

    networks: tuple[IPv4Network | IPv6Network, ...]
    user_header: str
    roles_header: str

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The proxy of the setting; None where it is empty. Raises `ValueError` in one line."""
        if not text.strip():
            return None
        said: dict[str, str] = {}
        for part in text.split():
            name, equals, value = part.partition("=")
            if name not in ("addresses", "user", "roles") or not equals:
                raise ValueError(f"{part!r} is none of addresses=…, user=… and roles=…: {_HOW}")
            if name in said:
                raise ValueError(f"{name}= is there twice: {_HOW}")
            said[name] = value
        for name in ("addresses", "user", "roles"):
            if not said.get(name, "").strip(","):
                raise ValueError(f"{name}= is missing or empty: {_HOW}")
        user, roles = (_header(said[name]) for name in ("user", "roles"))
        if user == roles:
            raise ValueError(f"user= and roles= name the same header: {_HOW}")
        return cls(_networks(said["addresses"]), user, roles)

    def is_peer(self, address: str) -> bool:
        """Whether a connection from this address is the proxy's."""
        try:
            found = ip_address(address)
        except ValueError:
            return False
        if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        return any(found.version == network.version and found in network for network in self.networks)

    def names_somebody(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether a request has its headers, whoever wrote them."""
        ours = (self.user_header.encode(), self.roles_header.encode())
        return any(name in ours for name, _ in headers)

    def vouched(self, headers: Iterable[tuple[bytes, bytes]]) -> Vouched | None:
        """Who asks, by the headers of a request from the proxy; None where they do not say it beyond doubt.

        A header that is there twice was written by two: nobody knows which of them the proxy is. Roles that are not
        ours are somebody's groups and say nothing here.
        """
        users = _values(headers, self.user_header)
        roles = _values(headers, self.roles_header)
        if len(users) != 1 or len(roles) > 1:
            return None
        try:
            name = users[0].decode().strip()
            grant = _granted(roles[0].decode() if roles else "")
        except (UnicodeDecodeError, BadGrant):
            return None
        return Vouched(name, grant) if 0 < len(name) <= USER_CHARACTERS_MAX and name.isprintable() else None


def _granted(said: str) -> Grant:
    """What these roles grant together.

    Raises `BadGrant` where they name several providers, do not go together, or where one of them is meant to be bound
    to a provider and cannot be read.
    """
    roles: set[TokenRole] = set()
    providers = set()
    for words in map(str.split, _SEPARATORS.split(said)):
        for word in words:
            if len(words) > 1 and _is_bound(word):
                raise BadGrant("has a space beside a provider, which may be a part of its name")
            try:
                grant = read_grant(word)
            except BadGrant:
                # Without it, the rest would be everybody's.
                if _is_bound(word):
                    raise
                continue
            roles |= grant.roles & VOUCHED_ROLES
            providers |= {grant.provider} - {None}
    if len(providers) > 1:
        raise BadGrant("is bound to several providers")
    return check_grant(Grant(frozenset(roles), next(iter(providers), None)))


def _is_bound(word: str) -> bool:
    """Whether a word is a role with a provider, or was meant to be: `Reader@prov-7`, `reader%40prov-7`, `@prov-7`.

    Also under a name that says that it is one: `role:reader@prov-7`.
    """
    plain = normalize("NFKC", word)
    while (unquoted := unquote(plain)) != plain:  # it only grows shorter
        plain = unquoted
    plain = plain.lower()
    names, at, _ = plain.partition("@")
    return bool(at) and any(
        not name or _is_alike(name) or _is_alike(_PREFIX.sub("", name)) for name in names.strip().split("+")
    )


def _is_alike(name: str) -> bool:
    return bool(get_close_matches(name, list(TokenRole), cutoff=_ALIKE))


def _values(headers: Iterable[tuple[bytes, bytes]], name: str) -> list[bytes]:
    wanted = name.encode()
    return [value for found, value in headers if found == wanted]


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        network = ip_network(text)
    except ValueError:
        raise ValueError(f"addresses= has {text!r}, which is no address and no network such as 10.0.0.0/8") from None
    # Of a mapped address, `is_peer` compares the IPv4 one: so what the network is, and is too much of, is that as well.
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        network = IPv4Network((int(network.network_address) & 0xFFFF_FFFF, network.prefixlen - _MAPPED.prefixlen))
    if network.prefixlen == 0:
        raise ValueError(f"addresses= has {text!r}: that is everybody, and anybody could say who he is")
    if network.prefixlen < _PREFIX_MIN[network.version]:
        raise ValueError(
            f"addresses= has {text!r}, which is too much of the world to be a proxy's, and whoever is in it could say "
            f"who he is: name networks of /{_PREFIX_MIN[network.version]} or longer"
        )
    return network


def _networks(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    networks = [_network(one) for one in text.split(",") if one]
    for version, prefix in _PREFIX_MIN.items():
        largest = 2 ** ((32 if version == 4 else 128) - prefix)  # noqa: PLR2004 - the bits of an address
        together = collapse_addresses([network for network in networks if network.version == version])  # type: ignore[type-var]
        if sum(network.num_addresses for network in together) > _LARGEST_MAX * largest:
            raise ValueError(
                f"addresses= is more than {_LARGEST_MAX} networks of /{prefix}: too much of the world to be a proxy's, "
                "and whoever is in it could say who he is"
            )
    return tuple(networks)


def _header(text: str) -> str:
    if not _HEADER.fullmatch(text):
        raise ValueError(f"{text!r} is no name of a header: {_HOW}")
    if _NO_HEADERS.fullmatch(text.lower()):
        raise ValueError(
            f"{text!r} is a header that any client sets, and proxies hand it on: who writes it would say who he is; "
            f"{_HOW}"
        )
    return text.lower()
