"""Hostile names and parameters on every surface: in a page, a line, a cell and a statement they are text."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import quote

import pytest
from support.oracle.stored import count, dead_letters, dump
from support.processes.patience import DEADLINE_S
from support.processes.pipeline import Pipeline, created, event, eventually
from support.processes.served import ANNA, Served, bearer

WORDS = [
    "'; drop table log; --",
    '"; delete from "case"; --',
    "\\'); select pg_sleep(60); --",
    "%s %(id)s :id {id} $1",
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "javascript:alert(1)//",
    "</title></svg><svg onload=alert(1)>",
    '\n{"event": "forged", "level": "info"}',
    "\r\nset-cookie: forged=1",
    "\x1b[2J\x1b]0;forged\x07",
    "\u202egnitirw\u2028\u2029\x85",
    "{{ 7 * 7 }}{% raw %}",
    "=HYPERLINK(1)",
    "x" * 100,
]
PAGE = {"accept": "text/html"}
ORDERS = re.compile(r"[\x1b\x07\x9b\u202e]")


class Elements(HTMLParser):
    """The elements of a page, as a browser finds them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def is_ours(tag: str, attributes: dict[str, str | None]) -> bool:
    """Nothing that runs but our own file, no handler, and no link that is a program."""
    links = [attributes.get(name) or "" for name in ("href", "src", "action")]
    return (
        tag not in {"img", "iframe", "object", "embed", "style", "base"}
        and (tag != "script" or links[1].endswith("static/ops.js"))
        and not any(name.startswith("on") for name in attributes)
        and not any(re.match(r"\w+:|//", link) for link in links)
    )


def hostile_events() -> list[dict[str, object]]:
    """For each word an event that is recorded and one that is set aside, with the word wherever one may stand."""
    recorded = [
        created(
            word,
            id=word,
            source=word,
            data={
                "actor": {"id": word, "role": "operator", "provider": word},
                "notes": word,
                "context": {"category": word, "organisation": word, word: word},
            },
        )
        for word in WORDS
    ]
    unknown = [event(word, word, word, id=f"{word}/", source=word) for word in WORDS]
    return [*recorded, *unknown]


@pytest.mark.timeout(400)
def test_hostile_words_are_text_wherever_they_come_out(redis_pipeline: Pipeline) -> None:
    """In pages, also in attributes; in log lines, which stay JSON, one a line; and in headers."""
    served = Served(redis_pipeline)
    recorder = redis_pipeline.start("recorder", CASELOG_BREAKER_COUNT="0")
    redis_pipeline.publish(hostile_events())
    redis_pipeline.recorded(len(WORDS))
    eventually(lambda: count(redis_pipeline.database_url, "dead_letter") == len(WORDS), "the others are set aside")
    redis_pipeline.drain_reports()
    faults = {letter["fault"] for letter in dead_letters(redis_pipeline.database_url)}
    days = "from=2026-03-01&to=2026-03-31"
    paths = [
        "/",
        "/now",
        "/audit",
        *(f"/dead/requeue?fault={quote(fault)}" for fault in sorted(faults)[:3]),
        *(f"/reports/{name}?{days}" for name in ("case_volume", "outcomes", "operator_volume", "contacts_per_case")),
        *(f"/reports/case_volume?{days}&where={quote('category=' + word)}" for word in WORDS),
        *(f"/reports?report={quote(word)}" for word in WORDS),
        *(f"/reports/{quote(word, safe='')}" for word in WORDS),
    ]
    for path in paths:
        answer = served.get(path, headers=PAGE)
        assert answer.status_code in {200, 400, 404}, (path, answer.text)
        if answer.headers["content-type"] == "application/json":  # a path that is nowhere, whoever asks
            assert answer.json() == {"status": 404, "detail": "Not Found"}
            continue
        elements = Elements(answer.text).found
        assert elements
        assert [element for element in elements if not is_ours(*element)] == [], path
        assert ORDERS.search("".join(re.split("<[^>]*>", answer.text))) is None, path
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "set-cookie" not in answer.headers
    said = recorder.said() + served.worker.said()
    assert "\x1b" not in said
    assert "forged" not in [json.loads(line)["event"] for line in said.splitlines() if line]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_no_parameter_is_a_statement(redis_pipeline: Pipeline) -> None:
    """Of HTTP: whatever it says, nothing in the database changes and nothing fails."""
    served = Served(redis_pipeline)
    redis_pipeline.start("recorder")
    redis_pipeline.publish([created("AB-1")])
    redis_pipeline.recorded(1)
    redis_pipeline.drain_reports()
    before = dump(redis_pipeline.database_url)
    parameters = {
        "/reports/outcomes": ["from", "to", "by", "now", "format", "where", "category", "key"],
        "/reports": ["report", "from", "where", "format"],
        "/audit": ["until"],
        "/dead/requeue": ["fault"],
        "/dead/discard": ["fault"],
    }
    for path, names in parameters.items():
        for name in names:
            for word in (*WORDS, "\0", "category=\0", *(f"category={word}" for word in WORDS[:4])):
                answer = served.get(f"{path}?{name}={quote(word)}", headers={"accept": "application/json"})
                assert answer.status_code in {200, 303, 400, 404}, (path, name, word)
    for word in (*WORDS, "\0"):
        form = {"fault": word, "mark": word, "why": word}
        assert served.post("/dead/discard", data=form, headers=bearer(ANNA)).status_code == 409
        assert served.post("/sign-in", data={"token": word}).status_code in {403, 429}
    assert dump(redis_pipeline.database_url) == before
    assert "a page failed" not in served.worker.said()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_argument_is_a_statement_a_traceback_or_an_order_to_the_terminal(redis_pipeline: Pipeline) -> None:
    redis_pipeline.start("recorder", CASELOG_BREAKER_COUNT="0")
    redis_pipeline.publish(hostile_events())
    redis_pipeline.recorded(len(WORDS))
    eventually(lambda: count(redis_pipeline.database_url, "dead_letter") == len(WORDS), "the others are set aside")
    redis_pipeline.drain_reports()
    before = dump(redis_pipeline.database_url)
    days = ("--from", "2026-03-01", "--to", "2026-03-31")
    commands = [
        ("dead", "list"),
        ("dead", "list", "--group"),
        ("dead", "show", "--all"),
        ("report", "case_volume", *days),
        ("report", "operator_volume", *days),
        *(("log", word) for word in WORDS[:12]),
        *(("explain", word) for word in WORDS[4:12]),
        *(("search", word) for word in (WORDS[0], WORDS[3], "\udcff", "x" * 100_000)),
        *(("report", "case_volume", *days, "--where", f"category={word}") for word in (WORDS[0], WORDS[10], "\udcff")),
        *(("dead", "list", option, WORDS[0]) for option in ("--key", "--code", "--case", "--reason", "--since")),
    ]
    for command in commands:
        ended = redis_pipeline.run(*command)
        said = (ended.stdout + ended.stderr).decode()
        assert ended.returncode in {0, 1, 2}, (command, said)
        assert "Traceback" not in said, command
        assert ORDERS.search(said) is None, command
    assert dump(redis_pipeline.database_url) == before


def test_at_a_terminal_a_log_line_moves_no_cursor_and_stays_one_line() -> None:
    """Whether the words are ours, of an event's name or of a library."""
    code = (
        "import logging; from caselog.workers.process.logs import configure_logs, get_logger; configure_logs('x');"
        r"word = 'a\x1b[2Jb\nforged\x9b\u202e'; get_logger().warning(word, source=word, many=[{'id': word}]);"
        "logging.getLogger('library').warning(word)"
    )
    terminal, end = os.openpty()
    subprocess.run([sys.executable, "-c", code], stderr=end, check=True, timeout=DEADLINE_S)
    os.close(end)
    said = b""
    try:
        while piece := os.read(terminal, 65536):
            said += piece
    except OSError:  # Linux tells the end of a terminal so
        pass
    os.close(terminal)
    lines = said.decode().splitlines()
    assert len(lines) == 2
    assert all("forged" in line for line in lines)
    assert b"\x1b[2J" not in said
    assert ORDERS.search(re.sub(r"\x1b\[\d+m", "", said.decode())) is None
