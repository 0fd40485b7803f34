"""What a batch needs is looked up by index, also in a database that has no statistics yet."""

from __future__ import annotations

from typing import Final

import psycopg
import pytest
from support.processes.pipeline import Pipeline, eventually

from caselog.workers.producers.simulation import simulate

GROWING: Final = ["assignment", "callback", "case", "complaint", "log", "timer"]


# Of an actor's log, a late event needs what follows until a timer ends: some 15 entries of the index here.
ENTRIES_AN_EVENT: Final = 40


@pytest.mark.parametrize("order", ["time", "subject"])
def test_neither_the_recorder_nor_the_aggregator_ever_reads_a_whole_table(redis_pipeline: Pipeline, order: str) -> None:
    """PostgreSQL guesses which part of a table a batch asks for, and where it guesses much, it reads all of it.

    By subject, case after case, nearly every event comes late. Where it guesses little, it reads all of an actor's log.
    """
    events = sorted(simulate(400, 7), key=lambda event: (event.get(order) or "", event["time"]))
    redis_pipeline.publish(events)
    workers = [redis_pipeline.start(role, CASELOG_BATCH_EVENTS="500") for role in ("recorder", "tasks")]
    taken = "select last_value from log_id_2_seq"
    eventually(lambda: redis_pipeline.one(taken) >= len(events), f"{len(events):,} ids are taken")
    eventually(redis_pipeline.queue_is_empty, "the queue is empty")
    eventually(lambda: redis_pipeline.one("select count(*) from report_outbox") == 0, "the outbox is empty")
    assert [worker.stop() for worker in workers] == [0, 0]  # what they counted is seen by then
    with psycopg.connect(redis_pipeline.database_url) as db:
        read: dict[str, int] = dict(
            db.execute("select relname::text, seq_tup_read from pg_stat_user_tables").fetchall()
        )
        entries = redis_pipeline.one(
            "select idx_tup_read from pg_stat_user_indexes where indexrelname = 'log_actor_occurred_at_idx'"
        )
    assert {name: read[name] for name in GROWING} == dict.fromkeys(GROWING, 0)
    assert entries < ENTRIES_AN_EVENT * len(events)
