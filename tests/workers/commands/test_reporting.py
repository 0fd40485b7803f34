"""`caselog report`: every report in every format says the same, and what it says of itself is so."""

from __future__ import annotations

import csv
import io
import json
import pty
import re
import subprocess
from collections import Counter
from collections.abc import Callable
from datetime import date, datetime, timedelta
from os import close, read
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow.parquet as pq
import pytest
from rich.cells import cell_len
from support.oracle.proof import add_up_reports
from support.oracle.stored import body
from support.processes.patience import DEADLINE_S
from support.processes.pipeline import ROOT, Pipeline, created, event
from typer.testing import CliRunner, Result

from caselog.events.folding.resolve import Rules
from caselog.events.model.message import decode
from caselog.events.model.registry import autodiscover, event_registry
from caselog.schema.reports.catalogue import REPORTS
from caselog.schema.sessions.connection import make_engine
from caselog.workers.cli import app
from caselog.workers.commands import report as reporting
from caselog.workers.producers.simulation import simulate
from caselog.workers.recording.batch import Recording
from caselog.workers.roles.up import caselog_program
from caselog.workers.servers.embedded import EmbeddedUrls
from caselog.workers.terminal.line_plot import draw, filled

LONDON = ZoneInfo("Europe/London")
SPAN = ("--from", "2025-01-01", "--to", "2026-12-31")
NOW = ("--now", "2027-01-01T00:00:00Z")
FORMULA = '=HYPERLINK("http://x","y")'
FORMATS = ("jsonl", "csv", "parquet")


@pytest.fixture(scope="module")
def database(servers: EmbeddedUrls, make_database: Callable[[str], str], template: str) -> str:
    """Journeys and a case whose category is a formula; the tests here only read it."""
    assert servers.redis_url is not None
    url = make_database(template)
    engine = make_engine(url)
    autodiscover()
    recording = Recording(engine, event_registry, Rules(zone=LONDON))
    formula = created("AB-1", data={"context": {"category": FORMULA, "source": "WEB"}})
    outcome = event("suspend_case", "TERM", "AB-1")
    recording.record([decode(body(one)) for one in (*simulate(60, 7), formula, outcome)])
    engine.dispose()
    add_up_reports(url)
    return url


@pytest.fixture
def ask(database: str, tmp_path: Path) -> Callable[..., Result]:
    """Runs `caselog report` in this process."""

    def run(*arguments: str) -> Result:
        environment = {"CASELOG_DATABASE_URL": database, "CASELOG_DATA_DIR": str(tmp_path / "data"), "COLUMNS": "100"}
        return CliRunner().invoke(app, ["report", *arguments], env=environment)

    return run


def rows_of(done: Result) -> list[dict[str, Any]]:
    assert (done.exit_code, done.stderr) == (0, ""), done.output
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("name", list(REPORTS))
def test_a_report_says_the_same_as_json_csv_and_parquet(ask: Callable[..., Result], tmp_path: Path, name: str) -> None:
    paths = {form: tmp_path / form for form in FORMATS}
    for form, path in paths.items():
        done = ask(name, *SPAN, *NOW, "--format", form, "--output", str(path))
        assert (done.exit_code, done.output) == (0, "")
    rows = [json.loads(line) for line in paths["jsonl"].read_text().splitlines()]
    assert rows == rows_of(ask(name, *SPAN, *NOW, "--json"))
    names = [column.name for column in REPORTS[name].columns]
    table = pq.read_table(paths["parquet"])
    assert table.column_names == names
    assert [list(row.values()) for row in rows] == [
        [_plain(row[column.name], column.kind) for column in REPORTS[name].columns] for row in table.to_pylist()
    ]
    header, *cells = list(csv.reader(io.StringIO(paths["csv"].read_bytes().decode(), newline="")))
    assert header == names
    assert cells == [[_cell(value) for value in row.values()] for row in rows]
    assert rows


def _plain(value: Any, kind: str) -> Any:
    if value is None:
        return None
    if kind == "day":
        return value.isoformat()
    return value.isoformat().replace("+00:00", "Z") if kind == "moment" else value


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"'{value}" if value == FORMULA else str(value)


@pytest.mark.parametrize("name", list(REPORTS))
def test_a_table_has_every_row_and_a_total_where_there_are_sums(ask: Callable[..., Result], name: str) -> None:
    rows = rows_of(ask(name, *SPAN, *NOW, "--json"))
    done = ask(name, *SPAN, *NOW)
    assert (done.exit_code, done.stderr) == (0, "")
    title, *lines = done.stdout.splitlines()
    assert title == f"{name}: 2025-01-01 to 2026-12-31"
    drawn = [line for line in lines if line.startswith("│")]
    report = REPORTS[name]
    assert len(drawn) == len(rows) + bool(report.measures)
    if report.counted:
        total = [cell.strip() for cell in drawn[-1].strip("│").split("│")]
        assert total[0] == "total"
        for measure in report.counted:
            assert (
                total[[c.name for c in report.columns].index(measure.name)] == f"{sum(r[measure.name] for r in rows):,}"
            )


def test_a_table_that_is_too_long_ends_and_says_so(ask: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    everything = ask("outcomes", *SPAN)
    monkeypatch.setattr(reporting, "TABLE_ROWS", 3)
    done = ask("outcomes", *SPAN)
    assert done.exit_code == 0
    assert len([line for line in done.stdout.splitlines() if line.startswith("│")]) == 4
    assert done.stdout.splitlines()[-2].split() == everything.stdout.splitlines()[-2].split()
    assert re.fullmatch(
        r"only the first 3 rows are shown; the total is of all\. All rows: --format csv.*\n", done.stderr
    )


def test_a_condition_chooses_rows_and_an_unknown_value_none(ask: Callable[..., Result]) -> None:
    rows = rows_of(ask("case_volume", *SPAN, "--json"))
    chosen = rows_of(ask("case_volume", *SPAN, "--json", "--where", f"category={FORMULA}", "--where", "source=WEB"))
    assert chosen == [row for row in rows if (row["category"], row["source"]) == (FORMULA, "WEB")] != []
    assert rows_of(ask("case_volume", *SPAN, "--json", "--where", "category=never")) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["outcomse", *SPAN], r"there is no report 'outcomse'\. Did you mean 'outcomes'\?"),
        (["outcomes", "--from", "2026-13-01", "--to", "2026-12-31"], r"--from: '2026-13-01' is no day"),
        (["outcomes", "--to", "2026-12-31"], r"--from: give a day such as"),
        (["outcomes", "--from", "2026-02-02", "--to", "2026-02-01"], r"2026-02-02, is later than the last, 2026-02-01"),
        (["outcomes", *SPAN, "--where", "catgory=debt"], r"by 'catgory'.* Did you mean 'category'\?"),
        (["outcomes", *SPAN, "--where", "debt"], r"'debt' is no condition; give one such as category=debt"),
        (["outcomes", *SPAN, "--where", "code=A", "--where", "code=B"], r"'code' is given twice"),
        (["outcomes", *SPAN, "--where", "category=\udcff"], r"is no condition"),
        (["outcomes", *SPAN, "--by", "moth"], r"no period 'moth'.* Did you mean 'month'\?"),
        (["outcomes", *SPAN, "--plot", "--by", "moth"], r"Did you mean 'month'\?"),
        (["callbacks", *SPAN, "--plot", "--by", "moth"], r"Did you mean 'month'\?"),
        (["contacts_per_case", *SPAN, "--by", "day"], r"is kept by month"),
        (["contacts_per_case", *SPAN, "--by", "day", "--plot"], r"is kept by month"),
        (["callbacks", *SPAN, "--by", "day"], r"lists single rows"),
        (["outcomes", *SPAN, "--now", "soon"], r"--now: 'soon' is no moment"),
        (["outcomes", *SPAN, "--format", "xls"], r"'xls' is not one of 'table', 'jsonl', 'csv', 'parquet'"),
        (["outcomes", *SPAN, "--format", "csv", "--json"], r"--json: this is --format jsonl, and not csv"),
        (["outcomes", *SPAN, "--bom"], r"--bom: only CSV"),
        (["outcomes", *SPAN, "--plot", "--json"], r"--plot: a plot is for the terminal"),
        (["outcomes", *SPAN, "--output", "."], r"--output.*directory"),
        (["--describe"], r"which report\? There are alternative_help, "),
        (["--describe", "outcomse"], r"Did you mean 'outcomes'\?"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_and_nothing_is_written(
    ask: Callable[..., Result], arguments: list[str], said: str
) -> None:
    done = ask(*arguments)
    refused = str(getattr(done.exception, "args", [""])[0]) if done.stderr == "" else done.stderr
    assert (done.exit_code in (1, 2), done.stdout) == (True, "")
    assert re.search(said, " ".join(re.sub(r"[│╭╮╰╯─]", " ", refused).split()))


def test_the_list_and_the_help_name_every_report(ask: Callable[..., Result]) -> None:
    described = {name: report.description for name, report in REPORTS.items()}
    assert {row["report"]: row["description"] for row in json.loads(ask("--list", "--json").stdout)} == described
    shown = (" ".join(ask("--help").stdout.split()), " ".join(ask("--list").stdout.split()))
    for name, description in described.items():
        assert f"{name}: {description}" in shown[0]
        assert f"{name} │ {description}" in re.sub(" +", " ", shown[1])


@pytest.mark.parametrize("name", list(REPORTS))
def test_what_a_report_says_of_itself_is_so(ask: Callable[..., Result], name: str) -> None:
    """It takes what it says that it takes, and has the columns that it describes."""
    said = json.loads(ask(name, "--describe", "--json").stdout)
    text = " ".join(ask(name, "--describe").stdout.split())
    rows = rows_of(ask(name, *SPAN, *NOW, "--json"))
    for column in said["columns"]:
        assert column["column"] in text
    for row in rows:
        assert list(row) == [column["column"] for column in said["columns"]]
    for period in said["by"]:
        assert ask(name, *SPAN, *NOW, "--by", period, "--json").exit_code == 0
    everything = [part for column in said["where"] for part in ("--where", f"{column}=x")]
    assert rows_of(ask(name, *SPAN, *NOW, "--json", *everything)) == []
    later = rows_of(ask(name, *SPAN, "--now", "2025-01-01", "--json"))
    assert later == rows or said["depends_on_now"]


def test_the_page_of_the_columns_is_what_the_declarations_say(ask: Callable[..., Result]) -> None:
    page = (ROOT / "docs" / "report-columns.md").read_text()
    assert ask("--describe", "--markdown").stdout == page, (
        "run: caselog report --describe --markdown > docs/report-columns.md"
    )


# Plots


@pytest.mark.parametrize("name", list(REPORTS))
def test_every_report_can_be_drawn_and_fits(ask: Callable[..., Result], name: str) -> None:
    done = ask(name, *SPAN, *NOW, "--plot")
    lines = done.stdout.splitlines()
    assert done.exit_code == 0
    assert all(cell_len(line) <= 100 for line in lines)
    assert "\x1b" not in done.stdout
    assert re.findall(r"\w+", lines[0]).count(name) == 1
    assert len(lines) == 24


def test_where_there_is_nothing_it_is_said_beside_the_output(ask: Callable[..., Result]) -> None:
    nothing = ("outcomes", "--from", "1999-01-01", "--to", "1999-01-02")
    plot, table = ask(*nothing, "--plot"), ask(*nothing)
    assert (plot.exit_code, plot.stdout) == (0, "")
    assert plot.stderr == "nothing to draw from 1999-01-01 to 1999-01-02\n"
    assert (table.exit_code, table.stderr) == (0, "no rows from 1999-01-01 to 1999-01-02\n")
    assert "outcomes" in table.stdout


def test_a_plot_shows_the_sum_of_each_period(ask: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a list, how many rows there are."""
    drawn: list[Any] = []

    def kept(points: Any, **_: Any) -> str:
        drawn.append(points)
        return ""

    monkeypatch.setattr("caselog.workers.terminal.line_plot.draw", kept)
    for name, moment, measure in (("case_volume", "day", "cases"), ("callback_progression", "callback_at", None)):
        for by in ("day", "week", "month"):
            sums: Counter[date] = Counter()
            for row in rows_of(ask(name, *SPAN, *NOW, "--json")):
                day = datetime.fromisoformat(row[moment])
                local = (day.astimezone(LONDON) if day.tzinfo else day).date()
                start = {"day": local, "week": local - timedelta(local.weekday()), "month": local.replace(day=1)}[by]
                sums[start] += row[measure] if measure else 1
            assert ask(name, *SPAN, *NOW, "--plot", "--by", by).exit_code == 0
            found = drawn.pop()
            assert dict(found) == {day: sums[day] for day, _ in found}
            assert sum(sums.values()) == sum(value for _, value in found)


def test_a_period_in_which_there_was_nothing_is_drawn_as_nothing() -> None:
    assert filled([(date(2025, 11, 1), 3), (date(2026, 2, 1), 4)], "month") == [
        (date(2025, 11, 1), 3), (date(2025, 12, 1), 0), (date(2026, 1, 1), 0), (date(2026, 2, 1), 4),
    ]  # fmt: skip
    assert filled([(date(2026, 3, 23), 1), (date(2026, 4, 6), 1)], "week")[1] == (date(2026, 3, 30), 0)
    assert filled([], "day") == []


@pytest.mark.parametrize("values", [[0], [1], [7, 7], [0, 5_000_000], [0.5, 0.25]])
@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_plot_is_as_large_as_it_may_be(values: list[float], width: int) -> None:
    points = [(date(2026, 1, 1) + timedelta(at), value) for at, value in enumerate(values)]
    lines = draw(points, title="a title", unit="logs", width=width, height=12).splitlines()
    assert (len(lines), {len(line) for line in lines}) == (12, {width})
    assert "a title" in lines[0]
    assert "2026-01-01" in lines[-2] if len(values) > 1 else True
    assert "\x1b[" in draw(points, title="a title", unit="logs", width=width, height=12, colored=True)


# On a terminal


def on_a_terminal(database: str, directory: Path, *arguments: str, columns: int, **settings: str) -> tuple[int, str]:
    """What a person sees on a terminal of that width, and the status."""
    controller, terminal = pty.openpty()
    environment = Pipeline(directory, database, "", "").environment(COLUMNS=str(columns), LINES="30", **settings)
    process = subprocess.Popen(
        [*caselog_program(), *arguments], env=environment, cwd=ROOT, stdout=terminal, stderr=terminal, stdin=terminal
    )
    close(terminal)
    seen = b""
    while True:
        try:
            part = read(controller, 65_536)
        except OSError:  # Linux says so of a terminal that nobody writes to any more
            break
        if not part:
            break
        seen += part
    close(controller)
    return process.wait(DEADLINE_S), seen.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("columns", [70, 120])
def test_on_a_terminal_a_table_is_no_wider_than_it(database: str, tmp_path: Path, columns: int) -> None:
    for name in ("outcomes", "callbacks", "outcome_extract"):
        status, seen = on_a_terminal(database, tmp_path, "report", name, *SPAN, *NOW, columns=columns)
        lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen).splitlines()
        assert status == 0
        assert len(lines) > 3
        assert all(cell_len(line) <= columns for line in lines)


def test_parquet_is_not_written_to_a_terminal(database: str, tmp_path: Path) -> None:
    for command in (["report", "outcomes", *SPAN], ["export", "logs"]):
        status, seen = on_a_terminal(database, tmp_path, *command, "--format", "parquet", columns=300)
        assert status == 2
        assert re.fullmatch(r"caselog: .*parquet is no text for a terminal: give a file.*\n", seen)


def test_a_plot_has_colours_on_a_terminal_that_has_them_alone(database: str, tmp_path: Path) -> None:
    asked = ("report", "outcomes", *SPAN, "--plot")
    assert "\x1b[38" in on_a_terminal(database, tmp_path, *asked, columns=90, TERM="xterm-256color", NO_COLOR="")[1]
    for plain in ({"TERM": "dumb", "NO_COLOR": ""}, {"TERM": "xterm-256color", "NO_COLOR": "1"}):
        assert "\x1b[38" not in on_a_terminal(database, tmp_path, *asked, columns=90, **plain)[1]
