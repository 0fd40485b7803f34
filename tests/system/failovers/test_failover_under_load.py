"""A standby that is promoted behind while a recorder works: how much is missing is told, and turns green once sent."""

from __future__ import annotations

import json
from pathlib import Path
from threading import Event, Thread

import psycopg
import pytest
from support.processes.pipeline import Pipeline, created, eventually
from support.processes.served import Served
from support.servers.address import Address
from support.servers.standby import Standby

pytestmark = [pytest.mark.slow, pytest.mark.unproven]
# Three times as many are published before anything happens.
BEHIND = 1_000


def names(url: str) -> set[str]:
    with psycopg.connect(url) as db:
        return {row[0] for row in db.execute("select event_id from log")}


def test_what_a_failover_took_is_told_within_a_tenth_and_the_old_primary_gets_nothing_more(
    tmp_path: Path, database_url: str, redis_url: str
) -> None:
    address = Address(tmp_path, database_url)
    one = Pipeline(tmp_path, address.url, redis_url, redis_url)
    sent: list[str] = []
    enough = Event()

    def publish() -> None:
        while not enough.is_set():
            cases = [f"AB-{len(sent) + number}" for number in range(100)]
            one.publish(created(case) for case in cases)
            sent.extend(cases)
            eventually(lambda: one.queue().ready < 50 or enough.is_set(), "the recorder keeps up")

    sender = Thread(target=publish)
    try:
        with Standby(database_url) as standby:
            recorder, status = one.start("recorder"), Served(one)
            sender.start()
            eventually(lambda: len(names(standby.url)) > 3 * BEHIND, "the standby has some")
            standby.fall_behind()
            kept = len(names(standby.url))
            eventually(lambda: len(names(database_url)) > kept + BEHIND, "the primary is ahead")
            standby.promote()
            address.lead_to(standby.url)
            # A batch under way may still have been committed by the old primary.
            eventually(lambda: len(names(standby.url)) > kept, "the recorder goes on")
            lost = names(database_url) - names(standby.url)
            frozen = len(names(database_url))
            assert len(lost) >= BEHIND

            def found() -> dict[str, object]:
                check: dict[str, object] = status.get("/healthcheck.json").json()["continuity"]
                return check

            eventually(lambda: "events are missing" in str(found()["value"]), "the check says so")
            shown = json.loads(one.run("continuity", "--json").stdout)
            # What the recorder had in hand is its own, and is recorded after all.
            assert abs(shown["missing"] - len(names(database_url) - names(standby.url))) <= len(lost) / 10
            enough.set()
            sender.join()
            eventually(one.queue_is_empty, "the queue is empty")

            address.lead_to(database_url)
            one.publish([created("CD-1")])
            eventually(lambda: "old primary" in recorder.said(), "the recorder says why it waits")
            eventually(lambda: "timeline 1, and timeline 2 is known" in str(found()["value"]), "health says so")
            assert len(names(database_url)) == frozen

            address.lead_to(standby.url)
            eventually(lambda: any("CD-1" in name for name in names(standby.url)), "the recorder goes on")
            assert not found()["status"]
            one.publish(created(case) for case in sent)
            eventually(lambda: bool(found()["status"]), "it is green by itself")
            assert one.run("continuity").returncode == 0
    finally:
        enough.set()
        if sender.ident is not None:
            sender.join()
        one.close()
