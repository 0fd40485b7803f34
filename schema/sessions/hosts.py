"""Of several PostgreSQL servers, the one that was good the last time is asked first."""

from __future__ import annotations

from typing import Any, Final

# Here the order says nothing but where to begin; elsewhere it says whom to prefer, or a server is drawn.
_ANY_ORDER: Final = ("read-write", "primary", "read-only", "standby")
# By the list as it stands in the URL: host and port of the one to begin with, for all engines of this process.
_good: dict[tuple[str, str, str], tuple[str, str]] = {}


def begin_with_the_good(parameters: dict[str, Any]) -> dict[str, Any]:
    """The driver's parameters with the list of hosts turned, so that it begins with the good one.

    A server that is silent costs a connect_timeout, and one that is a standby a connection: not each time anew.
    """
    places = _places(parameters)
    good = _good.get(_list_of(parameters)) if places else None
    if good is None or good not in places:
        return parameters
    at = places.index(good)
    places = places[at:] + places[:at]
    return {
        **parameters,
        "host": ",".join(host for host, _ in places),
        "port": ",".join(port for _, port in places),
    }


def remember(parameters: dict[str, Any], host: str, port: int) -> None:
    """Note which one of the list that these parameters had (not turned) gave a session."""
    for place in _places(parameters):
        if place[0] == host and place[1] in ("", str(port)):
            _good[_list_of(parameters)] = place
            return


def pass_over(parameters: dict[str, Any], host: str, port: int) -> None:
    """Begin with the one after this: it gives sessions, and is not to be used, as an old primary that came back."""
    places = _places(parameters)
    for at, place in enumerate(places):
        if place[0] == host and place[1] in ("", str(port)):
            _good[_list_of(parameters)] = places[(at + 1) % len(places)]
            return


def without(parameters: dict[str, Any], host: str, port: int) -> dict[str, Any] | None:
    """The driver's parameters without this host, whatever the order says; None where no other is left."""
    hosts, ports = _hosts(parameters)
    left = [at for at in zip(hosts, ports, strict=False) if not (at[0] == host and at[1] in ("", str(port)))]
    if len(hosts) != len(ports) or not left or len(left) == len(hosts) or "hostaddr" in parameters:
        return None
    return {**parameters, "host": ",".join(name for name, _ in left), "port": ",".join(number for _, number in left)}


def in_a_line(said: str) -> str:
    """What the driver says of several hosts, each with its own failure, in one line; of one host as it stands.

    It begins with the last one, which is a standby that is well, and has the primary that is away somewhere below.
    """
    return "; ".join(line.removeprefix("- ") for line in said.splitlines() if line.startswith("- host: ")) or said


def _places(parameters: dict[str, Any]) -> list[tuple[str, str]]:
    hosts, ports = _hosts(parameters)
    if (
        len(hosts) == 1
        or len(hosts) != len(ports)
        or "hostaddr" in parameters
        or parameters.get("target_session_attrs") not in _ANY_ORDER
        or parameters.get("load_balance_hosts", "disable") != "disable"
    ):
        return []
    return list(zip(hosts, ports, strict=True))


def _hosts(parameters: dict[str, Any]) -> tuple[list[str], list[str]]:
    return str(parameters.get("host", "")).split(","), str(parameters.get("port", "")).split(",")


def _list_of(parameters: dict[str, Any]) -> tuple[str, str, str]:
    return (str(parameters["host"]), str(parameters.get("port")), str(parameters.get("target_session_attrs")))
