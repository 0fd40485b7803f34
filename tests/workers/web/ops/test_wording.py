"""What the ops page says of the queue and of parked events."""

from __future__ import annotations

import pytest

from caselog.schema.recording.parking import ParkedCount
from caselog.workers.health.queue_rates import QueueLine
from caselog.workers.web.ops.wording import depth, parked_events


def queue(ready: int, unacked: int | None = 0, oldest_age_s: float | None = None) -> QueueLine:
    return QueueLine(
        queue="caselog.events",
        ready=ready,
        unacked=unacked,
        oldest_age_s=oldest_age_s,
        in_per_s=0,
        out_per_s=0,
        consumers=1,
    )


@pytest.mark.parametrize(
    ("line", "parked", "said"),
    [
        (None, None, "not known"),
        (queue(0), None, "the queue is empty"),
        (queue(0), ParkedCount(0, 0, None), "the queue is empty"),
        (queue(0), ParkedCount(1, 0, 5), "the queue is empty; 1 event is parked beside it"),
        (queue(0), ParkedCount(1_000, 234, 5), "the queue is empty; 1,234 events are parked beside it"),
        (queue(3, oldest_age_s=41), ParkedCount(0, 2, 5), "the oldest 41 s old; 2 events are parked beside it"),
        (queue(0, oldest_age_s=0), None, "the oldest 0 ms old"),
        (queue(3), None, "how old is not known"),
        (queue(0, unacked=7), None, "how old is not known"),
        (queue(0, unacked=None), None, "the queue is empty"),
        (None, ParkedCount(1, 0, 5), "not known; 1 event is parked beside it"),
    ],
)
def test_an_empty_queue_is_said_of_the_queue_alone(
    line: QueueLine | None, parked: ParkedCount | None, said: str
) -> None:
    """What is parked waits, too, but elsewhere: no words deny it."""
    assert depth(line, parked) == said


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (ParkedCount(1, 0, 41), "1 event is parked until its case is created; the oldest has been parked for 41 s."),
        (ParkedCount(3, 0, None), "3 events are parked until their case is created."),
        (
            ParkedCount(0, 1, 5),
            "1 event is tried again now that its case is there; the oldest has been parked for 5.0 s.",
        ),
        (
            ParkedCount(2, 1_000, 7200),
            (
                "2 events are parked until their case is created; "
                "1,000 events are tried again now that their case is there; the oldest has been parked for 2 h."
            ),
        ),
    ],
)
def test_parked_events_are_said_with_what_they_wait_for(count: ParkedCount, said: str) -> None:
    assert parked_events(count) == said
