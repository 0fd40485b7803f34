"""Every worker and command with lists of hosts of which most are dead: all goes through those that live."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from support.processes.pipeline import Pipeline, created, event, eventually, lines
from support.processes.served import APP, Served, bearer
from support.servers.dead_ports import refusing


@pytest.fixture
def listed(tmp_path: Path, database_url: str, amqp_url: str, redis_url: str) -> Iterator[Pipeline]:
    parts, broker = urlsplit(database_url), urlsplit(amqp_url)
    (sockets,) = parse_qs(parts.query)["host"]
    with ExitStack() as stack:
        ports = [stack.enter_context(refusing()) for _ in range(3)]
        hosts, numbers = f"127.0.0.1,{tmp_path},{sockets}", f"{ports[0]},5432,5432"
        of_broker = [broker._replace(netloc=f"a:other-secret@127.0.0.1:{port}").geturl() for port in ports[1:]]
        one = Pipeline(
            tmp_path,
            database_url,
            amqp_url,
            redis_url,
            CASELOG_DATABASE_URL=f"postgresql://{parts.username}:secret@{parts.path}?host={hosts}&port={numbers}",
            CASELOG_BROKER_URL=";".join((*of_broker, amqp_url)),
        )
        yield one
        one.close()


@pytest.mark.slow
def test_workers_and_commands_go_through_the_host_that_lives(listed: Pipeline) -> None:
    one = listed
    assert one.run("migrate").returncode == 0
    workers = [one.start(role) for role in ("recorder", "tasks")]
    status = Served(one)
    published = one.run("publish", "-", stdin=lines([created("AB-1")]))
    assert published.returncode == 0, published.stderr
    posted = status.post(
        "/events",
        json=event("case", "CASE_VIEWED", "AB-1"),
        headers={**bearer(APP), "content-type": "application/cloudevents+json"},
    )
    assert posted.status_code == 202, posted.text
    one.recorded(2)
    for words in (("wait", "--timeout", "150"), ("queues",), ("log", "AB-1"), ("verify",), ("move-queue",)):
        done = one.run(*words)
        assert done.returncode == 0, (words, done.stderr)
    eventually(lambda: one.run("ping").returncode == 0, "a ping is answered")
    checks = status.get("/healthcheck.json").json()
    assert [name for name, check in checks.items() if not check["status"]] == []
    shown = {row["variable"]: row["value"] for row in json.loads(one.run("settings", "--json").stdout)}
    assert shown["CASELOG_BROKER_URL"].count(":***@") == 3
    said = [json.dumps(shown), *(worker.said() for worker in (*workers, status.worker))]
    for worker in (*workers, status.worker):
        assert worker.stop() == 0
    assert not any("secret" in text for text in said)
