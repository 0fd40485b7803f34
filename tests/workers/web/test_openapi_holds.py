"""What /openapi.json says holds: Schemathesis asks everything it describes, rightly and wrongly, of a pipeline."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.processes.pipeline import Pipeline, eventually
from support.processes.served import Served, bearer

TESTS = Path(__file__).parents[2]
BOTH = "both-both-both-both-both"


@pytest.fixture(params=["open"])
def served(redis_pipeline: Pipeline, request: pytest.FixtureRequest) -> Served:
    """All green, so that whatever is 500 or more is a fault. Reading is open, or takes a token, as the test says."""
    redis_pipeline.start("recorder")
    redis_pipeline.start("tasks")
    served = Served(
        redis_pipeline,
        CASELOG_READING=request.param,
        CASELOG_API_TOKENS=f"both:operator+personal+publisher:{BOTH}",
        CASELOG_COMMIT_ID="abc",
        CASELOG_BUILD_DATE="2026-11-23",
        CASELOG_HEALTH_DEAD_LETTER_S="0",  # there will be many
        CASELOG_HEALTH_QUEUE_AGE_S="3600",  # while it is paused, they wait
    )
    eventually(lambda: served.get("/healthcheck.json").is_success, "all is well")
    return served


def document(served: Served, directory: Path) -> Path:
    """The description, asked for by somebody who may read it."""
    found = directory / "openapi.json"
    found.write_bytes(served.get("/openapi.json", headers=bearer(BOTH)).content)
    return found


def schemathesis(served: Served, directory: Path, *arguments: str) -> None:
    """Run it, with every check it has; fails with what it says."""
    ended = subprocess.run(
        [
            Path(sys.executable).with_name("schemathesis"),
            *("--config-file", TESTS / "support" / "processes" / "schemathesis.toml", "--no-color"),
            *("run", str(document(served, directory)), "--url", served.url),
            *("--continue-on-failure", "--no-shrink", *arguments),
        ],
        env={
            **os.environ,
            "SCHEMATHESIS_HOOKS": "support.processes.schemathesis_hooks",
            "PYTHONPATH": f"{TESTS}:{TESTS.parent}",
        },
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("served", ["token"], indirect=True)
def test_whoever_has_a_token_gets_what_the_description_says(
    redis_pipeline: Pipeline, served: Served, tmp_path: Path
) -> None:
    """No failure, no answer that is not described, nothing wrong accepted and nothing right refused.

    And what was accepted is recorded or set aside in the end.
    """
    schemathesis(served, tmp_path, "-H", f"Authorization: Bearer {BOTH}", "--max-examples", "5")
    assert "a page failed" not in served.worker.said()
    redis_pipeline.run("resume")
    eventually(redis_pipeline.queue_is_empty, "what was accepted is recorded")
    assert redis_pipeline.one("select count(*) from dead_letter") > 0


@pytest.mark.timeout(600)
def test_without_a_token_only_reading_is_answered(redis_pipeline: Pipeline, served: Served, tmp_path: Path) -> None:
    schemathesis(served, tmp_path, "--max-examples", "2", "--phases", "fuzzing")
    assert redis_pipeline.one("select (select count(*) from audit) + (select count(*) from dead_letter)") == 0
    assert "a page failed" not in served.worker.said()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("served", ["token"], indirect=True)
def test_without_a_token_a_closed_installation_answers_as_described(
    redis_pipeline: Pipeline, served: Served, tmp_path: Path
) -> None:
    schemathesis(served, tmp_path, "--max-examples", "1", "--phases", "fuzzing")
    assert redis_pipeline.one("select (select count(*) from audit) + (select count(*) from dead_letter)") == 0
    assert "a page failed" not in served.worker.said()


@pytest.mark.slow
@pytest.mark.timeout(1600)
def test_hundreds_of_questions_for_each_operation_change_nothing_of_that(served: Served, tmp_path: Path) -> None:
    schemathesis(served, tmp_path, "-H", f"Authorization: Bearer {BOTH}", "--max-examples", "200")
    assert "a page failed" not in served.worker.said()
