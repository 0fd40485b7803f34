"""What it costs an answer that its reader is kept before its first byte (docs/decisions/0112).

    .venv/bin/python benchmarks/reads.py [--answers 3000]

The same small answer, asked in turn on one event loop, with a name and without: so both meet the same machine. Redis
writes each to its disk before it confirms it, as an embedded one does and docker-compose.yml has it. Prints the
difference at the median, and exits with 1 where that is 2 ms or more.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import Any, Final

import redis.asyncio
from litestar import get

from caselog.workers.access.callers import Need
from caselog.workers.access.reads import ReadLog, read_of
from caselog.workers.servers.embedded import EmbeddedServers
from caselog.workers.servers.locate import redis_py_url
from caselog.workers.settings import Settings
from caselog.workers.web.app import make_app

BOUND_MS: Final = 2.0
WARM_UP: Final = 100
SECRET: Final = "ann-ann-ann-ann-ann-ann"


@get("/read", needs=Need.READER, reads="report", sync_to_thread=False)
def read(request: Any) -> bytes:
    """An answer of cases."""
    read_of(request).filter = {"report": "outcome_extract", "from": "2026-01-01", "to": "2026-01-31"}
    read_of(request).rows = 100
    return b"x"


@get("/shown", needs=Need.READER, sync_to_thread=False)
def shown() -> bytes:
    """An answer that names no case."""
    return b"x"


async def asked_ms(app: Any, path: str) -> float:
    """How long an answer takes, in milliseconds."""
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "http_version": "1.1",
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8080),
        "headers": [(b"host", b"127.0.0.1"), (b"authorization", f"Bearer {SECRET}".encode())],
        "state": {},
    }
    statuses = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    start_s = perf_counter()
    await app(scope, receive, send)
    took_s = perf_counter() - start_s
    assert statuses == [200], statuses
    return took_s * 1000


async def measured(redis_url: str, answers: int) -> tuple[list[float], list[float], list[float]]:
    """The times of answers that are kept, of those that are not, and of a question to Redis that writes nothing."""
    log = ReadLog(redis_url)
    app = make_app(Settings(), None, None, more=[read, shown], reads=log)  # type: ignore[arg-type]  # no page that needs them is asked
    bare = redis.asyncio.Redis.from_url(redis_py_url(redis_url))
    kept, free, pings = [], [], []
    for number in range(answers + WARM_UP):
        one, other = await asked_ms(app, "/read"), await asked_ms(app, "/shown")
        start_s = perf_counter()
        await bare.ping()
        if number >= WARM_UP:
            kept.append(one)
            free.append(other)
            pings.append((perf_counter() - start_s) * 1000)
    await log.close()
    await bare.aclose()
    return kept, free, pings


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--answers", type=int, default=3000)
    answers = arguments.parse_args().answers
    os.environ |= {"CASELOG_READING": "token", "CASELOG_API_TOKENS": f"ann:reader:{SECRET}"}
    with tempfile.TemporaryDirectory(prefix="caselog-benchmark-") as directory:
        servers = EmbeddedServers(Path(directory), postgres=False)
        try:
            redis_url = servers.start().redis_url
            assert redis_url is not None
            kept, free, pings = asyncio.run(measured(redis_url, answers))
        finally:
            servers.stop()
    more = [one - other for one, other in zip(kept, free, strict=True)]
    least, most = quantiles(more, n=10)[0], quantiles(more, n=100)[94]
    sys.stdout.write(
        f"kept {median(kept):.2f} ms, not kept {median(free):.2f} ms, a bare PING {median(pings):.2f} ms; "
        f"the difference {median(more):.2f} ms at the "
        f"median, {least:.2f} at the lowest tenth, {most:.2f} for 95 % (bound: {BOUND_MS:g} at the median; load "
        f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} processors)\n"
    )
    return int(median(more) >= BOUND_MS)


if __name__ == "__main__":
    sys.exit(main())
