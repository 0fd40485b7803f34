"""The database's URL as the driver takes it: what libpq understands, SQLAlchemy is told."""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote

from sqlalchemy.engine import URL

from caselog.events.transport.urls import POSTGRES_SCHEMES, BadUrl, ServiceUrl, read_url
from caselog.schema.sessions.url_parameters import check_parameters

_DRIVER: Final = "postgresql+psycopg"
# Of several hosts all but one are standbys, as a rule, and a worker writes.
_OF_SEVERAL: Final = "read-write"
_NO_WRITES: Final = ("standby", "read-only")


def check_database_url(text: str) -> None:
    """Raises `BadUrl`, with nothing of the URL in it."""
    url = read_url(text, POSTGRES_SCHEMES)
    if not url.parameters:
        return
    check_parameters(url)
    _check_hosts(url)


def driver_url(text: str) -> URL:
    """The same for SQLAlchemy, which reads a list of hosts in the query alone. Raises `BadUrl`.

    Of several hosts, the one that takes writes is wanted where the URL does not say which.
    """
    url = read_url(text, POSTGRES_SCHEMES)
    query = {name: unquote(value) for name, value in url.parameters}
    if "host" not in query and "hostaddr" in query and not _has_hosts(url):
        # To libpq an address is a host, too; SQLAlchemy wants a host for each port.
        query["host"] = query.pop("hostaddr")
    hosts = [unquote(host.strip("[]")) for host, _ in url.hosts]
    ports = [port for _, port in url.hosts]
    if len(hosts) > 1:
        query |= {"host": ",".join(hosts), "port": ",".join(ports)}
    elif "host" in query and "port" in query:
        # SQLAlchemy wants one for each, where libpq takes one for all.
        port = query["port"]
        query["port"] = port if "," in port else ",".join([port] * len(query["host"].split(",")))
    is_one = len(hosts) == 1
    found = URL.create(
        _DRIVER,
        username=None if url.user is None else unquote(url.user),
        password=None if url.password is None else unquote(url.password),
        host=hosts[0] or None if is_one else None,
        port=int(ports[0]) if is_one and ports[0] else None,
        database=unquote(url.path[1:]) or None,
        query=query,
    )
    if has_several_hosts(found) and "target_session_attrs" not in query:
        found = found.update_query_dict({"target_session_attrs": _OF_SEVERAL})
    return found


def check_writing(text: str) -> None:
    """Raises `BadUrl` for one that prefers servers which take no writes: who writes would wait there for ever."""
    url = driver_url(text)
    wanted = url.query.get("target_session_attrs")
    if wanted in _NO_WRITES or (wanted == "prefer-standby" and has_several_hosts(url)):
        raise BadUrl(
            f"target_session_attrs={wanted} leads to a server that takes no writes, and a recorder or a tasks worker "
            f"would wait there for ever: leave it out, or give them read-write or primary"
        )


def takes_the_first(text: str) -> bool:
    """Whether the first of several hosts that answers is taken, which may be a standby. Good where each is a pooler."""
    url = driver_url(text)
    return has_several_hosts(url) and url.query.get("target_session_attrs") == "any"


def of_one_host(text: str, host: str, address: str, port: int) -> str:
    """The same URL, with this one of its hosts alone, as a connection says it: what begins there, ends there."""
    url = driver_url(text)
    query = {name: value for name, value in url.query.items() if name not in ("host", "hostaddr", "port")}
    query |= {"host": host, "port": str(port)}
    if "hostaddr" in url.query:
        query["hostaddr"] = address
    return url.set(drivername=POSTGRES_SCHEMES[0], host=None, port=None, query=query).render_as_string(
        hide_password=False
    )


def has_several_hosts(url: URL) -> bool:
    """Whether it is a list, given as `driver_url` gives it."""
    return any("," in url.query.get(name, "") for name in ("host", "hostaddr"))


def _has_hosts(url: ServiceUrl) -> bool:
    """Whether it names a host or a port before its path."""
    return url.hosts != (("", ""),)


def _check_hosts(url: ServiceUrl) -> None:
    hosts, addresses, ports = (_listed(url, name) for name in ("host", "hostaddr", "port"))
    is_list, has_ports = len(url.hosts) > 1, any(port for _, port in url.hosts)
    # (One host before the path and its hostaddr or its port after the ? are one place, which libpq reads as such.)
    if (hosts and _has_hosts(url)) or (ports and (is_list or has_ports)):
        raise BadUrl("it has hosts both before its path and after its ?: give them all in one of the two places")
    for name, found in (("host", hosts), ("hostaddr", addresses)):
        if len(found) > 1 and not all(found):
            raise BadUrl(f"its parameter {name} has an empty part: {found.index('') + 1} of {len(found)}")
    named = len(hosts) or (len(url.hosts) if _has_hosts(url) else 0)
    if named and addresses and named != len(addresses):
        what = "its parameters host and hostaddr have" if hosts else "the hosts before its path and hostaddr have"
        raise BadUrl(f"{what} {named} and {len(addresses)} parts")
    count = max(named, len(addresses), 1)
    if len(ports) > 1 and len(ports) != count:
        raise BadUrl(
            f"it has {len(ports)} ports for {count} host{'' if count == 1 else 's'}: give one for all, or one for each"
        )


def _listed(url: ServiceUrl, name: str) -> list[str]:
    """The parts of the parameter of this name."""
    return [part for told, value in url.parameters if told == name for part in unquote(value).split(",")]
