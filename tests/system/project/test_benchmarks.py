"""The benchmarks start, and measure something: in miniature, so the figures mean nothing here."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from itertools import islice, permutations
from pathlib import Path
from types import ModuleType
from unittest.mock import Mock
from xml.etree import ElementTree as ET
from zoneinfo import ZoneInfo

import psutil
import pytest
from support.oracle.stored import body, count
from support.processes.patience import DEADLINE_S
from support.processes.pipeline import created, event, eventually

from caselog.events.folding.resolve import Rules
from caselog.events.model.registry import autodiscover
from caselog.workers.producers.simulation import simulate
from caselog.workers.servers.locate import Services

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
# search.py takes its number of cases as its one argument; the others are parts of scripts.
SCRIPTS = sorted(path.name for path in BENCHMARKS.glob("*.py") if "ArgumentParser(" in path.read_text())
# What each is asked for, and a contender or quantity that it has to have measured.
TINY = {
    "throughput.py": (["--events", "400", "--rounds", "1", "--only", "redis"], "dramatiq actor an event, Redis"),
    "publishing.py": (["--events", "500", "--rounds", "1"], "dicts, messages of 100, Redis"),
    "latency.py": (["--rates", "50", "--seconds", "1"], "50 events/s: median"),
    "poison_batch.py": (["--events", "40", "--rounds", "1"], "40, each refusal brings the next to light"),
    "recovery.py": (["--backlog", "400"], "start to first commit"),
    "first_commit.py": (["--backlog", "1500", "--only", "redis"], "Redis, 1,500 wait: on the clock"),
}


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a benchmark on its own servers, with none of the surroundings' settings."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CASELOG_")}
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *arguments],
        env=environment | {"COLUMNS": "200"},
        cwd=BENCHMARKS.parent,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_benchmark_says_what_it_measures(script: str) -> None:
    """`--help` begins with the question, and the page that lists them names it."""
    done = run(script, "--help")
    assert done.returncode == 0, done.stderr
    assert "options:" in done.stdout
    assert f"| `{script}` |" in (BENCHMARKS / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("script", TINY)
def test_a_benchmark_in_miniature_leaves_figures_and_a_plot(script: str, tmp_path: Path) -> None:
    """Each contender has a figure above zero in the JSON and a bar in the SVG; nothing is printed but the table."""
    arguments, expected = TINY[script]
    done = run(script, *arguments, "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr
    name = script.removesuffix(".py")
    figures = json.loads((tmp_path / f"{name}.json").read_text())
    assert expected in [one["name"] for one in figures["series"]]
    assert all(value > 0 for one in figures["series"] for value in one["values"])
    plot = ET.parse(tmp_path / f"{name}.svg").getroot()
    texts = [element.text for element in plot.iter("{http://www.w3.org/2000/svg}text")]
    for one in figures["series"]:
        assert one["name"] in texts
        assert one["name"] in done.stdout


XES = """<?xml version="1.0" encoding="UTF-8"?>
<log xmlns="http://www.xes-standard.org/">{traces}</log>"""
TRACE = """<trace><string key="concept:name" value="claim {number}"/>{events}</trace>"""
STEP = """<event><string key="concept:name" value="{activity}"/><string key="org:resource" value="agent {number}"/>
<date key="time:timestamp" value="2024-03-0{day}T09:00:00.000+01:00"/></event>"""


@pytest.mark.slow
@pytest.mark.parametrize("contender", ["caselog, messages of 100, Redis", "dramatiq actor an event, Redis"])
@pytest.mark.parametrize("kind", ["xes", "jsonl"])
def test_a_log_of_somebody_elses_is_worked_off_and_proved(kind: str, contender: str, tmp_path: Path) -> None:
    """An event log with activities that nobody has heard of, and a file of events: all of it, by whatever contender."""
    path = tmp_path / f"log.{kind}"
    if kind == "xes":
        steps = ["register", "weigh 'up'", "settle"]
        traces = (
            TRACE.format(
                number=number,
                events="".join(STEP.format(activity=a, number=number % 7, day=day) for day, a in enumerate(steps, 1)),
            )
            for number in range(300)
        )
        path.write_text(XES.format(traces="".join(traces)))
    else:
        simulated = (json.dumps(event) for event in islice(simulate(150, 3), 1200))
        path.write_text("\n".join(simulated))
    chosen = ["--rounds", "1", "--only", contender]
    done = run("throughput.py", f"--{kind}", str(path), *chosen, "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "throughput.json").read_text())
    assert figures["events"] == 1200  # of a trace: its three steps, and its beginning
    assert [one["name"] for one in figures["series"]] == [contender]


@pytest.mark.slow
def test_growth_and_the_profile_of_a_batch_run_in_miniature(tmp_path: Path) -> None:
    arguments = ["--logs", "3000", "25000", "--events", "300", "--rounds", "1", "--prove"]
    grown = run("growth.py", *arguments, "--output", str(tmp_path))
    assert grown.returncode == 0, grown.stderr
    figures = json.loads((tmp_path / "growth.json").read_text())
    assert figures["bytes_an_event"]["25,000 logs"]["log"] > 0
    memory = json.loads((tmp_path / "growth_memory.json").read_text())["series"]
    assert {one["name"] for one in memory} >= {"recorder, 0 logs", "recorder, 25,000 logs", "tasks, 25,000 logs"}
    assert all(10 < size < 1000 for one in memory for size in one["values"])
    assert "MB of a recorder with the longest log" in " ".join(grown.stdout.split())
    assert run("bounds.py", "--figures", str(tmp_path)).returncode == 0
    page = (tmp_path / "README.md").read_text()
    assert all(f"]({path.name})" in page for path in tmp_path.glob("*.svg"))
    profiled = run("profile_batch.py", "--batches", "1", "--batch", "50", "--message", "10")
    assert profiled.returncode == 0, profiled.stderr
    assert "store: send logs" in profiled.stdout


@pytest.fixture
def benchmark_module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Imports a module of benchmarks; other modules of tests have names that modules of benchmarks have, too."""
    names = [path.stem for path in BENCHMARKS.glob("*.py")]
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture
def growth(benchmark_module: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark_module("growth")


@pytest.mark.unproven  # the answer of a contender depends on the order
def test_a_contender_gets_through_with_jobs_in_any_order(
    benchmark_module: Callable[[str], ModuleType], database_url: str
) -> None:
    """Else a queue is never empty: a start of a timer that came after a later one was retried for ever."""
    rules = Rules(zone=ZoneInfo("Europe/London"))
    autodiscover()
    one_by_one = benchmark_module("one_by_one")
    orders = list(permutations(range(4)))
    with closing(one_by_one.OneByOne(database_url, rules, connections=1)) as usual:
        for number, order in enumerate(orders):
            case = f"AB-{number}"
            start = {"actor": {"id": f"op-{case}", "role": "operator"}}
            jobs = [
                event("timer", "TIMER_STARTED", None, "2026-03-02T11:00:00Z", id=f"{case}/1", data=start),
                event("alternative_help", "IRKB", case, "2026-03-02T11:05:00Z"),
                event("timer", "TIMER_STARTED", None, "2026-03-02T11:10:00Z", id=f"{case}/2", data=start),
                event("alternative_help", "IRKB", case, "2026-03-02T11:15:00Z"),
            ]
            for job in (created(case), *(jobs[index] for index in order)):
                usual.record(body(job))
    assert count(database_url, "log") == 5 * len(orders)
    assert count(database_url, "timer") > len(orders)  # in some orders both run, one after the other
    assert count(database_url, "dead_letter") == 0


def test_a_benchmark_that_is_ended_leaves_nothing_behind(tmp_path: Path) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    arguments = ["--events", "400", "--only", "redis", "--output", str(tmp_path / "out")]
    command = [sys.executable, str(BENCHMARKS / "throughput.py"), *arguments]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as ended:
        try:
            eventually(lambda: any(_working_in(tmp_path)), "a worker works", within_s=DEADLINE_S)
            ended.terminate()
            status = ended.wait(DEADLINE_S)
        finally:
            ended.kill()
    left = list(_working_in(tmp_path))
    for process in left:
        process.kill()
    assert (status, left) == (128 + signal.SIGTERM, [])
    assert list(tmp_path.iterdir()) == []


ENDED_WHILE_A_WORKER_STARTS = """
import signal, subprocess, sys
from servers import servers
from working_off import running
from caselog.workers.servers.locate import Services

class Signalled(subprocess.Popen):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        signal.raise_signal(signal.SIGTERM)

with servers(redis=False):
    subprocess.Popen = Signalled
    with running([[sys.executable, "-c", PROGRAM]], Services("", "", "")):
        print("goes on")
"""


@pytest.mark.parametrize(
    "program",
    [
        "import time; time.sleep(600)",
        # A pool whose main process ends before it listens for signals.
        "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']).wait()",
    ],
)
def test_a_benchmark_that_is_ended_while_a_worker_starts_leaves_no_process(tmp_path: Path, program: str) -> None:
    script = ENDED_WHILE_A_WORKER_STARTS.replace("PROGRAM", repr(program))
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(BENCHMARKS)}
    ended = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    left = list(_working_in(tmp_path))
    for process in left:
        process.kill()
    assert (ended.returncode, ended.stdout, left) == (128 + signal.SIGTERM, "", []), ended.stderr
    assert list(tmp_path.iterdir()) == []


def _working_in(directory: Path) -> Iterator[psutil.Process]:
    """The processes whose temporary files belong there."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("TMPDIR", "").startswith(f"{directory}/"):
                yield process


@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_checkpoint_comes_right_before_the_events_of_a_turn(
    growth: ModuleType, monkeypatch: pytest.MonkeyPatch, *, checkpoint: bool
) -> None:
    done: list[object] = []

    @contextmanager
    def connect(url: str, *, autocommit: bool) -> Iterator[Mock]:
        assert (url, autocommit) == ("the longest", True)
        yield Mock(execute=done.append)

    def work_off(services: Services, events: list[bytes]) -> tuple[float, dict[str, float]]:
        assert services.database_url == "the longest"
        done.append(events)
        return 2.0, {"recorder": 20.0}

    monkeypatch.setattr(growth, "work_off", work_off)
    monkeypatch.setattr(growth.psycopg, "connect", connect)
    turn = growth.make_turn(10, "the longest", 10)
    growth.take_turn(turn, Services("the longest", "", ""), [b"1", b"2"], "1 of 1", checkpoint=checkpoint)
    assert done == [*(["checkpoint"] if checkpoint else []), [b"1", b"2"]]
    assert (turn.found.values, turn.memory["recorder"].values) == ([2.0], [20.0])


@pytest.mark.parametrize(("rate", "verdict"), [(85.0, "met"), (84.0, "NOT MET")])
def test_the_longest_log_is_judged_between_checkpoints(tmp_path: Path, rate: float, verdict: str) -> None:
    """Neither by a shorter one nor by the seconds after a checkpoint, which stand beside it."""
    rates = {"0 logs": 100.0, "1,000,000 logs": 120.0, "10,000,000 logs": rate}
    rates["10,000,000 logs, right after a checkpoint"] = 200.0 - rate
    machine = {"processors": 2, "architecture": "x86_64", "python": "3.11", "load_before_or_after": 1.0}
    series = [{"name": name, "values": [value]} for name, value in rates.items()]
    figures = {"benchmark": "growth", "machine": machine, "unit": "events/s", "series": series}
    (tmp_path / "growth.json").write_text(json.dumps(figures))
    assert run("bounds.py", "--figures", str(tmp_path)).returncode == 0
    (line,) = [line for line in (tmp_path / "README.md").read_text().splitlines() if line.startswith("| growth: ")]
    assert line.endswith(f"| {verdict} |")
    assert f"| {rate / 100:.2f} |" in line


@pytest.mark.parametrize(
    ("apart", "gained", "needed", "verdict"),
    [
        (1.3, 1.16, "at least 1.5, or 1.17: 0.9 of 1.3, all that this machine allows", "NOT MET"),
        (1.3, 1.18, "at least 1.5, or 1.17: 0.9 of 1.3, all that this machine allows", "met"),
        (1.9, 1.4, "at least 1.5", "NOT MET"),
        (1.9, 1.5, "at least 1.5", "met"),
    ],
)
def test_two_recorders_are_to_gain_as_much_as_two_that_share_nothing_but_the_machine(
    tmp_path: Path, apart: float, gained: float, needed: str, verdict: str
) -> None:
    rates = {"": 100.0, ", 2 recorders": 100.0 * gained, ", 2 pipelines apart": 100.0 * apart}
    series = [
        {"name": f"caselog, single events{which}, Redis", "values": [rate], "busy": [0.9]}
        for which, rate in rates.items()
    ]
    machine = {"processors": 2, "architecture": "x86_64", "python": "3.11", "load_before_or_after": 1.0}
    figures = {"benchmark": "throughput", "machine": machine, "unit": "events/s", "series": series}
    (tmp_path / "throughput.json").write_text(json.dumps(figures))
    judged = run("bounds.py", "--figures", str(tmp_path))
    assert judged.returncode == 0, judged.stderr
    page = (tmp_path / "README.md").read_text()
    bound = next(row for row in page.splitlines() if "two recorders" in row)
    assert bound.endswith(f"| {needed} |  | {verdict} |")
    assert "| 90% of the processors busy |" in page
