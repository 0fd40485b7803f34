"""Of several PostgreSQL servers, the one that was good the last time is asked first."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import psycopg

# Here the order says nothing but where to begin; elsewhere it says whom to prefer, or a server is drawn.
_ANY_ORDER: Final = ("read-write", "primary", "read-only", "standby")
# Where a server is said to be: its host, hostaddr and port, as far as the list has them.
Place: TypeAlias = tuple[str, ...]
_WHERE: Final = ("host", "hostaddr", "port")
# By the list as it stands in the URL: the place to begin with, for all engines of this process.
_good: dict[tuple[str, ...], Place] = {}


def begin_with_the_good(parameters: dict[str, Any]) -> dict[str, Any]:
    """The driver's parameters with the list of hosts turned, so that it begins with the good one.

    A server that is silent costs a connect_timeout, and one that is a standby a connection: not each time anew.
    """
    places = _places(parameters)
    good = _good.get(_list_of(parameters)) if places else None
    if good is None or good not in places:
        return parameters
    at = places.index(good)
    return _with(parameters, places[at:] + places[:at])


def remember(parameters: dict[str, Any], info: psycopg.ConnectionInfo) -> None:
    """Note which one of the list that these parameters had (not turned) gave the session of which this is told."""
    for place in _places(parameters):
        if _is_at(parameters, place, info):
            _good[_list_of(parameters)] = place
            return


def pass_over(parameters: dict[str, Any], info: psycopg.ConnectionInfo) -> None:
    """Begin with the one after this: it gives sessions, and is not to be used, as an old primary that came back."""
    places = _places(parameters)
    for at, place in enumerate(places):
        if _is_at(parameters, place, info):
            _good[_list_of(parameters)] = places[(at + 1) % len(places)]
            return


def without(parameters: dict[str, Any], info: psycopg.ConnectionInfo) -> dict[str, Any] | None:
    """The driver's parameters without this host, whatever the order says; None where no other is left."""
    places = _listed(parameters)
    left = [place for place in places if not _is_at(parameters, place, info)]
    return _with(parameters, left) if left and len(left) < len(places) else None


def in_a_line(said: str) -> str:
    """What the driver says of several hosts, each with its own failure, in one line; of one host as it stands.

    It begins with the last one, which is a standby that is well, and has the primary that is away somewhere below.
    """
    return "; ".join(line.removeprefix("- ") for line in said.splitlines() if line.startswith("- host: ")) or said


def _places(parameters: dict[str, Any]) -> list[Place]:
    """Of a list whose order says nothing else than where to begin."""
    places = _listed(parameters)
    if (
        len(places) == 1
        or parameters.get("target_session_attrs") not in _ANY_ORDER
        or parameters.get("load_balance_hosts", "disable") != "disable"
    ):
        return []
    return places


def _listed(parameters: dict[str, Any]) -> list[Place]:
    """Each place of the list; none where its parts have not equally many."""
    parts = [str(parameters[name]).split(",") for name in _WHERE if name in parameters]
    return list(zip(*parts, strict=True)) if len(set(map(len, parts))) == 1 else []


def _with(parameters: dict[str, Any], places: list[Place]) -> dict[str, Any]:
    names = [name for name in _WHERE if name in parameters]
    return {**parameters, **dict(zip(names, map(",".join, zip(*places, strict=True)), strict=True))}


def _is_at(parameters: dict[str, Any], place: Place, info: psycopg.ConnectionInfo) -> bool:
    said = dict(zip([name for name in _WHERE if name in parameters], place, strict=True))
    return (
        said.get("host") in (None, "", info.host)
        and said.get("hostaddr") in (None, "", info.hostaddr)
        and said.get("port") in (None, "", str(info.port))
    )


def _list_of(parameters: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(parameters.get(name)) for name in (*_WHERE, "target_session_attrs"))
