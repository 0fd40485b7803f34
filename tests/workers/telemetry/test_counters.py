"""What the workers count comes to /metrics: every event once, whatever worker counted it and whatever became of it."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest
from brokers.broker_under_test import RedisServer
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from redis import Redis, RedisError
from support.processes.patience import allowance_s
from support.processes.pipeline import Pipeline, created, event, eventually
from support.processes.scrape import Page, Samples, promtool, read, value
from support.servers.free_ports import free_port

from caselog.events.errors import REASONS
from caselog.events.model.registry import autodiscover, event_registry
from caselog.workers.servers.locate import Services, redis_py_url
from caselog.workers.servers.redis_client import impatient
from caselog.workers.telemetry.counters import BATCH_EVENTS, EVENT_TO_COMMIT, OTHER, RECORDED, SUPPRESSED, Tally
from caselog.workers.telemetry.removals import POLICY_KEYS
from caselog.workers.telemetry.totals import Flusher, Gauges, read_gauges, read_totals
from caselog.workers.web.prometheus import _histogram  # the pure part, held against the client library

RECORDED_ONE = (RECORDED.name, "case", "CASE_CREATED")


def gauges() -> Gauges:
    return Gauges(role="recorder", pool_in_use=1, pool_size=2)


@pytest.fixture
def client(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_py_url(redis_url)) as client:
        yield client


# --- in memory ---


@given(st.lists(st.lists(st.one_of(st.floats(-10, 100_000), st.sampled_from(EVENT_TO_COMMIT.edges)), max_size=30)))
def test_a_histogram_is_what_the_client_library_makes_of_the_same_values(observations: list[list[float]]) -> None:
    """Whatever the split into batches; a time before zero, which a fast clock gives, counts as zero."""
    theirs = Histogram("theirs", "h", buckets=EVENT_TO_COMMIT.edges, registry=CollectorRegistry())
    tally = Tally()
    for values in observations:
        tally.observe(EVENT_TO_COMMIT, values)
        for one in values:
            theirs.observe(max(one, 0.0))

    def plain(samples: list) -> dict[tuple[str, float | None], float]:  # type: ignore[type-arg]  # the library's
        return {
            (s.name.rpartition("_")[2], float(s.labels["le"]) if "le" in s.labels else None): s.value
            for s in samples
            if not s.name.endswith("_created")
        }

    ours = plain(_histogram(EVENT_TO_COMMIT, tally.take()).samples)
    (expected,) = theirs.collect()
    assert ours == pytest.approx(plain(expected.samples))


def test_what_was_taken_is_not_counted_again() -> None:
    tally = Tally()
    tally.count(RECORDED, 2, "case", "CASE_CREATED")
    tally.count(SUPPRESSED, 0)
    assert tally.take() == {RECORDED_ONE: 2}
    assert tally.take() == {}


# --- in Redis ---


def test_the_counts_of_workers_that_ended_stay_in_the_sum(client: Redis) -> None:
    for events in (2, 3):
        tally = Tally()
        flusher = Flusher(client, tally, gauges)
        flusher.start()
        tally.count(RECORDED, events, "case", "CASE_CREATED")
        tally.observe(BATCH_EVENTS, (events,))
        flusher.stop()
    totals = read_totals(client)
    assert totals[RECORDED_ONE] == 5
    assert totals[BATCH_EVENTS.name, "sum"] == 5
    assert read_gauges(client) == {"recorder": Gauges(role="recorder", pool_in_use=2, pool_size=4)}


def test_a_flush_whose_answer_was_lost_counts_once_and_what_came_meanwhile_follows(tmp_path: Path) -> None:
    """Redis stands still while it is told, and does what it was told when it goes on: the worker cannot know."""
    server = RedisServer(tmp_path)
    server.start()
    try:
        services = Services("", "", server.url)
        tally = Tally()
        with impatient(services.redis_url) as ours, Redis.from_url(redis_py_url(server.url)) as witness:
            flusher = Flusher(ours, tally, gauges)
            flusher.flush()
            pid = witness.info("server")["process_id"]
            tally.count(RECORDED, 1, "case", "CASE_CREATED")
            os.kill(pid, signal.SIGSTOP)
            try:
                with pytest.raises(RedisError):
                    flusher.flush()
            finally:
                os.kill(pid, signal.SIGCONT)
            eventually(lambda: read_totals(witness).get(RECORDED_ONE) == 1, "Redis did what it was told")
            tally.count(RECORDED, 10, "case", "CASE_CREATED")
            flusher.flush()
            assert read_totals(witness)[RECORDED_ONE] == 11
    finally:
        server.stop()


def test_what_is_counted_while_redis_is_away_is_flushed_when_it_is_back(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    services = Services("", "", server.url)
    tally = Tally()
    with impatient(services.redis_url) as ours, Redis.from_url(redis_py_url(server.url)) as witness:
        flusher = Flusher(ours, tally, gauges)
        flusher.start()
        tally.count(RECORDED, 7, "case", "CASE_CREATED")
        with pytest.raises(RedisError):
            read_totals(witness)
        server.start()
        try:
            eventually(lambda: read_totals(witness).get(RECORDED_ONE) == 7, "it was flushed")
        finally:
            server.stop()
            flusher.stop()


# --- the whole way ---


def test_every_event_is_counted_once_by_what_became_of_it(pipeline: Pipeline) -> None:
    """Recorded by key and code, suppressed, duplicate, parked, dead by reason, late; with the times that it took."""
    page = Page(pipeline)
    twice = event("accept_case", "SPOP", "AB-1", "2026-03-02T11:00:00Z")
    pipeline.start("recorder")
    pipeline.publish(
        [
            created("AB-1"),
            twice,
            twice,
            event("accept_case", "SPOP", "AB-1", "2026-03-02T12:00:00Z"),
            event("accept_case", "SPOP", "AB-2"),
            event("accept_case", "NOPE", "AB-1"),
            event('hostile\nkey"}', None, "AB-1"),
        ]
    )
    pipeline.send(b"no json")
    pipeline.recorded(3)
    pipeline.publish([event("case", "CASE_VIEWED", "AB-1", "2026-03-02T10:30:00Z")])
    pipeline.recorded(4)

    expected = {
        ("caselog_events_recorded_total", "key=accept_case,code=SPOP"): 2,
        ("caselog_events_recorded_total", "key=case,code=CASE_CREATED"): 1,
        ("caselog_events_recorded_total", "key=case,code=CASE_VIEWED"): 1,
        ("caselog_events_suppressed_total", ""): 1,
        ("caselog_events_duplicate_total", ""): 1,
        ("caselog_events_parked_total", ""): 1,
        ("caselog_events_dead_total", "reason=unknown_code"): 1,
        ("caselog_events_dead_total", "reason=unknown_event"): 1,
        ("caselog_events_dead_total", "reason=malformed"): 1,
        ("caselog_events_dead_total", "reason=failed"): 0,
        ("caselog_refolds_total", "of=case"): 1,
        ("caselog_batch_events_sum", ""): 9,
        ("caselog_event_to_commit_seconds_count", ""): 4,
        ("caselog_receipt_to_commit_seconds_count", ""): 9,
        ("caselog_queue_ready_messages", "queue=caselog.events"): 0,
        ("caselog_queue_oldest_age_seconds", "queue=caselog.events"): 0,
        ("caselog_parked_events", "state=waiting"): 1,
        ("caselog_dead_letters", "reason=malformed"): 1,
        ("caselog_dead_letters", "reason=rejected"): 0,
        ("caselog_workers", "role=recorder"): 1,
        ("caselog_workers", "role=tasks"): 0,
        ("caselog_database_pool_max_connections", "role=recorder"): 1,
        ("caselog_health_check_status", "check=database"): 1,
        ("caselog_health_check_status", "check=tasks"): 0,
        ("caselog_source_up", "source=database"): 1,
        ("caselog_source_up", "source=broker"): 1,
        ("caselog_source_up", "source=redis"): 1,
    }

    def found() -> dict[tuple[str, str], float | None]:
        samples = page.samples()  # a zero is shown, not left out
        return {(name, labels): samples.get((name, frozenset(_labels(labels).items()))) for name, labels in expected}

    eventually(lambda: found() == expected, f"{expected} is shown")
    samples = page.samples()
    assert value(samples, "caselog_transaction_seconds_count") >= 2
    assert value(samples, "caselog_transaction_seconds_sum") > 0
    assert value(samples, "caselog_outbox_deltas") > 0
    assert value(samples, "caselog_parked_oldest_age_seconds") > 0
    assert value(samples, "caselog_heartbeat_age_seconds", role="recorder") < 30
    # Every one happened a long time ago.
    assert value(samples, "caselog_event_to_commit_seconds_bucket", le="86400") == 0
    _has_only_known_labels(samples)


def _labels(text: str) -> dict[str, str]:
    return dict(pair.split("=") for pair in text.split(",")) if text else {}


def _has_only_known_labels(samples: Samples) -> None:
    """Nothing that a sender wrote is a label's value: a hostile sender cannot make a million series."""
    autodiscover()
    pairs = {(code.key, code.code) for code in event_registry.codes()} | {(OTHER, OTHER)}
    for name, labels in samples:
        has = dict(labels)
        if name == "caselog_events_recorded_total":
            assert (has["key"], has["code"]) in pairs
        else:
            assert not has.keys() & {"key", "code", "type"}, name
        assert has.get("reason", OTHER) in {
            *(POLICY_KEYS if name == "caselog_messages_removed_total" else REASONS),
            OTHER,
        }


def test_a_killed_recorder_takes_no_count_with_it_and_the_next_one_adds(redis_pipeline: Pipeline) -> None:
    page = Page(redis_pipeline)

    def recorded() -> float:
        return value(page.samples(), "caselog_events_recorded_total", key="case", code="CASE_CREATED")

    first = redis_pipeline.start("recorder")
    redis_pipeline.publish([created("AB-1")])
    eventually(lambda: recorded() == 1, "the first is counted")
    first.kill()
    assert recorded() == 1
    second = redis_pipeline.start("recorder")
    redis_pipeline.publish([created("AB-2"), created("AB-3")])
    redis_pipeline.recorded(3)
    assert second.stop() == 0  # and carries away what it had not flushed
    assert recorded() == 3


def test_the_tasks_count_what_they_add_up_and_what_they_try_again(redis_pipeline: Pipeline) -> None:
    page = Page(redis_pipeline)
    redis_pipeline.start("recorder")
    redis_pipeline.start("tasks")
    redis_pipeline.publish([event("accept_case", "SPOP", "AB-1")])
    eventually(
        lambda: value(page.samples(), "caselog_parked_retries_total") >= 1, "it was tried in vain before its case came"
    )
    assert value(page.samples(), "caselog_events_parked_total") == 1
    redis_pipeline.publish([created("AB-1")])
    eventually(
        lambda: value(page.samples(), "caselog_events_recorded_total", key="accept_case", code="SPOP") == 1,
        "the parked event is counted where it is recorded",
    )
    eventually(
        lambda: (
            value(page.samples(), "caselog_outbox_drained_deltas_total") > 0
            and page.samples()["caselog_outbox_deltas", frozenset()] == 0
        ),
        "what they say to the reports is added up",
    )
    eventually(
        lambda: value(page.samples(), "caselog_events_recorded_total", key="case", code="CASE_CREATED") == 1,
        "the recorder's counts are there",
    )
    # The wait for its case is not the recorder's delay.
    assert value(page.samples(), "caselog_event_to_commit_seconds_count") == 1


def test_with_its_servers_away_it_says_so_soon_and_shows_no_zeros(tmp_path: Path) -> None:
    """One refuses, one is silent: what they would have told is not known, which is not zero."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        port = silent.getsockname()[1]
        pipeline = Pipeline(
            tmp_path,
            f"postgresql://x@127.0.0.1:{port}/x",
            f"redis://127.0.0.1:{free_port()}",
            f"redis://127.0.0.1:{port}",
        )
        try:
            page = Page(pipeline)
            started_s = monotonic()
            samples = page.samples()
            assert monotonic() - started_s < allowance_s(
                20
            )  # a hanging server keeps a request for ever, without a bound
        finally:
            pipeline.close()
    for source in ("database", "broker", "redis"):
        assert samples["caselog_source_up", frozenset({("source", source)})] == 0
    assert samples["caselog_health_check_status", frozenset({("check", "database")})] == 0
    assert {name for name, _ in samples} == {
        "caselog_build_info",
        "caselog_health_check_accepted",
        "caselog_health_check_status",
        "caselog_health_check_warning",
        "caselog_source_up",
    }


def test_names_and_units_are_as_prometheus_wants_them(redis_pipeline: Pipeline) -> None:
    answer = Page(redis_pipeline).get()
    assert re.fullmatch(r"text/plain; version=[0-9.]+; charset=utf-8", answer.headers["content-type"])
    assert all(name.startswith("caselog_") for name, _ in read(answer.text))
    checked = promtool("check", "metrics", stdin=answer.text)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
