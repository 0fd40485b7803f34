"""A list of PostgreSQL servers: whichever of them takes writes is found, and is the first to be asked from then on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from time import monotonic
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from support.processes.patience import allowance_s
from support.servers.dead_ports import Silent, in_turn, refusing
from support.servers.own_postgres import OwnPostgres

from caselog.schema.sessions.connection import make_engine
from caselog.schema.sessions.hosts import begin_with_the_good, pass_over, remember, without

PORT = text("select inet_server_port()")


@pytest.fixture(scope="module")
def primary(make_database: Callable[[str], str], template: str) -> Iterator[OwnPostgres]:
    with OwnPostgres(make_database(template)) as server:
        yield server


@pytest.fixture(scope="module")
def standby(primary: OwnPostgres) -> Iterator[OwnPostgres]:
    with OwnPostgres(primary.like, of=primary) as server:
        yield server


@pytest.fixture
def dead() -> Iterator[list[str]]:
    with ExitStack() as stack:
        yield [f"127.0.0.1:{stack.enter_context(refusing())}" for _ in range(2)]


def both_forms(server: OwnPostgres, addresses: list[str], more: str = "") -> tuple[str, str]:
    """The list as libpq takes it before the path, and after the question mark."""
    hosts, ports = (",".join(parts) for parts in zip(*(address.split(":") for address in addresses), strict=True))
    return (
        f"postgresql://{server.user}@{','.join(addresses)}/{server.database}{more and f'?{more}'}",
        f"postgresql://{server.user}@/{server.database}?host={hosts}&port={ports}{more and f'&{more}'}",
    )


def port_of(url: str) -> Any:
    """Of the server that gives a session."""
    engine = make_engine(url)
    try:
        with engine.connect() as db:
            return db.execute(PORT).scalar_one()
    finally:
        engine.dispose()


@pytest.mark.parametrize("position", [0, 1, 2], ids=["first", "in the middle", "last"])
def test_with_two_of_three_ports_dead_the_third_is_found(primary: OwnPostgres, dead: list[str], position: int) -> None:
    for url in both_forms(primary, in_turn(primary.address, dead)[position]):
        assert port_of(url) == primary.port


def test_a_list_of_addresses_is_one_of_hosts(primary: OwnPostgres, dead: list[str]) -> None:
    hosts, ports = (
        ",".join(parts) for parts in zip(*(one.split(":") for one in [*dead, primary.address]), strict=True)
    )
    place = f"{primary.user}@/{primary.database}"
    assert port_of(f"postgresql://{place}?hostaddr={hosts}&port={ports}") == primary.port
    assert port_of(f"postgresql://{place}?host=a,b,c&hostaddr={hosts}&port={ports}") == primary.port
    named = ",".join(f"{name}:{port}" for name, port in zip("abc", ports.split(","), strict=True))
    place = f"{primary.user}@{named}/{primary.database}"
    assert port_of(f"postgresql://{place}?hostaddr={hosts}") == primary.port


@pytest.mark.parametrize("more", [{}, {"host": "a,b"}], ids=["alone", "with names"])
def test_one_of_a_list_of_addresses_is_passed_over_and_left_out_as_one_of_hosts(
    primary: OwnPostgres, standby: OwnPostgres, more: dict[str, str]
) -> None:
    """As an old primary is that comes back."""
    places = [address.split(":") for address in (primary.address, standby.address)]
    addresses, ports = (",".join(parts) for parts in zip(*places, strict=True))
    listed = {**more, "hostaddr": addresses, "port": ports, "target_session_attrs": "read-write"}
    with psycopg.connect(**listed, user=primary.user, dbname=primary.database) as driver:  # type: ignore[arg-type]
        left = without(listed, driver.info)
        assert left is not None
        assert (left["hostaddr"], left["port"]) == (places[1][0], places[1][1])
        assert left.get("host") == ((more and "b") or None)
        pass_over(listed, driver.info)
        assert begin_with_the_good(listed)["port"] == f"{places[1][1]},{places[0][1]}"
        remember(listed, driver.info)
        assert begin_with_the_good(listed) == listed


def test_the_server_that_takes_writes_is_found_unless_another_is_wanted(
    primary: OwnPostgres, standby: OwnPostgres
) -> None:
    addresses = [standby.address, primary.address]
    for url in both_forms(primary, addresses):
        assert port_of(url) == primary.port
    for wanted, port in (("any", standby.port), ("primary", primary.port), ("prefer-standby", standby.port)):
        for url in both_forms(primary, addresses, f"target_session_attrs={wanted}"):
            assert port_of(url) == port
    assert port_of(standby.url) == standby.port, "one host alone is taken as it is"
    for url in both_forms(primary, [standby.address, standby.address]):
        with pytest.raises(OperationalError, match="read-only"):
            port_of(url)


def test_a_silent_server_costs_its_time_out_once_and_the_good_one_is_remembered(primary: OwnPostgres) -> None:
    """By all engines of the process; and the time-out is the one that the URL says."""
    with Silent() as silent:
        url, _ = both_forms(primary, [f"127.0.0.1:{silent.port}", primary.address], "connect_timeout=2")
        began_s = monotonic()
        for _ in range(3):
            assert port_of(url) == primary.port
        assert monotonic() - began_s < allowance_s(2.5)
        assert silent.calls == 1


def test_where_all_are_away_each_is_named(primary: OwnPostgres, dead: list[str]) -> None:
    url, _ = both_forms(primary, dead)
    with pytest.raises(OperationalError) as away:
        port_of(url.replace(f"{primary.user}@", f"{primary.user}:secret@"))
    said = str(away.value.orig)
    assert "\n" not in said
    for address in dead:
        assert said.count(f"port: '{address.partition(':')[2]}'") == 1
    assert "secret" not in str(away.value)
