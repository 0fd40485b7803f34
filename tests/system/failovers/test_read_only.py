"""A database that answers and takes no writes, as after a failover: it is said, sessions are left, nothing is lost."""

from __future__ import annotations

import json
from time import monotonic

import pytest
from redis import Redis
from support.processes.patience import allowance_s
from support.processes.pipeline import Pipeline, created, eventually
from support.processes.served import Served
from support.servers.read_only import read_only_database

from caselog.workers.producers.wait import NotRecorded, wait_until_recorded
from caselog.workers.servers.locate import Services, redis_py_url


def reasons_for_waiting(said: str, goes_on: str, task: str | None = None) -> list[list[str]]:
    """Why it waits for the database: a list of reasons for each time, up to the line that says that it goes on."""
    times: list[list[str]] = [[]]
    for line in map(json.loads, (line for line in said.splitlines() if line.startswith("{"))):
        if line.get("task") != task:
            continue
        if "waits for the database" in line["event"]:
            times[-1].append(line["error"])
        if goes_on in line["event"]:
            times.append([])
    return times


def test_workers_wait_say_why_once_and_go_on_without_a_restart(redis_pipeline: Pipeline) -> None:
    one = redis_pipeline
    recorder, tasks, status = one.start("recorder"), one.start("tasks"), Served(one)
    one.publish([created("AB-1")])
    one.recorded(1)
    eventually(lambda: status.get("/healthcheck.json").is_success, "all is well")
    with read_only_database(one.database_url):
        one.publish([created("AB-2")])
        eventually(lambda: "read-only, as after a failover" in recorder.said(), "the recorder says why it waits")
        red = status.get("/healthcheck.json")
        assert red.status_code == 503
        database = red.json()["database"]
        assert (database["status"], "takes no writes" in database["value"]) == (False, True)
        assert "default_transaction_read_only" in database["hint"]
        services = Services(one.database_url, one.broker_url, one.settings["CASELOG_REDIS_URL"])
        began_s = monotonic()
        with Redis.from_url(redis_py_url(services.redis_url)) as client, pytest.raises(NotRecorded):
            wait_until_recorded(services, client, timeout_s=1)
        assert monotonic() - began_s < allowance_s(1 + 9)  # the wait for a database that is silent would be longer
        for words in (("pause", "--why", "to see"), ("rebuild",)):
            refused = one.run(*words)
            assert refused.returncode == 1
            assert refused.stderr.count(b"\n") == 1, refused.stderr
            assert b"read-only" in refused.stderr
        assert one.one("select count(*) from log") == 1
    one.recorded(2)
    eventually(lambda: status.get("/healthcheck.json").is_success, "all is well again")
    assert one.run("wait", "--timeout", "150").returncode == 0
    assert recorder.is_running()
    assert tasks.is_running()
    # It tried again and again: each reason is one line, and the end of it another. (Two threads may be at a task: what
    # one began on a session of before may end well after the other was refused.)
    told = [reasons_for_waiting(recorder.said(), "takes batches again")]
    told += [reasons_for_waiting(tasks.said(), "a task goes on", task) for task in ("aggregate", "retry_parked")]
    assert len(told[0]) >= 2, "the recorder waited, and went on"
    for times in told:
        assert len(times) <= 4
        assert all(len(set(reasons)) == len(reasons) for reasons in times)
