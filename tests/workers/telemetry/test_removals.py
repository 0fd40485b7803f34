"""What a policy of RabbitMQ's takes out of the queue of events is recorded all the same, and said."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from support.processes.patience import DEADLINE_S
from support.processes.pipeline import Pipeline, created, eventually

from caselog.events.errors import PublishError
from caselog.events.transport.broker import EVENTS_QUEUE, HELD, REMOVED, connect, open_channel, queue_status
from caselog.events.transport.publisher import Publisher
from caselog.schema.operations import pause as pausing
from caselog.schema.sessions.connection import make_engine
from caselog.workers.health.checks import Check, Health
from caselog.workers.health.queues import queue_view
from caselog.workers.producers.move_queue import move_queue
from caselog.workers.producers.wait import NotRecorded, wait_until_recorded
from caselog.workers.recording.assembly import make_recording
from caselog.workers.recording.pause_watch import Breaker, PauseWatch
from caselog.workers.recording.recorder import Recorder
from caselog.workers.servers.locate import Services
from caselog.workers.servers.redis_client import make_redis
from caselog.workers.settings import Settings
from caselog.workers.telemetry.heartbeat import Doing, Heartbeat, read_beats
from caselog.workers.telemetry.removals import Removals

EVENTS = [created(f"RM-{number}") for number in range(8)]
SetPolicy = Callable[[str, dict[str, Any]], None]
ONLY_EVENTS = r"^caselog\.events$"
# A process takes long to start where the machine is busy.
RABBITMQ_TRIES_AGAIN_S = 180.0


class Site(Pipeline):
    """A pipeline on RabbitMQ, whose recorders run in threads of the test: they start at once."""

    def __init__(self, directory: Path, services: Services) -> None:
        super().__init__(directory, services.database_url, services.broker_url, services.redis_url)
        self.services = services
        self.client = make_redis(services)
        self.engine = make_engine(services.database_url, connections=2)
        self._running: list[tuple[Recorder, threading.Thread, Callable[[], None]]] = []

    def record(self) -> None:
        """Start a recorder; it consumes when this returns."""
        self.start_unready()
        eventually(lambda: self.queue().consumers == 1, "a recorder consumes")

    def start_unready(self) -> threading.Thread:
        recording = make_recording(Settings(), self.services)
        recorder = Recorder(
            self.broker_url,
            recording,
            batch_events=100,
            batch_age_s=0.05,
            heartbeat=Heartbeat(self.client, "recorder"),
            pauses=PauseWatch(recording.engine, Breaker(0.5, 1000), "test"),
            after_commit=lambda *_: None,
            on_removed=Removals(self.client).note,
        )
        thread = threading.Thread(target=recorder.run)
        thread.start()
        self._running.append((recorder, thread, recording.close))
        return thread

    def stop_recorders(self) -> None:
        for recorder, thread, close in self._running:
            recorder.stop()
            thread.join(DEADLINE_S)
            assert not thread.is_alive()
            close()
        self._running.clear()

    def drop_recorders(self) -> None:
        """Have the broker tell each consumer that it is none any more, as a node does that goes down."""
        with connect(self.broker_url) as connection:
            open_channel(connection).queue_delete(EVENTS_QUEUE.name)

    def pause(self) -> None:
        with self.engine.begin() as db:
            pausing.pause(db, who="a test", why="a test")
        eventually(lambda: self.queue().consumers == 0, "recorders are paused")

    def resume(self) -> None:
        with self.engine.begin() as db:
            pausing.resume(db, who="a test", why=None)

    def ready(self) -> dict[str, int]:
        with connect(self.broker_url) as connection:
            names = (EVENTS_QUEUE.name, REMOVED, HELD)
            return {name: queue_status(connection, name, with_age=False).ready for name in names}

    def check(self, name: str = "removals") -> Check:
        return Health(self.engine, self.broker_url, self.client, Settings()).check([name])[name]

    def all_recorded(self) -> None:
        self.recorded(len(EVENTS))
        assert self.one("select count(*) from dead_letter") == 0
        eventually(lambda: not any(self.ready().values()), "nothing waits any more")

    def close(self) -> None:
        self.stop_recorders()
        super().close()
        self.engine.dispose()
        self.client.close()


@pytest.fixture
def site(tmp_path: Path, database_url: str, amqp_url: str, redis_url: str) -> Iterator[Site]:
    one = Site(tmp_path, Services(database_url, amqp_url, redis_url))
    yield one
    one.close()


@pytest.mark.parametrize(
    ("policy", "removed", "key"),
    [
        ({"message-ttl": 200}, 8, "message-ttl"),
        ({"max-length": 3, "overflow": "drop-head"}, 5, "max-length"),
        ({"max-length-bytes": 700, "overflow": "drop-head"}, None, "max-length"),
    ],
    ids=["ttl", "length", "bytes"],
)
def test_what_a_policy_removes_is_recorded_all_the_same_and_said(
    site: Site, set_policy: SetPolicy, *, policy: dict[str, int | str], removed: int | None, key: str
) -> None:
    set_policy(ONLY_EVENTS, policy)
    site.record()
    site.pause()
    assert site.check().status
    site.publish(EVENTS, batch_events=1)
    eventually(lambda: site.ready()[REMOVED] >= (removed or 1), "the policy has removed")
    came_back = site.ready()[REMOVED]
    waiting = site.check()
    assert not waiting.status
    assert f"{came_back} messages wait in caselog.events.removed" in waiting.value
    with queue_view(site.services, site.client) as view:
        assert {line.queue: line.ready for line in view.lines()}[REMOVED] == came_back
    with pytest.raises(NotRecorded):
        wait_until_recorded(site.services, site.client, 0.3)
    with capture_logs() as lines:
        site.resume()
        site.all_recorded()
        eventually(lambda: site.check().value.startswith(f"{came_back} messages came back"), "it is counted")
    assert [line for line in lines if "policy" in line["event"] and line["log_level"] == "warning"]
    found = site.check()
    assert not found.status
    assert f"take {key} out" in str(found.hint)


def test_what_runs_into_the_limit_of_deliveries_is_recorded_all_the_same(site: Site, set_policy: SetPolicy) -> None:
    """By the process `caselog worker recorder`, whose count is in Redis for health and metrics."""
    set_policy(ONLY_EVENTS, {"delivery-limit": 2})
    site.publish(EVENTS[:1], batch_events=1)
    with connect(site.broker_url) as connection:
        channel = open_channel(connection)

        def give_back() -> bool:
            message = channel.basic_get(EVENTS_QUEUE.name)
            if message is not None:
                channel.basic_reject(message.delivery_tag, requeue=True)
            return message is None

        eventually(give_back, "it is not delivered any more")
    site.start("recorder")
    site.recorded(1, DEADLINE_S)
    eventually(lambda: "take delivery-limit out" in str(site.check().hint), "the check names the policy's key")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_policy_on_all_queues_removes_nothing_for_good_however_long_no_recorder_runs(
    site: Site, set_policy: SetPolicy
) -> None:
    """What it removes from the second queue, too, RabbitMQ keeps inside, and tries again every three minutes."""
    set_policy(".*", {"message-ttl": 200})
    site.record()
    site.stop_recorders()
    site.publish(EVENTS, batch_events=1)
    seen: list[dict[str, int]] = []
    eventually(lambda: (seen.append(site.ready()), seen[-1][REMOVED])[1], "they are in the second queue")  # type: ignore[func-returns-value]
    eventually(lambda: not any(site.ready().values()), "they are in none")
    site.record()
    site.recorded(len(EVENTS), RABBITMQ_TRIES_AGAIN_S + 60)
    site.all_recorded()
    assert not site.check().status


def test_a_full_queue_that_refuses_is_named_to_the_publisher(site: Site, set_policy: SetPolicy) -> None:
    """Without a policy's own `overflow` nothing is removed: the publisher gets the event back, and reads why."""
    set_policy(ONLY_EVENTS, {"max-length": 1})
    publisher = Publisher(site.broker_url, batch_events=1, retry_for_s=0.5)
    for event in EVENTS:
        publisher.publish(event)
    with pytest.raises(PublishError, match=r"policy limits the length") as given_up:
        publisher.close()
    site.record()
    site.recorded(len(EVENTS) - len(given_up.value.unsent))


@pytest.mark.usefixtures("former_queue")
def test_a_queue_made_by_an_earlier_version_is_used_and_the_check_says_to_move_it(site: Site) -> None:
    site.record()
    site.publish(EVENTS)
    site.recorded(len(EVENTS))
    check = site.check()
    assert not check.status
    assert "earlier version" in check.value
    assert "caselog move-queue" in str(check.hint)
    assert site.check("broker").status
    site.pause()
    assert move_queue(site.broker_url, 20).messages == 0
    site.resume()
    assert site.check().status
    site.publish([created("RM-9")])
    site.recorded(len(EVENTS) + 1)


def test_a_classic_queue_is_red_at_once_and_the_recorder_says_what_it_is(site: Site) -> None:
    with connect(site.broker_url) as connection:
        open_channel(connection).queue_declare(EVENTS_QUEUE.name, durable=True, auto_delete=False)
    check = site.check("broker")
    assert not check.status
    assert "classic queue" in check.value
    assert "caselog move-queue" in check.value
    with capture_logs() as lines:
        recorder = site.start_unready()
        eventually(lambda: [line for line in lines if "classic queue" in line.get("error", "")], "it is in the log")
        eventually(lambda: [line for line in lines if line.get("delay_s", 0) > 0.3], "it waits longer each time")
    assert not [line for line in lines if "away" in line["event"]]
    [beat] = read_beats(site.client)
    assert beat.doing is Doing.REFUSED
    assert "classic queue" in str(beat.why)
    assert recorder.is_alive()


def test_the_delay_begins_anew_once_a_recorder_has_worked(site: Site) -> None:
    """Dropped again and again in its life, it is back at once each time."""
    site.record()
    with capture_logs() as lines:
        for dropped in range(1, 5):
            site.publish([created(f"RM-{dropped}")])
            site.recorded(dropped)
            site.drop_recorders()
            eventually(lambda dropped=dropped: len([1 for line in lines if "delay_s" in line]) >= dropped, "it is told")  # type: ignore[misc]
            eventually(lambda: site.queue().consumers == 1, "it is back")
    assert [line["delay_s"] for line in lines if "delay_s" in line] == [0.2] * 4
