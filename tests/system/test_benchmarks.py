"""The benchmarks start, and measure something: in miniature, so the figures mean nothing here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
# search.py takes its number of cases as its one argument; the others are parts of scripts.
SCRIPTS = sorted(path.name for path in BENCHMARKS.glob("*.py") if "ArgumentParser(" in path.read_text())
# What each is asked for, and a contender or quantity that it has to have measured.
TINY = {
    "throughput.py": (["--events", "400", "--rounds", "1", "--only", "redis"], "dramatiq actor an event, Redis"),
    "publishing.py": (["--events", "500", "--rounds", "1"], "dicts, messages of 100, Redis"),
    "latency.py": (["--rates", "50", "--seconds", "1"], "50 events/s: median"),
    "recovery.py": (["--backlog", "400"], "start to first commit"),
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
        timeout=150,
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


@pytest.mark.slow
def test_growth_and_the_profile_of_a_batch_run_in_miniature(tmp_path: Path) -> None:
    grown = run("growth.py", "--logs", "3000", "--events", "300", "--rounds", "1", "--output", str(tmp_path))
    assert grown.returncode == 0, grown.stderr
    figures = json.loads((tmp_path / "growth.json").read_text())
    assert figures["bytes_an_event"]["log"] > 0
    profiled = run("profile_batch.py", "--batches", "1", "--batch", "50", "--message", "10")
    assert profiled.returncode == 0, profiled.stderr
    assert "store: insert logs" in profiled.stdout
