"""What a command prints is its result alone: its log lines go to stderr."""

from __future__ import annotations

import json
from pathlib import Path

from support.oracle.stored import body
from support.processes.installed import asked, installed
from support.processes.pipeline import Pipeline, event

from caselog.events.model.message import decode


def test_a_log_line_of_a_command_is_not_in_its_json(tmp_path: Path, database_url: str, redis_url: str) -> None:
    with installed(database_url, redis_url) as one:
        one.record("AB")
        assert one.recording is not None
        one.recording.record([decode(body(event("case", "NOSUCH", "AB")))])
    asked(database_url, "delete from recorded returning run")
    pipeline = Pipeline(tmp_path, database_url, redis_url, redis_url)
    try:
        found = pipeline.run("continuity", "--json")
        assert json.loads(found.stdout)["again"] == 3  # the dead letter, too
        assert b"are there again" in found.stderr
        done = pipeline.run("dead", "requeue", "--all", "--yes", "--json", CASELOG_REDIS_URL="redis://127.0.0.1:1/0")
        json.loads(done.stdout)
        assert b"Redis is not told" in done.stderr
    finally:
        pipeline.close()
