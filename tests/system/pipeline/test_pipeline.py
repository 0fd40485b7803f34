"""The whole road as its users walk it: the command line in front, worker processes behind, the database in the end."""

from __future__ import annotations

import json
from pathlib import Path

from support.oracle.reference import fold_all
from support.oracle.stored import assert_same, dump, what_stands
from support.processes.pipeline import Pipeline


def test_what_is_published_twice_leaves_the_same_database_as_once_and_that_is_what_the_rules_say(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    """Every column of every table is the same, `modified_at` and `recorded_at` included."""
    path = tmp_path / "journeys.jsonl"
    path.write_bytes(pipeline.run("simulate", "--cases", "300", "--seed", "7").stdout)
    events = [json.loads(line) for line in path.read_bytes().splitlines()]
    pipeline.start("recorder")
    pipeline.start("tasks")
    dumps = []
    for _ in range(2):
        published = pipeline.run("publish", str(path))
        assert (published.returncode, published.stderr) == (0, f"published {len(events):,} events\n".encode())
        waited = pipeline.run("wait")
        assert (waited.returncode, waited.stderr) == (0, b"")
        dumps.append(dump(pipeline.database_url))
    once, twice = dumps
    for table, rows in once.items():
        assert twice[table] == rows, table
    assert once["dead_letter"] == once["parked"] == once["report_outbox"] == []
    assert len(once["log"]) == len(events) > 3000
    expected = fold_all(events)
    assert not expected.refused
    assert_same(what_stands(pipeline.database_url), expected)
