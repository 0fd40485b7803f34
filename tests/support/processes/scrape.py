"""/metrics as Prometheus would read it, and promtool, which says what Prometheus thinks of a file."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from support.processes.patience import DEADLINE_S
from support.processes.pipeline import Pipeline, eventually
from support.servers.free_ports import free_port

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Page:
    """The /metrics of a status worker that this starts on the pipeline."""

    def __init__(self, pipeline: Pipeline) -> None:
        port = free_port()
        self._url = f"http://127.0.0.1:{port}/metrics"
        self.worker = pipeline.start("status", CASELOG_HTTP_PORT=str(port))
        eventually(self._answers, "the status worker answers")

    def get(self) -> httpx.Response:
        return httpx.get(self._url, timeout=DEADLINE_S)

    def samples(self) -> Samples:
        """Every sample by its name and labels."""
        answer = self.get()
        assert answer.status_code == 200
        return read(answer.text)

    def _answers(self) -> bool:
        try:
            return self.get().is_success
        except httpx.TransportError:
            return False


def read(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    """The one sample of that name and those labels; 0 where there is none."""
    return samples.get((name, frozenset(labels.items())), 0.0)


def promtool(*arguments: str, stdin: str = "", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run promtool; skips the test where there is none, and fails it where services are required."""
    program = shutil.which("promtool")
    if program is None:
        hint = "promtool is not installed; it comes with Prometheus (on Debian: apt-get install prometheus)"
        if os.environ.get("CASELOG_REQUIRE_SERVICES") == "1":
            pytest.fail(f"CASELOG_REQUIRE_SERVICES=1, but {hint}")
        pytest.skip(hint)
    return subprocess.run(
        [program, *arguments], input=stdin, cwd=cwd, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
