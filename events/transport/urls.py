"""The URLs of the servers: read once and strictly, so that no library trips over one, and shown without secrets.

A password may hold anything; in a URL what is not a letter, a digit or one of `-._~` is percent-encoded. Libraries
differ in what they make of a URL where it is not, and put pieces of it into their errors. So here it is refused, in
words that hold nothing of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote, urlencode

from caselog.events.credentials import STARS
from caselog.events.errors import SettingsError

POSTGRES_SCHEMES: Final = ("postgresql", "postgres", "postgresql+psycopg")
REDIS_SCHEMES: Final = ("redis", "rediss", "redis+socket")
AMQP_SCHEMES: Final = ("amqp", "amqps")
BROKER_SCHEMES: Final = (*REDIS_SCHEMES, *AMQP_SCHEMES)

_PORT_MAX: Final = 65_535
_ENCODED: Final = r"%[0-9A-Fa-f]{2}"
_PLAIN: Final = r"A-Za-z0-9._~!$&'()*+,=\-"
_USER: Final = re.compile(rf"(?:[{_PLAIN};]|{_ENCODED})*")
_PASSWORD: Final = re.compile(rf"(?:[{_PLAIN};:]|{_ENCODED})*")
_HOST: Final = re.compile(rf"(?:[A-Za-z0-9._~-]|{_ENCODED})*|\[[0-9A-Fa-f:.]+(?:%25[A-Za-z0-9._~-]+)?\]")
_PATH: Final = re.compile(rf"(?:/(?:[{_PLAIN};:/]|{_ENCODED})*)?")
_VALUE: Final = re.compile(rf"(?:[A-Za-z0-9._~!$'()*+,;:/\[\]-]|{_ENCODED})*")
_LIST_OF_REDIS: Final = re.compile(rf"(?:{'|'.join(map(re.escape, REDIS_SCHEMES))})://[^;]*;\s*[a-z+]+://")
_PARAMETER: Final = re.compile(r"[A-Za-z_]+")

_ANY: Final = re.compile(r".*", re.DOTALL)
_NUMBER: Final = re.compile(r"\d{1,9}")
_NUMBERS: Final = re.compile(r"[\d,]+")
# Of a wait. One of 0 is none at all: each library would give up at once.
_SECONDS: Final = re.compile(r"(?=.*[1-9])\d{1,9}(?:\.\d{1,9})?")
_WHOLE_SECONDS: Final = re.compile(r"(?=.*[1-9])\d{1,9}")
_DATABASE: Final = re.compile(r"/?\d{0,9}")
_CERTIFICATE: Final = re.compile(r"none|optional|required")
_YES_OR_NO: Final = re.compile(r"true|false|yes|no|1|0", re.IGNORECASE)
_TLS: Final = {
    "ssl_ca_certs": _ANY,
    "ssl_certfile": _ANY,
    "ssl_keyfile": _ANY,
    "ssl_cert_reqs": _CERTIFICATE,
    "ssl_check_hostname": _YES_OR_NO,
}
_REDIS: Final = {
    "db": _DATABASE,
    "virtual_host": _DATABASE,
    "username": _ANY,
    "password": _ANY,
    "client_name": _ANY,
    "socket_timeout": _SECONDS,
    "socket_connect_timeout": _SECONDS,
    "health_check_interval": _NUMBER,
    "max_connections": _NUMBER,
}
# What may stand after the question mark. What PostgreSQL takes there, libpq knows: see schema/sessions/database_url.py.
_PARAMETERS: Final[Mapping[str, Mapping[str, re.Pattern[str]]]] = {
    "redis": {**_REDIS, "socket_keepalive": _YES_OR_NO},
    "rediss": {**_REDIS, "socket_keepalive": _YES_OR_NO, **_TLS, "ssl_ca_path": _ANY, "ssl_password": _ANY},
    "redis+socket": _REDIS,
    "amqp": {"heartbeat": _NUMBER, "connect_timeout": _WHOLE_SECONDS, "login_method": _ANY},
    "amqps": {"heartbeat": _NUMBER, "connect_timeout": _WHOLE_SECONDS, "login_method": _ANY, **_TLS},
}
_SECRET_PARAMETERS: Final = ("password", "sslpassword", "ssl_password", "oauth_client_secret", "scram_client_key")
_SHOWN_PARAMETERS: Final = {
    *(name for known in _PARAMETERS.values() for name in known),
    *("host", "hostaddr", "port", "dbname", "user", "sslmode", "sslrootcert", "sslcert", "sslkey", "gssencmode"),
    *("target_session_attrs", "load_balance_hosts", "application_name", "channel_binding", "keepalives"),
    *("keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout", "passfile", "service"),
} - {*_SECRET_PARAMETERS}

_HOW: Final = (
    "In a name or a password, percent-encode what is no letter or digit: / as %2F, @ as %40, : as %3A, ? as %3F, "
    "# as %23, % as %25, [ as %5B, ] as %5D, ; as %3B, a space as %20"
)


class BadUrl(SettingsError):
    """A URL that cannot be read. The message holds nothing of it; whoever raises it on says which one it was.

    Where a password that is not percent-encoded may be what is wrong (`is_encoding`), it says how one is written.
    """

    def __init__(self, why: str, *, is_encoding: bool = False) -> None:
        super().__init__(f"{why}. {_HOW}" if is_encoding else why)
        self.why = why
        self.is_encoding = is_encoding


@dataclass(frozen=True, repr=False)
class ServiceUrl:
    """One URL in its parts, as they stand in it: percent-encoded. Its text with stars is its `str`."""

    scheme: str
    user: str | None
    password: str | None
    hosts: tuple[tuple[str, str], ...]  # host and port, each possibly empty; several for PostgreSQL alone
    path: str  # empty, or from its slash on
    parameters: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        user = "" if self.user is None else self.user
        if self.password is not None:
            user = f"{user}:{STARS}"
        elif user and self.scheme in REDIS_SCHEMES:  # a password, by those who forgot its colon
            user = STARS
        query = "&".join(dict.fromkeys(map(_shown, self.parameters)))
        return self._text(user if self.user is not None else None, query)

    __repr__ = __str__

    def passwords(self) -> set[str]:
        """The secrets in it, decoded. One that is its user, host or path as well is none: every text is full of it."""
        found = {unquote(value) for name, value in self.parameters if name in _SECRET_PARAMETERS}
        if self.password is not None:
            found.add(unquote(self.password))
        elif self.user and self.scheme in REDIS_SCHEMES:
            found.add(unquote(self.user))
        told = {unquote(self.path[1:]), *(host for host, _ in self.hosts)}
        if self.password is not None and self.user:
            told.add(unquote(self.user))
        return found - told

    def url(self) -> str:
        """The whole URL, secrets included."""
        user = self.user if self.password is None else f"{self.user}:{self.password}"
        return self._text(user, "&".join(f"{name}={value}" for name, value in self.parameters))

    def _text(self, user: str | None, query: str) -> str:
        at = "" if user is None else f"{user}@"
        hosts = ",".join(f"{host}:{port}" if port else host for host, port in self.hosts)
        return f"{self.scheme}://{at}{hosts}{self.path}{f'?{query}' if query else ''}"


def read_urls(text: str, schemes: Sequence[str]) -> tuple[ServiceUrl, ...]:
    """The URL, or of RabbitMQ the list of URLs, parted by `;`. Raises `BadUrl`, which says what is wrong with it.

    They are nodes of one cluster, and so each names the same virtual host.
    """
    if text != text.strip():
        raise BadUrl("it begins or ends with white space")
    if text.lstrip("; ").partition("://")[0] not in AMQP_SCHEMES:
        if _LIST_OF_REDIS.match(text):
            raise BadUrl("a list of URLs is for brokers of amqp:// alone")
        return (_read(text, schemes),)
    parts = text.split(";")
    if len(parts) == 1:
        return (_read(text, schemes),)
    for number, part in enumerate(parts, 1):
        _check_part(number, len(parts), part)
    urls = tuple(_read_part(number, len(parts), part) for number, part in enumerate(parts, 1))
    for number, url in enumerate(urls, 1):
        if virtual_host_of(url) != virtual_host_of(urls[0]):
            raise BadUrl(
                f"URL {number} of {len(parts)} names another virtual host than the first one: what is confirmed in one "
                f"would not be found in the other"
            )
    return urls


def virtual_host_of(url: ServiceUrl) -> str:
    """The virtual host that a URL of RabbitMQ names."""
    return unquote(url.path[1:]) or "/"


def read_url(text: str, schemes: Sequence[str]) -> ServiceUrl:
    """The URL of one server. Raises `BadUrl`."""
    found = read_urls(text, schemes)
    if len(found) != 1:
        raise BadUrl("a list of URLs is for brokers of amqp:// alone")
    return found[0]


def shown(text: str) -> str:
    """A URL, or a list of them, with stars in place of all that may be secret; stars alone where it cannot be read."""
    try:
        return ";".join(map(str, read_urls(text, (*POSTGRES_SCHEMES, *BROKER_SCHEMES))))
    except BadUrl:
        return STARS if text else ""


def passwords_of(text: str) -> set[str]:
    """The secrets in a URL or a list of them, decoded; none where it cannot be read."""
    try:
        found = read_urls(text, (*POSTGRES_SCHEMES, *BROKER_SCHEMES))
    except BadUrl:
        return set()
    return {password for url in found for password in url.passwords()}


def redis_py_url(text: str) -> str:
    """The same Redis as redis-py and dramatiq spell it: `redis+socket:///a/b?virtual_host=2` → `unix:///a/b?db=2`.

    Raises `BadUrl`.
    """
    url = read_url(text, REDIS_SCHEMES)
    query = {"db" if name == "virtual_host" else name: unquote(value) for name, value in url.parameters}
    if "db" in query or url.scheme == "redis+socket":
        query["db"] = query.get("db", "").strip("/") or "0"
    if url.scheme != "redis+socket" and not query:
        return url.url()
    scheme = "unix" if url.scheme == "redis+socket" else url.scheme
    plain = ServiceUrl(scheme, url.user, url.password, url.hosts, url.path, ())
    return f"{plain.url()}?{urlencode(query, quote_via=quote)}"


def _check_part(number: int, count: int, text: str) -> None:
    which = f"URL {number} of {count}"
    if not text.strip():
        raise BadUrl(f"{which} is empty: the URLs of a list are parted by one ; each")
    if text != text.strip():
        raise BadUrl(f"{which} begins or ends with white space")
    if "://" not in text:  # it may be the rest of a password
        raise BadUrl(f"{which}, after a ;, is no URL that starts with amqp:// or amqps://", is_encoding=True)


def _read_part(number: int, count: int, text: str) -> ServiceUrl:
    try:
        return _read(text, AMQP_SCHEMES)
    except BadUrl as error:
        raise BadUrl(f"URL {number} of {count}: {error.why}", is_encoding=error.is_encoding) from None


def _read(text: str, schemes: Sequence[str]) -> ServiceUrl:
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in schemes:
        raise BadUrl(f"expected a URL that starts with {' or '.join(f'{name}://' for name in schemes)}")
    if "#" in rest:
        raise BadUrl("it has a #", is_encoding=True)
    rest, question, query = rest.partition("?")
    authority, slash, path = rest.partition("/")
    if "@" in path or "@" in query:
        raise BadUrl("it has an @ after a / or a ?", is_encoding=True)
    if authority.count("@") > 1:
        raise BadUrl("it has more than one @", is_encoding=True)
    userinfo, at, places = authority.rpartition("@")
    user, colon, password = userinfo.partition(":")
    _match(_USER, user, "its user")
    _match(_PASSWORD, password, "its password")
    _match(_PATH, slash + path, "what follows its host")
    url = ServiceUrl(
        scheme,
        user if at else None,
        password if colon else None,
        _hosts(places, several=scheme in POSTGRES_SCHEMES),
        slash + path,
        _parameters(query) if question else (),
    )
    _check_path(url)
    _check_parameters(url)
    return url


def _hosts(places: str, *, several: bool) -> tuple[tuple[str, str], ...]:
    found = []
    parts = places.split(",") if several else [places]
    for number, place in enumerate(parts, 1):
        whose = "its" if len(parts) == 1 else f"host {number} of {len(parts)}: its"
        host, colon, port = place.rpartition(":")
        if not colon or place.endswith("]"):
            host, port = place, ""
        if port and not (_NUMBER.fullmatch(port) and 0 < int(port) <= _PORT_MAX):
            # (Else it may be the beginning of a password, as in anna:p/w.)
            is_number = _NUMBER.fullmatch(port) is not None
            raise BadUrl(f"{whose} port is no number from 1 to 65535", is_encoding=not is_number)
        if not host and len(parts) > 1:
            raise BadUrl(f"{whose} name is missing")
        _match(_HOST, host, f"{whose} host" if len(parts) == 1 else f"{whose} name")
        found.append((host, port))
    return tuple(found)


def _parameters(query: str) -> tuple[tuple[str, str], ...]:
    found = []
    for parameter in query.split("&") if query else []:
        name, equals, value = parameter.partition("=")
        if not equals or not _PARAMETER.fullmatch(name):
            raise BadUrl("what follows its ? is not name=value&name=value", is_encoding=True)
        _match(_VALUE, value, "a value after its ?")
        found.append((name, value))
    return tuple(found)


def _check_path(url: ServiceUrl) -> None:
    if url.scheme == "redis+socket":
        if url.hosts != (("", ""),) or len(url.path) < len("/x"):
            raise BadUrl("the path of a socket follows three slashes, as in redis+socket:///run/redis.sock")
    elif url.scheme in REDIS_SCHEMES and not _DATABASE.fullmatch(url.path.rstrip("/")):
        raise BadUrl("what follows its host is no number of a database, as in redis://host:6379/0")


def check_doubled(url: ServiceUrl) -> None:
    """Raises `BadUrl` where a parameter stands there twice: libraries differ in which one counts. Names it."""
    seen = set()
    for name, _ in url.parameters:
        if name in seen:
            raise BadUrl(f"its parameter {name} stands there more than once")
        seen.add(name)


def _check_parameters(url: ServiceUrl) -> None:
    known = _PARAMETERS.get(url.scheme)
    for name, value in url.parameters:
        if known is not None and name not in known:
            raise BadUrl(
                f"it has an unknown parameter after its ?: {url.scheme}:// may have {', '.join(sorted(known))}",
                is_encoding=True,
            )
        kind = _NUMBERS if known is None and name == "port" else (known or {}).get(name, _ANY)
        if not kind.fullmatch(unquote(value)):
            raise BadUrl(f"its parameter {name} has no usable value")
    if known is not None:  # of PostgreSQL, libpq knows the names
        check_doubled(url)


def _match(allowed: re.Pattern[str], part: str, what: str) -> None:
    if not allowed.fullmatch(part):
        raise BadUrl(f"{what} has a character that means something else in a URL", is_encoding=True)
    try:
        unquote(part, errors="strict").encode()
    except UnicodeError:
        raise BadUrl(f"{what} has percent-encoded bytes that are no UTF-8", is_encoding=True) from None
    if "\0" in unquote(part):
        raise BadUrl(f"{what} has a NUL character")


def _shown(parameter: tuple[str, str]) -> str:
    name, value = parameter
    if name in _SHOWN_PARAMETERS:
        return f"{name}={value}"
    return f"{name}={STARS}" if name in _SECRET_PARAMETERS else STARS
