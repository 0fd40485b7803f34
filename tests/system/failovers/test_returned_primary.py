"""An old primary that comes back first in a list of two: whoever starts then finds the new one, commands as well."""

from __future__ import annotations

import json

import pytest
from sqlalchemy.exc import DBAPIError
from support.processes.installed import Installation, cases, installed
from support.processes.pipeline import eventually
from support.servers.own_postgres import OwnPostgres

from caselog.schema.sessions import hosts
from caselog.schema.sessions.connection import fence_of, make_engine
from caselog.workers.continuity.comparison import State
from caselog.workers.continuity.losses import Losses
from caselog.workers.continuity.memory import RUNS, STATE, read_memory
from caselog.workers.health.checks import Health
from caselog.workers.roles.up import _migrate
from caselog.workers.servers.locate import Services
from caselog.workers.settings import Settings


def forget_hosts() -> None:
    vars(hosts)["_good"].clear()


def as_another_process(one: Installation, *arguments: str) -> tuple[int, str]:
    """What this process knows of the list of servers, another one would not."""
    forget_hosts()
    done = one.command(*arguments)
    return done.exit_code, done.output + str(done.exception or "")


def told_timeline(one: Installation) -> int | None:
    found = read_memory(one.client)
    return None if found is None or found.server is None else found.server.timeline


def sees_the_new_one_though_it_had_the_old(one: Installation, old: OwnPostgres, pair: str) -> None:
    """As a status worker that had a session to the old one before it knew; also where Redis forgets all of it."""
    forget_hosts()
    engine = make_engine(pair, connections=1)
    with engine.begin():
        pass
    found = Health(engine, one.redis_url, one.client, Settings()).check(["continuity"])["continuity"]
    assert found.value == "nothing is missing (timeline 2)"
    engine.dispose()
    one.client.delete(STATE, RUNS)  # what this process knows it still knows
    old_alone = make_engine(old.url, fence=fence_of(engine))
    losses = Losses(old_alone, one.client, fence_of(old_alone))
    assert losses.look().verdict.state is State.OLDER_TIMELINE
    old_alone.dispose()
    one.record("GH")
    acknowledged = one.command("continuity", "acknowledge", "--why", "emptied")
    assert acknowledged.exit_code == 0, acknowledged.output


def proves_and_writes_the_new_one(one: Installation, old: OwnPostgres, new: OwnPostgres) -> None:
    """What has connections of its own, and processes of its own, stays with the one server that it began with."""
    there = new.one("select count(*) from log")
    code, said = as_another_process(one, "verify")
    assert f"{there} log entries" in said, said
    for server in (old, new):
        server.execute("update \"case\" set source = 'WRONG'")
    wrong = "select count(*) from \"case\" where source = 'WRONG'"
    before = old.one(wrong)
    code, said = as_another_process(one, "rebuild", "cases")
    assert (code, new.one(wrong), old.one(wrong)) == (0, 0, before), said
    assert as_another_process(one, "migrate")[0] == 0
    new.execute(
        "insert into parked (source, event_id, key, case_reference, raw, attempts, due_at) "
        "values ('/t', '1', 'case', 'ZZ', '', 0, now() + interval '1 day')"
    )
    lines = json.loads(as_another_process(one, "queues", "--json")[1])
    assert [line["ready"] for line in lines if line["queue"] == "parked"] == [1]
    assert "1 parked event" in as_another_process(one, "wait", "--timeout", "5")[1]


def test_an_old_primary_that_returns_gets_nothing_from_who_starts_then_and_no_acknowledgement(
    database_url: str, redis_url: str
) -> None:
    with OwnPostgres(database_url) as old, OwnPostgres(database_url, of=old) as new:
        pair = f"postgresql://{old.user}@{old.address},{new.address}/{old.database}"
        with installed(pair, redis_url) as one:
            forget_hosts()
            one.record("AB")
            eventually(lambda: new.one("select count(*) from log") == 2, "the standby has it")
            new.execute("alter system set primary_conninfo = ''", "select pg_reload_conf()")
            eventually(lambda: new.one("select count(*) from pg_stat_wal_receiver") == 0, "it follows nobody")
            one.record(*cases("CD", 5))
            old.die()
            new.promote()
            assert one.check().value.startswith("about 10 events are missing")
            assert told_timeline(one) == 2
            one.stop_recorder()
            old.start()

            code, said = as_another_process(one, "continuity", "--json")
            judged = json.loads(said[: said.rindex("}") + 1])
            assert (code, judged["state"], judged["missing"], judged["server"]) == (1, "lost", 10, new.address)
            forget_hosts()
            one.start_recorder()
            one.record("EF")
            assert as_another_process(one, "case", "EF")[0] == 0
            assert as_another_process(one, "pause", "--why", "to see")[0] == 0
            code, said = as_another_process(one, "continuity", "acknowledge", "--why", "nobody has them")
            assert (code, f"(the server at {new.address})" in said) == (0, True), said
            code, said = as_another_process(one, "continuity", "acknowledge", "--why", "once more")
            assert (code, "nothing is to be acknowledged" in said) == (1, True)
            assert told_timeline(one) == 2
            assert [old.one("select count(*) from log"), old.one("select count(*) from audit")] == [12, 0]
            assert [new.one("select count(*) from log"), new.one("select count(*) from audit")] == [4, 2]

            sees_the_new_one_though_it_had_the_old(one, old, pair)
            proves_and_writes_the_new_one(one, old, new)

            # Named alone it is read, for what it has of what is missing; of a list it is not, whoever is away.
            one.database_url = old.url
            assert as_another_process(one, "case", "CD-1")[0] == 0
            assert "old primary" in as_another_process(one, "resume", "--why", "to see")[1]
            with pytest.raises(DBAPIError, match="old primary"):  # as `caselog up` begins
                _migrate(Services(old.url, one.redis_url, one.redis_url), old.url, Settings())
            one.database_url = pair
            new.die()
            code, said = as_another_process(one, "case", "AB")
            assert (code != 0, f"({old.address}) is on timeline 1" in said) == (True, True)
            assert as_another_process(one, "continuity", "--json")[1].count('"older timeline"') == 1


@pytest.mark.parametrize("alone", [True, False])
def test_a_command_needs_no_redis_to_read(alone: bool, database_url: str, redis_url: str) -> None:  # noqa: FBT001
    with installed(database_url, redis_url) as one:
        one.record("AB")
        host = database_url.partition("?host=")[2]
        if not alone:
            one.database_url = f"{database_url.partition('?')[0]}?host={host},{host}&port=5432,5432"
        one.redis_url = "redis://127.0.0.1:1/0"
        assert as_another_process(one, "case", "AB")[0] == 0
