"""docs/use-from-your-app.md: what a stranger copies from it, run as a process of its own, is recorded.

What is in `.venv/node` (`make node`) is used by the examples for Node, which are skipped without it.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from amqp.exceptions import NotFound
from cloudevents.core.bindings.rabbitmq import to_binary_event
from cloudevents.core.v1.event import CloudEvent
from kombu.utils.url import parse_url
from support.oracle.stored import dead_letters
from support.processes.patience import DEADLINE_S
from support.processes.pipeline import Pipeline, eventually
from support.processes.served import APP, Served
from support.servers.virtual_host import VirtualHost

from caselog.events.transport import broker
from caselog.events.transport.events_queue import open_events
from caselog.workers.servers.locate import redis_py_url

ROOT = Path(__file__).parents[3]
NAME = "docs/use-from-your-app.md"
PAGE = (ROOT / NAME).read_text()
NODE_MIN = 20
MODULES = ROOT / ".venv" / "node" / "node_modules"
_BLOCK = re.compile(r"<!-- ([^\n]+) -->\n```(\w+)\n(.*?)```", re.DOTALL)
BLOCKS: dict[str, str] = {remark: code for remark, _, code in _BLOCK.findall(PAGE)}
CASE = "AB-1234-5678"
Run: TypeAlias = Callable[[str, dict[str, str]], subprocess.CompletedProcess[str]]

# As much of Django as the page's modules call, whose own code is not under test: Django is no dependency of ours.
DJANGO = {
    "django/__init__.py": "",
    "django/conf.py": "import portal.settings as settings\n",
    "django/db.py": "class transaction:\n    on_commit = staticmethod(lambda function: function())\n",
}
# A server that imports the app, publishes, and then forks: both processes end as a server's do.
FORKING = """
import os, sys
from portal.cases import case_created

case_created("AB-1", "op-1")
if (child := os.fork()) == 0:
    case_created("AB-2", "op-2")
    sys.exit()
_, status = os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.fixture
def on_rabbitmq(tmp_path: Path, database_url: str, amqp_url: str, redis_url: str) -> Iterator[Pipeline]:
    """A pipeline on RabbitMQ alone, of which nothing has run as yet."""
    one = Pipeline(tmp_path, database_url, amqp_url, redis_url)
    yield one
    one.close()


@pytest.fixture
def node(tmp_path: Path) -> Run:
    """A function that runs a program as Node runs an app's module, with the packages of `make node`."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("there is no node on PATH; on Debian: apt-get install nodejs npm")
    version = subprocess.run(
        [program, "--version"], capture_output=True, text=True, timeout=DEADLINE_S, check=True
    ).stdout
    if int(version.lstrip("v").partition(".")[0]) < NODE_MIN:
        pytest.skip(f"node is {version.strip()}, and the npm packages of the examples need {NODE_MIN} or later")
    if not MODULES.is_dir():
        pytest.skip("there is no .venv/node, with the npm packages of the examples; run: make node")
    (tmp_path / "node_modules").symlink_to(MODULES)

    def run(code: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        (tmp_path / "example.mjs").write_text(code)
        return ended([program, "example.mjs"], tmp_path, environment)

    return run


def ended(argv: list[str], folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv, cwd=folder, env=environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )


def changed(remark: str, old: str, new: str) -> str:
    """That example, with another text in the place of one that it has."""
    assert old in BLOCKS[remark]
    return BLOCKS[remark].replace(old, new)


def python(code: str, pipeline: Pipeline, *flags: str) -> subprocess.CompletedProcess[str]:
    (pipeline.directory / "example.py").write_text(code)
    return ended([sys.executable, *flags, "example.py"], pipeline.directory, pipeline.environment())


def said_nothing(done: subprocess.CompletedProcess[str]) -> bool:
    return (done.returncode, done.stdout, done.stderr) == (0, "", "")


def cases(pipeline: Pipeline, count: int = 1) -> list[str]:
    """The cases that are there once a recorder has recorded so many events; none of these is a dead letter."""
    pipeline.start("recorder")
    pipeline.recorded(count)
    assert dead_letters(pipeline.database_url) == []
    assert pipeline.one("select string_agg(distinct source, ' ') from log") == "/portal"
    found: list[str] = pipeline.one('select array_agg(reference) from "case"')
    return found


def as_node_writes_it(redis_url: str) -> str:
    url = redis_py_url(redis_url)
    assert re.fullmatch(r"unix:///.+/redis\.sock\?db=\d+", url), "it is not as the page says"
    return url


def test_each_example_is_run_by_a_test_here() -> None:
    fenced = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    commands = [code for language, code in fenced if language == "sh" and code.startswith("pip install")]
    assert len(fenced) == len(BLOCKS) + len(commands)
    tests = Path(__file__).read_text()
    assert [remark for remark in BLOCKS if f'"{remark}"' not in tests and not remark.startswith("file: ")] == []


# --- Python ---


def test_the_example_in_python(pipeline: Pipeline) -> None:
    """On either broker, and before any worker has run."""
    assert said_nothing(python(BLOCKS["run: python"], pipeline, "-W", "error"))
    assert cases(pipeline) == [CASE]


def test_the_example_in_python_says_what_is_wrong(redis_pipeline: Pipeline) -> None:
    wrong = changed("run: python", f'"subject": "{CASE}",', "")
    done = python(wrong, redis_pipeline)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("not sent: subject is missing"), done.stderr


def test_the_example_in_python_keeps_what_the_broker_does_not_take(redis_pipeline: Pipeline) -> None:
    redis_pipeline.settings["CASELOG_BROKER_URL"] = "redis://127.0.0.1:1/0"
    impatient = changed("run: python", 'source="/portal"', 'source="/portal", retry_for_s=0.1')
    done = python(impatient, redis_pipeline)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("1 not confirmed: the broker did not confirm 1 event within 0.1 s"), done.stderr


def test_the_example_with_asyncio(redis_pipeline: Pipeline) -> None:
    assert said_nothing(python(BLOCKS["run: asyncio"], redis_pipeline, "-W", "error"))
    assert set(cases(redis_pipeline, 1000)) == {f"AB-{number}" for number in range(1000)}


def test_the_example_with_asyncio_waits_for_room(redis_pipeline: Pipeline) -> None:
    small = changed("run: asyncio", "block_when_full=False", "block_when_full=False, buffer_events=10")
    assert said_nothing(python(small, redis_pipeline, "-W", "error"))
    assert len(cases(redis_pipeline, 1000)) == 1000


def test_an_await_that_is_cancelled_does_not_take_the_event_back(redis_pipeline: Pipeline) -> None:
    """The first event cannot be confirmed before the loop goes on, and by then it is cancelled."""
    impatient = changed(
        "run: asyncio",
        '        await asyncio.gather(*(create_case(publisher, f"AB-{number}") for number in range(1000)))\n',
        "        creating = asyncio.ensure_future(create_case(publisher, 'AB-1'))\n"
        "        await asyncio.sleep(0)\n"
        "        print(creating.cancel())\n",
    )
    done = python(impatient, redis_pipeline, "-W", "error")
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")
    assert cases(redis_pipeline) == ["AB-1"]


def test_the_modules_for_django_publish_from_a_process_and_from_its_fork(redis_pipeline: Pipeline) -> None:
    files = {remark.removeprefix("file: "): code for remark, code in BLOCKS.items() if remark.startswith("file: ")}
    assert set(files) == {"portal/publishing.py", "portal/settings.py", "portal/cases.py"}
    for name, code in {**DJANGO, "portal/__init__.py": "", **files}.items():
        path = redis_pipeline.directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(code)
    done = python(FORKING, redis_pipeline)
    assert done.returncode == 0, done.stderr
    assert set(cases(redis_pipeline, 2)) == {"AB-1", "AB-2"}


def test_the_example_with_the_cloudevents_sdk_of_python(redis_pipeline: Pipeline) -> None:
    assert said_nothing(python(BLOCKS["run: cloudevents in Python"], redis_pipeline, "-W", "error"))
    assert cases(redis_pipeline) == [CASE]


# --- HTTP ---


def served_to(pipeline: Pipeline) -> dict[str, str]:
    """The environment of a sender of a running status worker."""
    return pipeline.environment(CASELOG_URL=Served(pipeline).url, CASELOG_TOKEN=APP)


def test_the_example_with_curl(redis_pipeline: Pipeline) -> None:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl on PATH")
    environment = served_to(redis_pipeline)
    curl = ["sh", "-c", BLOCKS["run: curl"]]
    done = ended(curl, redis_pipeline.directory, environment)
    assert (done.returncode, done.stdout) == (0, '{"accepted":1}'), done.stderr
    assert "`" + done.stdout + "`" in PAGE
    assert ended(curl, redis_pipeline.directory, {**environment, "CASELOG_TOKEN": "another"}).returncode == 22
    assert cases(redis_pipeline) == [CASE]


@pytest.mark.parametrize("mode", ["structured", "binary"])
def test_the_example_with_the_cloudevents_sdk_of_javascript(redis_pipeline: Pipeline, node: Run, mode: str) -> None:
    """In the mode that it shows, and in the other one that the page names."""
    code = changed("run: cloudevents.mjs", "HTTP.structured", f"HTTP.{mode}")
    environment = served_to(redis_pipeline)
    done = node(code, environment)
    assert said_nothing(done), done.stderr
    assert "401: " in node(code, {**environment, "CASELOG_TOKEN": "another"}).stderr
    assert cases(redis_pipeline) == [CASE]


# --- Node on a broker ---


def test_the_example_for_node_on_redis(redis_pipeline: Pipeline, node: Run) -> None:
    """Before any worker has run: the first recorder takes what is in the stream already."""
    url = as_node_writes_it(redis_pipeline.broker_url)
    done = node(BLOCKS["run: redis.mjs"], redis_pipeline.environment(CASELOG_BROKER_URL=url))
    assert said_nothing(done), done.stderr
    assert cases(redis_pipeline) == [CASE]


def test_an_entry_with_another_field_is_a_dead_letter_that_holds_it(redis_pipeline: Pipeline, node: Run) -> None:
    wrong = changed("run: redis.mjs", "{ event: JSON", "{ data: JSON")
    url = as_node_writes_it(redis_pipeline.broker_url)
    assert said_nothing(node(wrong, redis_pipeline.environment(CASELOG_BROKER_URL=url)))
    redis_pipeline.start("recorder")
    eventually(lambda: dead_letters(redis_pipeline.database_url), "a dead letter")
    [letter] = dead_letters(redis_pipeline.database_url)
    assert letter["reason"] == "malformed"
    assert letter["message"].startswith("specversion is missing; id is missing; ")
    held = json.loads(letter["raw"])
    assert re.fullmatch(r"\d+-\d+", held["stream_entry"])
    assert json.loads(held["fields"]["data"])["subject"] == CASE
    assert redis_pipeline.logs() == 0


def test_the_example_for_node_on_rabbitmq(on_rabbitmq: Pipeline, node: Run) -> None:
    """Once a recorder has run; the message survives a restart of RabbitMQ and says when it was sent."""
    declare(on_rabbitmq)
    done = node(BLOCKS["run: rabbitmq.mjs"], on_rabbitmq.environment())
    assert said_nothing(done), done.stderr
    with broker.connect(on_rabbitmq.broker_url) as connection, broker.open_channel(connection) as channel:
        message = channel.basic_get("caselog.events")
        assert message.properties["delivery_mode"] == 2
        assert broker.published_s(message) is not None
    assert cases(on_rabbitmq) == [CASE]


def test_the_example_for_node_on_rabbitmq_says_that_no_queue_took_it_and_declares_none(
    on_rabbitmq: Pipeline, node: Run
) -> None:
    """The exchange is there then, as the page says, and a recorder that comes later does not mind."""
    done = node(BLOCKS["run: rabbitmq.mjs"], on_rabbitmq.environment())
    assert done.returncode == 1
    assert "Error: returned: no queue yet" in done.stderr, done.stderr
    with broker.connect(on_rabbitmq.broker_url) as connection:
        with broker.open_channel(connection) as channel, pytest.raises(NotFound):
            channel.queue_declare("caselog.events", passive=True)
        with broker.open_channel(connection) as channel:
            channel.exchange_declare("caselog.events", "topic", passive=True)
    declare(on_rabbitmq)
    assert said_nothing(node(BLOCKS["run: rabbitmq.mjs"], on_rabbitmq.environment()))
    assert cases(on_rabbitmq) == [CASE]


def test_without_its_exchange_rabbitmq_closes_the_channel(on_rabbitmq: Pipeline, node: Run) -> None:
    without = changed(
        "run: rabbitmq.mjs", 'await channel.assertExchange("caselog.events", "topic", { durable: true });', ""
    )
    done = node(without, on_rabbitmq.environment())
    assert done.returncode == 1
    assert "NOT_FOUND - no exchange 'caselog.events'" in done.stderr, done.stderr
    assert "NOT_FOUND - no exchange 'caselog.events'" in PAGE


def test_the_example_asks_for_an_exchange_that_it_may_not_declare(on_rabbitmq: Pipeline, node: Run) -> None:
    """With `checkExchange`, as the page says, by a user with the rights of a sender alone."""
    declare(on_rabbitmq)
    declares = BLOCKS["run: rabbitmq.mjs"]
    whole = 'assertExchange("caselog.events", "topic", { durable: true })'
    asks = changed("run: rabbitmq.mjs", whole, 'checkExchange("caselog.events")')
    with sender_of(on_rabbitmq.broker_url) as url:
        environment = on_rabbitmq.environment(CASELOG_BROKER_URL=url)
        refused = node(declares, environment)
        assert refused.returncode == 1
        assert "ACCESS_REFUSED" in refused.stderr, refused.stderr
        done = node(asks, environment)
        assert said_nothing(done), done.stderr
    assert cases(on_rabbitmq) == [CASE]


def test_an_event_whose_attributes_are_in_headers_is_a_dead_letter(on_rabbitmq: Pipeline) -> None:
    """The binary mode of the CloudEvents SDK for RabbitMQ."""
    event = CloudEvent({"type": "case", "source": "/portal", "subject": CASE}, {"code": "CASE_CREATED"})
    message = to_binary_event(event)
    declare(on_rabbitmq)
    with broker.connect(on_rabbitmq.broker_url) as connection, broker.open_channel(connection) as channel:
        prepared = channel.prepare_message(message.body, content_type=message.content_type, headers=message.headers)
        channel.basic_publish(prepared, exchange="caselog.events", routing_key="event.case", mandatory=True)
    on_rabbitmq.start("recorder")
    eventually(lambda: dead_letters(on_rabbitmq.database_url), "a dead letter")
    assert [letter["reason"] for letter in dead_letters(on_rabbitmq.database_url)] == ["malformed"]


def declare(pipeline: Pipeline) -> None:
    """What a recorder declares at its start."""
    with broker.connect(pipeline.broker_url) as connection:
        open_events(connection)


@contextmanager
def sender_of(url: str) -> Iterator[str]:
    """The URL of a user of RabbitMQ who has what docs/several-machines.md gives a sender."""
    given = re.search(r"`set_permissions -p caselog shop (.*)`", (ROOT / "docs" / "several-machines.md").read_text())
    assert given is not None
    name, vhost = f"caselog-{uuid4().hex[:8]}", str(parse_url(url)["virtual_host"])
    if shutil.which("rabbitmqctl") is None or VirtualHost.control("add_user", name, "s3cr3t"):
        pytest.skip("rabbitmqctl makes no user (it may want to be run as root)")
    try:
        assert VirtualHost.control("set_permissions", "--vhost", vhost, name, *shlex.split(given[1])) == 0
        yield urlsplit(url)._replace(netloc=f"{name}:s3cr3t@{urlsplit(url).netloc.rpartition('@')[2]}").geturl()
    finally:
        VirtualHost.control("delete_user", name)
