"""The command line as users and programs meet it: what it prints, how it fails, and that its status tells the truth.

One module, since what is read is read from the one database that `told` makes.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest
from redis import Redis
from support.oracle.proof import add_up_reports
from support.oracle.reference import fold_all
from support.oracle.stored import body, count
from support.processes.patience import DEADLINE_S
from support.processes.pipeline import ROOT, Pipeline, created, event, lines
from typer.main import get_command
from typer.testing import CliRunner

from caselog.events.folding.resolve import Rules
from caselog.events.model.message import decode
from caselog.events.model.registry import autodiscover, event_registry
from caselog.schema.sessions.connection import make_engine
from caselog.workers.cli import app
from caselog.workers.producers.simulation import simulate
from caselog.workers.recording.batch import Recording
from caselog.workers.roles.up import caselog_program
from caselog.workers.servers.embedded import EmbeddedUrls
from caselog.workers.servers.locate import redis_py_url

CATALOGUE = ROOT.parent / "shared" / "catalogue" / "codes.json"
RFC_3339_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
# Terminal escapes, markup of the table's own library, HTML, and characters that turn the line around.
HOSTILE = "\x1b]0;owned\x07\x1b[31m[red]x[/red]<script>alert(1)</script>\u202e\r"
HOSTILE_CASE = "AB\x1b[2J[bold]\u202e"
COLUMNS = {
    "cases": "reference category source organisation outcome_code outcome_code_id level requires_action_by "
    "requires_action_at callback_attempt provider provider_assigned_at provider_viewed provider_accepted "
    "provider_closed billable_time complaint_flag eligibility_state scope_state from_case search_field state "
    "created_at modified_at",
    "logs": "id source event_id key code type level case actor role timer_id notes context occurred_at recorded_at "
    "suppressed",
    "timers": "id actor started_at stopped_at cancelled case seconds",
    "dead": "id reason message source event_id key case received_at attempts raw",
}
MOMENTS = {
    "cases": ("requires_action_at", "provider_assigned_at", "provider_viewed", "provider_accepted", "provider_closed",
              "created_at", "modified_at"),
    "logs": ("occurred_at", "recorded_at"),
    "timers": ("started_at", "stopped_at"),
    "dead": ("received_at",),
}  # fmt: skip
JOURNEYS = list(simulate(40, 7))


@pytest.fixture(scope="module")
def told(servers: EmbeddedUrls, make_database: Callable[[str], str], template: str) -> Iterator[Pipeline]:
    """A database with journeys, a hostile case, dead letters and a parked event; the commands here only read it."""
    database_url = make_database(template)
    assert servers.redis_url is not None
    redis_url = servers.redis_url  # the fixture `redis_url` leaves database 0 alone
    engine = make_engine(database_url)
    autodiscover()
    recording = Recording(engine, event_registry, Rules(zone=ZoneInfo("Europe/London")))
    hostile = [
        created(HOSTILE_CASE, data={"context": {"category": HOSTILE, "organisation": HOSTILE}, "notes": HOSTILE}),
        event("accept_case", "SPOP", HOSTILE_CASE, data={"notes": HOSTILE}),
        event("accept_case", HOSTILE, HOSTILE_CASE),
        event("accept_case", "SPOP", "never-created"),
    ]
    for one in (*JOURNEYS, *hostile):
        recording.record([decode(body(one))])
    recording.record([decode(b"\x1b[2J no JSON [red] \xff")])
    engine.dispose()
    add_up_reports(database_url)
    with tempfile.TemporaryDirectory() as directory:
        yield Pipeline(Path(directory), database_url, redis_url, redis_url)
    name = database_url.partition("?")[0].rpartition("/")[2]
    with psycopg.connect(database_url.replace(f"/{name}?", "/postgres?", 1), autocommit=True) as db:
        db.execute(f"drop database {name} with (force)".encode())


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command and group of commands that there is."""
    for name, command in group.commands.items():
        yield (*path, name)
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))


def exported(told: Pipeline, what: str) -> list[dict[str, Any]]:
    done = told.run("export", what, "--format", "jsonl")
    assert (done.returncode, done.stderr) == (0, b"")
    return [json.loads(line) for line in done.stdout.splitlines()]


# Help


@pytest.mark.parametrize("path", list(commands(get_command(app))), ids=" ".join)
def test_every_command_has_help_with_an_example(path: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    command: Any = get_command(app)
    for name in path:
        command = command.commands[name]
    if not hasattr(command, "commands"):
        assert "Example: " in shown.output
        assert "caselog " + " ".join(path) in shown.output.split("Example: ")[1]


def test_the_commands_of_the_contract_are_there() -> None:
    wanted = "up worker migrate publish wait simulate codes case log export report queues settings ping pause resume"
    there = set(commands(get_command(app)))
    assert {(name,) for name in wanted.split(" ")} | {
        ("dead", name) for name in ("list", "show", "requeue", "discard")
    } <= there


def test_help_imports_nothing_that_is_slow() -> None:
    """What makes `caselog --help` slow is imports; so none of what only a command's work needs is imported."""
    code = (
        "import sys; sys.argv = ['caselog', '--help']\n"
        "from caselog.workers.cli import main\n"
        "try: main()\n"
        "finally: print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    slow = {"sqlalchemy", "alembic", "psycopg", "dramatiq", "kombu", "amqp", "redis", "litestar", "uvicorn", "pydantic"}
    assert slow.isdisjoint(done.stderr.split())
    assert "schema" not in done.stderr.split()


# Errors: one line on stderr, nothing on stdout, and a status that is not 0


@pytest.mark.parametrize(
    ("arguments", "settings", "said"),
    [
        (["case", "AB-404"], {}, r"there is no case 'AB-404'"),
        (["log", "AB-404"], {}, r"there is no case 'AB-404'"),
        (["report", "outcomse", "--from", "2026-01-01", "--to", "2026-01-02"], {}, r"Did you mean 'outcomes'\?"),
        (["report", "outcomes", "--from", "01.02.2026", "--to", "2026-01-02"], {}, r"--from: '01\.02\.2026' is no day"),
        (["report", "outcomes", "--from", "2026-02-30", "--to", "2026-03-02"], {}, r"--from: '2026-02-30' is no day"),
        (["report", "outcomes", "--from", "2026-01-01"], {}, r"--to: give a day"),
        (["report", "outcomes", "--from", "2026-01-02", "--to", "2026-01-01"], {}, r"2026-01-02, is later than"),
        (["export", "case"], {}, r"Did you mean 'cases'\?"),
        (["export", "cases", "--format", "xml"], {}, r"'xml' is not one of"),
        (["export", "cases", "--output", "/no/such/directory/file"], {}, r"/no/such/directory/file"),
        (["worker", "recorder", "--processes", "0"], {}, r"--processes"),
        (["worker", "recroder"], {}, r"'recroder' is not one of 'recorder'"),
        (["codes", "--role", "king"], {}, r"there is no role 'king': choose operator"),
        (["codes", "--key", "accept_caze"], {}, r"Did you mean 'accept_case'\?"),
        (["codes"], {"CASELOG_APPS": "no.such.app"}, r"CASELOG_APPS names 'no\.such\.app'"),
        (["dead", "show", "999999"], {}, r"there is no dead letter 999999"),
        (["dead", "show", "first"], {}, r"ID"),
        (["dead", "list", "--reason", "bad"], {}, r"there is no reason 'bad': choose malformed"),
        (["dead", "list", "--since", "yesterday"], {}, r"'yesterday' is no moment"),
        (["publish", "no-such-file"], {}, r"there is no file 'no-such-file'"),
        (["ping", "--timeout", "0.3"], {}, r"status"),
        (["settings"], {"CASELOG_HTTP_PORT": "99999"}, r"CASELOG_HTTP_PORT: "),
        (["queues"], {"CASELOG_TIME_ZONE": "Mars/Base"}, r"CASELOG_TIME_ZONE: "),
        (["cases"], {}, r"No such command 'cases'"),
        (["setting"], {}, r"Did you mean 'settings'\? See: "),
        (
            ["case", "AB-1"],
            {"CASELOG_DATABASE_URL": "postgresql://localhost:1/x"},
            r"PostgreSQL cannot be used: .*Connection refused.*Check CASELOG_DATABASE_URL",
        ),
        (
            ["queues"],
            {"CASELOG_BROKER_URL": "redis://localhost:1/0", "CASELOG_REDIS_URL": ""},
            r"Redis cannot be reached: .*Check CASELOG_BROKER_URL",
        ),
        (
            ["queues"],
            {"CASELOG_BROKER_URL": "amqp://localhost:1//"},
            r"the broker cannot be reached: .*Check CASELOG_BROKER_URL",
        ),
        *(
            (
                ["worker", role],
                {"CASELOG_DATABASE_URL": f"postgresql://anna:secret@{hosts}/x?target_session_attrs={wanted}"},
                rf"CASELOG_DATABASE_URL: target_session_attrs={wanted} leads to a server that takes no writes",
            )
            for role, hosts, wanted in [
                ("recorder", "db1,db2", "prefer-standby"),
                ("tasks", "db1", "standby"),
                ("recorder", "db1,db2", "read-only"),
            ]
        ),
        (["case", "AB-1"], {"CASELOG_DATABASE_URL": ""}, r"CASELOG_DATABASE_URL is not set.*caselog up"),
        (["publish", "-"], {"CASELOG_BROKER_URL": ""}, r"CASELOG_BROKER_URL is not set.*caselog up"),
        (
            ["settings", "--broker-url"],
            {"CASELOG_BROKER_URL": "amqp://a:hunter2@localhost//"},
            r"CASELOG_BROKER_URL holds a password, which is not shown",
        ),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_one_line_on_stderr_and_a_status(
    told: Pipeline, arguments: list[str], settings: dict[str, Any], said: str
) -> None:
    done = told.run(*arguments, **settings)
    line = done.stderr.decode()
    assert (done.returncode in (1, 2), done.stdout) == (True, b""), line
    assert re.fullmatch(rf"caselog: .*{said}.*\n", line)


def test_a_database_that_was_never_migrated_is_said_and_migrate_mends_it(
    tmp_path: Path, empty_database_url: str
) -> None:
    """Neither needs a broker."""
    pipeline = Pipeline(tmp_path, empty_database_url, "", "")
    for arguments in (["export", "cases"], ["report", "outcomes", "--from", "2026-01-01", "--to", "2026-01-02"]):
        done = pipeline.run(*arguments)
        assert (done.returncode, done.stdout) == (1, b"")
        assert re.fullmatch(
            rb"caselog: the database has no tables yet, and this caselog needs revision \S+: run caselog migrate\n",
            done.stderr,
        )
    first, second = pipeline.run("migrate"), pipeline.run("migrate")
    assert (first.returncode, second.returncode) == (0, 0)
    assert re.fullmatch(rb"migrated from None to \S+\n", first.stdout)
    assert re.fullmatch(rb"at revision \S+ already\n", second.stdout)
    done = pipeline.run("export", "cases")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


# Publishing


@pytest.mark.parametrize("through", ["file", "stdin"])
def test_publish_names_bad_lines_by_number_and_publishes_the_rest(
    redis_pipeline: Pipeline, tmp_path: Path, through: str
) -> None:
    good = [event("accept_case", "SPOP", f"AB-{number}") for number in range(5)]
    # Whether an event is registered is the recorder's business.
    strange = event("not_registered_here", None, "AB-9")
    content = b"\n".join(
        [
            body(good[0]),
            b"",
            b"no JSON",
            b"   ",
            body(good[1], good[2]),
            b"[" + body(good[3]) + b', {"id": 1}]',
            body({**good[0], "time": "soon"}) + b"\r",
            body(strange),
            body(good[4]),  # without a line feed at its end
        ]
    )
    path = tmp_path / "events.jsonl"
    path.write_bytes(content)
    done = (
        redis_pipeline.run("publish", str(path))
        if through == "file"
        else redis_pipeline.run("publish", "-", stdin=content)
    )
    said = done.stderr.decode().splitlines()
    assert (done.returncode, done.stdout) == (1, b"")
    assert [line.partition(":")[0] for line in said[:-1]] == ["line 3", "line 6", "line 7"]
    assert said[-1] == "published 6 events, left out 3"
    assert {one["id"] for one in queued(redis_pipeline)} == {one["id"] for one in (*good, strange)}


def test_publish_of_nothing_but_good_lines_is_a_success(redis_pipeline: Pipeline) -> None:
    done = redis_pipeline.run("publish", "-", stdin=lines(JOURNEYS))
    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr == f"published {len(JOURNEYS):,} events\n".encode()
    assert [one["id"] for one in queued(redis_pipeline)] == [one["id"] for one in JOURNEYS]
    done = redis_pipeline.run("publish", "-", stdin=b"")
    assert (done.returncode, done.stderr) == (0, b"published 0 events\n")


def test_what_is_said_of_each_event_that_is_left_out_is_all_that_is_wrong_with_it(redis_pipeline: Pipeline) -> None:
    """A line ends at a line feed and nowhere else; an empty batch is none that is left out."""
    good = {**created("PL-1"), "data": {"code": "CASE_CREATED", "notes": "a\u2028b\u2029c\x85d"}}
    nobodys = {name: value for name, value in created("PL-2").items() if name != "subject"}
    wrong = {**nobodys, "time": "soon", "data": {"acter": {"id": "a"}, "code": 5}}
    content = b"\n".join([
        json.dumps(good, ensure_ascii=False).encode(),
        b" [ ] ",
        body(nobodys),
        b"[" + body(wrong) + b"]",
        b"[" + body(created("PL-3")) + b",",
        body({**created("PL-4"), "data": {"code": "CASE_CREATED", "note": "x"}}),
    ])  # fmt: skip
    done = redis_pipeline.run("publish", "-", stdin=content)
    assert done.returncode == 1
    *said, last = done.stderr.decode().splitlines()
    assert last == "published 1 event, left out 4"
    assert [line.partition(":")[0] for line in said] == ["line 3", "line 4", "line 5", "line 6"]
    assert said[0] == "line 3: subject is missing: an event 'case' is about a case, send its reference."
    for fault in ("subject is missing", "time must be", "data.code must be", "did you mean 'actor'?"):
        assert fault in said[1]
    assert "no complete JSON array" in said[2]
    assert "did you mean 'notes'?" in said[3]
    assert queued(redis_pipeline) == [good]


def test_the_readmes_example_publishes_as_it_is_written(redis_pipeline: Pipeline) -> None:
    example = re.search(
        r"```python\n(import os\nfrom caselog.events import Publisher.*?)```",
        (ROOT / "README.md").read_text(),
        re.DOTALL,
    )
    assert example is not None
    url = redis_pipeline.run("settings", "--broker-url").stdout.decode().strip()
    subprocess.run(
        [sys.executable, "-c", example[1]],
        env=redis_pipeline.environment(CASELOG_BROKER_URL=url),
        cwd=ROOT,
        check=True,
        timeout=DEADLINE_S,
    )
    redis_pipeline.start("recorder")
    redis_pipeline.recorded(1)
    assert redis_pipeline.one('select reference from "case"') == "AB-1234-5678"
    redis_pipeline.drain_reports()


def test_publish_knows_which_events_of_the_apps_need_a_case(redis_pipeline: Pipeline, tmp_path: Path) -> None:
    """And where they cannot be imported, it leaves that to the recorder."""
    (tmp_path / "shelf").mkdir()
    code = "from caselog.events import BaseEvent, event_registry\nclass Shelve(BaseEvent):\n    key = 'shelve'\n"
    (tmp_path / "shelf" / "events.py").write_text(code + "event_registry.register(Shelve)\n")
    shelved = {**created("PL-1"), "type": "shelve", "subject": None}
    for apps, status in (("shelf", 1), ("no_such_app", 0)):
        done = redis_pipeline.run(
            "publish", "-", stdin=body(shelved), CASELOG_APPS=apps, PYTHONPATH=f"{tmp_path}:{ROOT}"
        )
        assert (done.returncode, b"subject is missing" in done.stderr) == (status, bool(status)), done.stderr
    assert len(queued(redis_pipeline)) == 1


def queued(pipeline: Pipeline) -> list[dict[str, Any]]:
    """What stands in the queue, as any Redis client can read it."""
    with Redis.from_url(redis_py_url(pipeline.broker_url)) as client:
        entries: Any = client.xrange("caselog.events")
    found: list[dict[str, Any]] = []
    for _, fields in entries:
        message = json.loads(fields[b"event"])
        found += message if isinstance(message, list) else [message]
    return found


def test_simulate_writes_the_same_bytes_for_the_same_seed_and_others_for_another() -> None:
    runs = [
        subprocess.run(
            [*caselog_program(), "simulate", "--cases", "20", "--seed", seed], capture_output=True, check=True
        ).stdout
        for seed in ("7", "7", "8")
    ]
    assert runs[0] == runs[1] != runs[2]
    assert [json.loads(line) for line in runs[0].splitlines()] == json.loads(json.dumps(list(simulate(20, 7))))


def test_an_app_lies_where_the_command_is_run_and_hides_nothing_that_is_installed(tmp_path: Path) -> None:
    (tmp_path / "shelf.py").write_text("")
    for name in ("holidays", "six", "typer"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('not the one that is installed')")
    done = subprocess.run(
        [*caselog_program(), "codes", "--json"],
        cwd=tmp_path,
        env={**os.environ, "CASELOG_APPS": "shelf"},
        capture_output=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")


# Reading


@pytest.mark.parametrize("what", list(COLUMNS))
def test_an_export_has_the_columns_of_the_contract_in_both_formats_and_all_rows(told: Pipeline, what: str) -> None:
    rows = exported(told, what)
    table = {"cases": "case", "logs": "log", "timers": "timer", "dead": "dead_letter"}[what]
    assert len(rows) == count(told.database_url, table) > 1
    for row in rows:
        assert list(row) == COLUMNS[what].split()
        for column in MOMENTS[what]:
            assert row[column] is None or RFC_3339_UTC.fullmatch(row[column])
    as_csv = told.run("export", what, "--format", "csv")
    read = list(csv.reader(io.StringIO(as_csv.stdout.decode(), newline="")))
    assert (as_csv.returncode, as_csv.stderr, read[0]) == (0, b"", COLUMNS[what].split())
    assert read[1:] == [[_cell(value) for value in row.values()] for row in rows]


def _cell(value: Any) -> str:
    """A JSON value as a cell of CSV."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False) if isinstance(value, dict) else str(value)


def test_exported_logs_cases_and_timers_say_what_the_rules_say(told: Pipeline) -> None:
    expected = fold_all(JOURNEYS)
    logs = {(row["source"], row["event_id"]): row for row in exported(told, "logs")}
    identities = {row["id"]: identity for identity, row in logs.items()}
    for identity, log in expected.logs.items():
        for column in ("key", "code", "type", "level", "case", "actor", "role", "notes", "context", "suppressed"):
            assert logs[identity][column] == log[column]
    cases = {row["reference"]: row for row in exported(told, "cases")}
    for reference, case in expected.cases.items():
        for column in ("outcome_code", "billable_time", "state", "provider", "category", "callback_attempt"):
            assert cases[reference][column] == case[column]
    timers = {identities[row["id"]]: row for row in exported(told, "timers")}
    for identity, timer in expected.timers.items():
        for column in ("actor", "case", "cancelled", "seconds"):
            assert timers[identity][column] == timer[column]


def test_an_export_into_a_file_is_that_on_stdout(told: Pipeline, tmp_path: Path) -> None:
    path = tmp_path / "logs.csv"
    done = told.run("export", "logs", "--format", "csv", "--output", str(path))
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert path.read_bytes() == told.run("export", "logs", "--format", "csv").stdout


def test_a_report_says_the_same_in_every_format_and_its_table_has_the_sum(told: Pipeline) -> None:
    expected = fold_all(JOURNEYS).outcomes
    days = sorted(row[0] for row in expected)
    span = ("--from", days[0].isoformat(), "--to", days[-1].isoformat())
    as_lines = told.run("report", "outcomes", *span, "--format", "jsonl")
    rows = [json.loads(line) for line in as_lines.stdout.splitlines()]
    assert {(*list(row.values())[:-1],): row["outcomes"] for row in rows} == {
        (row[0].isoformat(), *row[1:]): many for row, many in expected.items()
    }
    as_csv = told.run("report", "outcomes", *span, "--format", "csv").stdout.decode()
    assert [list(row.values()) for row in csv.DictReader(io.StringIO(as_csv, newline=""))] == [
        [_cell(value) for value in row.values()] for row in rows
    ]
    table = told.run("report", "outcomes", *span).stdout.decode().splitlines()
    assert re.search(rf"total\D+{sum(expected.values())}\b", table[-2])
    one_day = told.run("report", "outcomes", "--from", span[1], "--to", span[1], "--format", "jsonl")
    assert one_day.stdout.splitlines() == [line for line in as_lines.stdout.splitlines() if span[1].encode() in line]


def test_the_reports_are_listed(told: Pipeline) -> None:
    done = told.run("report", "--list")
    assert done.returncode == 0
    assert b"outcomes" in done.stdout


def test_a_reader_that_leaves_early_makes_no_noise(told: Pipeline) -> None:
    """`caselog export logs | head -1`."""
    with subprocess.Popen(
        [*caselog_program(), "export", "logs"],
        env=told.environment(),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(DEADLINE_S) != 0


def test_what_a_sender_wrote_is_shown_harmlessly(told: Pipeline) -> None:
    """No control character reaches the terminal, and nothing is read as markup."""
    letters = [row["id"] for row in exported(told, "dead")]
    shown = [
        told.run("case", HOSTILE_CASE),
        told.run("log", HOSTILE_CASE),
        told.run("dead", "list"),
        told.run("dead", "list", "--group"),
        told.run("dead", "show", "--reveal", *map(str, letters)),
        *(told.run("dead", "show", str(letter)) for letter in letters),
        told.run("report", "outcomes", "--from", "2026-03-01", "--to", "2026-03-03"),
    ]
    for done in shown:
        text = done.stdout.decode()
        assert (done.returncode, done.stderr) == (0, b"")
        assert all(char.isprintable() or char == "\n" for char in text)
    assert "[red]x[/red]<script>" in shown[0].stdout.decode()
    assert "[red]x[/red]<script>" in shown[1].stdout.decode()


def test_what_cannot_be_shown_is_refused_in_a_line_without_control_characters(told: Pipeline) -> None:
    done = told.run("case", "AB\x1b[2J")
    assert done.returncode == 1
    assert re.fullmatch(r"caselog: [^\x1b]*\n", done.stderr.decode())


def test_dead_letters_are_listed_by_every_filter_and_shown_whole(told: Pipeline) -> None:
    letters = {row["reason"]: row for row in exported(told, "dead")}
    assert letters.keys() == {"malformed", "unknown_code"}
    for filters, found in (
        (["--reason", "unknown_code"], ["unknown_code"]),
        (["--key", "accept_case"], ["unknown_code"]),
        (["--case", HOSTILE_CASE], ["unknown_code"]),
        (["--since", "2999-01-01"], []),
        (["--since", "2000-01-01T00:00:00Z", "--limit", "1"], ["unknown_code"]),
        ([], ["unknown_code", "malformed"]),
    ):
        done = told.run("dead", "list", "--json", *filters)
        assert [json.loads(line)["reason"] for line in done.stdout.splitlines()] == found, filters
    letter = json.loads(told.run("dead", "show", "--json", "--reveal", str(letters["malformed"]["id"])).stdout)
    assert letter["raw"] == letters["malformed"]["raw"] == "\x1b[2J no JSON [red] \N{REPLACEMENT CHARACTER}"


def test_json_of_a_case_and_its_log_is_that_of_the_export(told: Pipeline) -> None:
    reference = next(one["subject"] for one in JOURNEYS if one.get("subject"))
    shown = json.loads(told.run("case", reference, "--json").stdout)
    (row,) = (row for row in exported(told, "cases") if row["reference"] == reference)
    assert shown.keys() == row.keys()
    assert {k: v for k, v in shown.items() if k not in MOMENTS["cases"]} == {
        k: v for k, v in row.items() if k not in MOMENTS["cases"]
    }
    entries = json.loads(told.run("log", reference, "--json").stdout)
    expected = [row["id"] for row in exported(told, "logs") if row["case"] == reference]
    assert sorted(entry["id"] for entry in entries) == expected
    assert entries[0]["code"] == "CASE_CREATED"


def test_queues_tell_what_waits_where(told: Pipeline) -> None:
    found = {row["queue"]: row for row in json.loads(told.run("queues", "--json").stdout)}
    assert {"caselog.events", "parked", "report_outbox"} <= found.keys()
    assert found["parked"]["ready"] == 1
    assert found["caselog.events"] == {
        "queue": "caselog.events",
        "ready": 0,
        "unacked": 0,
        "oldest_age_s": None,
        "in_per_s": found["caselog.events"]["in_per_s"],  # None on a Redis that does not count
        "out_per_s": found["caselog.events"]["out_per_s"],
        "consumers": 0,
        "paused": None,
    }
    assert {"caselog.tasks", "caselog.tasks.DQ", "caselog.tasks.XQ", "caselog.ping"} <= found.keys()
    heading = told.run("queues").stdout.decode()
    for column in ("queue", "ready", "unacked", "oldest_age_s", "in_per_s", "out_per_s", "consumers"):
        assert column in heading


def test_codes_are_the_catalogue_and_the_page_of_the_documentation() -> None:
    with tempfile.TemporaryDirectory() as directory:
        pipeline = Pipeline(Path(directory), "", "", "")
        found = json.loads(pipeline.run("codes", "--json").stdout)
        page = pipeline.run("codes", "--markdown").stdout.decode()
        chosen = json.loads(pipeline.run("codes", "--json", "--key", "reject_case", "--role", "web").stdout)
        managers, operators = (
            json.loads(pipeline.run("codes", "--json", "--role", role).stdout)
            for role in ("operator_manager", "operator")
        )
    assert page == (ROOT / "docs" / "codes.md").read_text(), "run: caselog codes --markdown > docs/codes.md"
    assert {code["code"] for code in chosen} == {
        code["code"] for code in found if code["key"] == "reject_case" and code["selectable_by"] == []
    }
    assert managers == operators  # a manager may what an operator may
    assert {"IRCB", "CALL_STARTED", "SPOP"} < {code["code"] for code in managers} < {code["code"] for code in found}
    if not CATALOGUE.exists():
        pytest.skip(f"no catalogue at {CATALOGUE}")
    by_name = {(code["key"], code["code"]): code for code in json.loads(CATALOGUE.read_text())}
    assert {(code["key"], code["code"]): code for code in found if code["key"] != "timer"} == by_name


def test_settings_mask_passwords(tmp_path: Path) -> None:
    pipeline = Pipeline(
        tmp_path, "postgresql://anna:s3cret@db/x", "amqp://anna:s3cret@mq//", "redis://:s3cret@r/0",
        CASELOG_API_TOKENS="anna:operator:s3cret-s3cret-s3cret",
    )  # fmt: skip
    for arguments in ([], ["--json"]):
        done = pipeline.run("settings", *arguments)
        assert (done.returncode, done.stderr) == (0, b"")
        assert b"s3cret" not in done.stdout
        assert b"anna:***@db" in done.stdout
