"""What `pip install caselog` brings: enough to publish, and little of it."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
import redis
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support.processes.patience import DEADLINE_S

from caselog.workers.servers.locate import redis_py_url

ROOT = Path(__file__).parents[3]
MOST_BYTES = 16_000_000
PUBLISH = """
from caselog.events import BaseEvent, LogLevel, LogType, Publisher, autodiscover, event_registry

class Claim(BaseEvent):
    key = "claim"
    codes = {"PAID": {"type": LogType.OUTCOME, "level": LogLevel.HIGH, "selectable_by": [], "description": "Paid",
                      "stops_timer": False}}

event_registry.register(Claim)
with Publisher(sys.argv[1], source="/claims") as publisher:
    actor = {"id": "anna", "role": "web"}
    publisher.publish({"type": "claim", "subject": "C-1", "data": {"code": "PAID", "actor": actor}})
"""


def needed() -> dict[str, Distribution]:
    """The distributions that caselog without extras requires, and those that they require."""
    found: dict[str, Distribution] = {}
    wanted = ["caselog"]
    while wanted:
        name = canonicalize_name(wanted.pop())
        if name in found:
            continue
        found[name] = distribution(name)
        requirements = map(Requirement, found[name].requires or [])
        wanted += [one.name for one in requirements if one.marker is None or one.marker.evaluate({"extra": ""})]
    return found


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is at the top of site-packages after `pip install caselog`, as links."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "caselog").symlink_to(ROOT / "src" / "caselog")
    for name, one in needed().items():
        tops = {file.parts[0] for file in one.files or [] if file.parts[0] not in ("..", "__pycache__")}
        for top in tops if name != "caselog" else ():
            (folder / top).symlink_to(str(one.locate_file(top)))
    return folder


def run(site: Path, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """By an interpreter that finds nothing but the standard library and what is there."""
    alone = f"import sys; sys.path.append({str(site)!r})\n{program}"
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", alone, *arguments],
        capture_output=True, text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip


def test_a_producer_installs_few_things_and_small_ones() -> None:
    found = needed()
    assert {"kombu", "msgspec", "redis"} <= set(found) <= {
        "caselog", "amqp", "kombu", "msgspec", "packaging", "redis", "tzdata", "vine", "async-timeout",
    }  # fmt: skip
    sizes = {name: sum(file.size or 0 for file in one.files or []) for name, one in found.items()}
    ours = sum(path.stat().st_size for room in ("events", "schema", "workers") for path in (ROOT / room).rglob("*.py"))
    assert sum(sizes.values()) + ours < MOST_BYTES, sizes


def test_it_publishes_with_these_alone(site: Path, redis_url: str) -> None:
    done = run(site, PUBLISH, redis_url)
    assert done.returncode == 0, done.stderr
    with redis.Redis.from_url(redis_py_url(redis_url)) as client:
        ((_, fields),) = client.xrange("caselog.events")
    assert json.loads(fields[b"event"])["subject"] == "C-1"


def test_the_command_says_what_to_install(site: Path) -> None:
    done = run(site, "from caselog.workers.__main__ import main\nmain()", "ping")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("is not installed. Run: pip install 'caselog[workers]'\n")
    assert done.stderr.count("\n") == 1


def test_an_outbox_says_that_it_needs_the_apps_sqlalchemy(site: Path) -> None:
    done = run(site, "from caselog.events.outbox import Outbox")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("which is not installed: pip install 'sqlalchemy>=2.1'")
