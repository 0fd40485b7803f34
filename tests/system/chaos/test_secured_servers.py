"""All servers speak TLS alone and let in users who may do no more than docs/several-machines.md says: all works."""

from __future__ import annotations

import os
import pwd
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Collection, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import dramatiq.brokers.redis
import psycopg
import pytest
import redis
from brokers.broker_under_test import missing
from rabbitmq import Node, find_programs
from support.processes.patience import DEADLINE_S
from support.processes.pipeline import ROOT, Pipeline, created, event, eventually
from support.processes.served import Served
from support.servers import certificates
from support.servers.certificates import Certificates, make_certificates
from support.servers.children import start_child
from support.servers.free_ports import free_port

from caselog.events.transport.broker import connect, open_channel
from caselog.events.transport.publisher import Publisher

SECRET: Final = "p@ss/word"
ADMIN: Final = "the-administrator"
DOCS: Final = (ROOT / "docs" / "several-machines.md").read_text()
# A dead letter is part of the test.
QUIET: Final = {"CASELOG_HEALTH_DEAD_LETTER_S": "0"}
# In a session of its own, which psql would have with \\connect.
IN_DATABASE: Final = re.compile(r"^(grant|alter default privileges) ")


def documented(pattern: str) -> list[str]:
    """The lines of the documentation's examples that begin so, with the secret in them."""
    found = [line for line in DOCS.splitlines() if re.match(pattern, line)]
    assert found, pattern
    return [line.replace("SECRET", SECRET) for line in found]


class SecuredRedis:
    """A Redis on a port with TLS, where the administrator may do everything, and caselog what is documented."""

    def __init__(self, program: str, directory: Path, made: Certificates) -> None:
        self.port, self._made = free_port(), made
        options = {
            "port": "0",
            "tls-port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(directory),
            "save": "",
            "appendonly": "yes",
            "tls-ca-cert-file": str(made.authority),
            "tls-cert-file": str(made.certificate),
            "tls-key-file": str(made.key),
            "tls-auth-clients": "no",
        }
        argv = [program, *(word for name, value in options.items() for word in (f"--{name}", value))]
        with (directory / "redis.log").open("wb") as log:
            self.process = start_child(argv, stdout=log, stderr=log, cwd=directory)
        eventually(self._answers, "Redis answers")
        with self._client() as client:
            client.execute_command("ACL", "SETUSER", "admin", "on", f">{ADMIN}", "~*", "&*", "+@all")
        with self.admin() as client:
            for line in documented("ACL SETUSER "):
                client.execute_command(*shlex.split(line))
            client.execute_command("ACL", "SETUSER", "default", "off")
        self.url = f"rediss://caselog:{quote(SECRET, safe='')}@127.0.0.1:{self.port}/0?ssl_ca_certs={made.authority}"

    def admin(self) -> redis.Redis:
        return self._client(username="admin", password=ADMIN)

    def refused(self) -> list[Any]:
        """What caselog's user wanted to do and may not."""
        with self.admin() as client:
            return [line for line in client.acl_log() if line["username"] == "caselog"]

    def would_refuse(self, commands: Collection[str]) -> list[str]:
        """Which of these commands caselog's user may not run on caselog's keys."""
        with self.admin() as client:
            told = {name: client.execute_command("COMMAND", "INFO", name)[name]["arity"] for name in commands}
            tried = {
                name: client.execute_command("ACL", "DRYRUN", "caselog", name, *["caselog.x"] * (abs(arity) - 1))
                for name, arity in told.items()
            }
        return [name for name, answer in tried.items() if answer != "OK"]

    def _client(self, **more: str) -> redis.Redis:
        given: dict[str, Any] = {"ssl": True, "ssl_ca_certs": str(self._made.authority), **more}
        return redis.Redis(host="127.0.0.1", port=self.port, decode_responses=True, **given)

    def _answers(self) -> bool:
        with suppress(redis.ConnectionError), self._client() as client:
            return bool(client.ping())
        return False

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(DEADLINE_S)


class SecuredPostgres:
    """Debian's PostgreSQL, since that of the tests has no TLS. Without TLS nobody gets in."""

    def __init__(self, programs: Path, directory: Path, made: Certificates) -> None:
        self.port = free_port()
        data = directory / "data"
        self._as: dict[str, Any] = {}
        if os.getuid() == 0:
            owner = pwd.getpwnam("postgres")
            self._as = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
            os.chown(directory, owner.pw_uid, owner.pw_gid)
        own_key = directory / "server.key"
        shutil.copy(made.key, own_key)
        own_key.chmod(0o600)
        if os.getuid() == 0:
            os.chown(own_key, owner.pw_uid, owner.pw_gid)
        making = [
            str(programs / "initdb"),
            "-D",
            str(data),
            "-U",
            "postgres",
            "--auth=trust",
            "-E",
            "UTF8",
            "--no-sync",
        ]
        subprocess.run(making, check=True, capture_output=True, cwd=directory, timeout=DEADLINE_S, **self._as)
        (data / "pg_hba.conf").write_text("local all postgres trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n")
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(directory),
            "ssl": "on",
            "ssl_cert_file": str(made.certificate),
            "ssl_key_file": str(own_key),
            "fsync": "off",
            "max_locks_per_transaction": "256",
        }
        argv = [str(programs / "postgres"), "-D", str(data)]
        argv += [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        self.log = directory / "log"
        with self.log.open("wb") as log:
            self.process = start_child(argv, stdout=log, stderr=log, cwd=directory, **self._as)
        self._sockets = directory
        eventually(self._answers, "PostgreSQL answers")
        for line in documented("create "):
            self.execute("postgres", line)
        for line in documented(IN_DATABASE.pattern):
            self.execute("caselog", line)
        self._root = made.authority

    def url(self, role: str) -> str:
        return (
            f"postgresql://{role}:{quote(SECRET, safe='')}@127.0.0.1:{self.port}/caselog"
            f"?sslmode=verify-full&sslrootcert={self._root}"
        )

    def execute(self, database: str, statement: str) -> None:
        with psycopg.connect(self._by_socket(database), autocommit=True) as db:
            db.execute(statement.encode())

    def _by_socket(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={self._sockets}&port={self.port}"

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        with suppress(psycopg.OperationalError):
            psycopg.connect(self._by_socket("postgres")).close()
            return True
        return False

    def close(self) -> None:
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(DEADLINE_S)


class SecuredRabbitMq:
    """A node of which caselog's user has the documented permissions, on a port with TLS."""

    def __init__(self, programs: Path, directory: Path, made: Certificates) -> None:
        port = free_port()
        lines = {
            "listeners.ssl.1": f"127.0.0.1:{port}",
            "ssl_options.cacertfile": made.authority,
            "ssl_options.certfile": made.certificate,
            "ssl_options.keyfile": made.key,
            "ssl_options.verify": "verify_none",
        }
        config = "".join(f"{name} = {value}\n" for name, value in lines.items())
        self.node = Node(programs, directory, config=config.replace("default_vhost = caselog\n", ""))
        self.node.start()
        self.node.wait_until_ready()
        for line in documented("rabbitmqctl "):
            words = shlex.split(line)[1:]
            assert self.node.control(*words) or words[0] == "add_vhost", line  # the node is made with this one
        self.url = f"amqps://caselog:{quote(SECRET, safe='')}@127.0.0.1:{port}/caselog?ssl_ca_certs={made.authority}"
        self.unverified_url = self.url.partition("?")[0]


@pytest.fixture
def made() -> Iterator[Certificates]:
    if certificates.PROGRAM is None:
        missing("there is no openssl to make certificates with")
    directory = Path(tempfile.mkdtemp(prefix="caselog-tls-", dir="/tmp"))
    directory.chmod(0o755)
    yield make_certificates(directory)
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def secured(made: Certificates) -> Iterator[tuple[SecuredPostgres, SecuredRedis]]:
    program = shutil.which("redis-server")
    if program is None:
        missing("there is no redis-server on PATH, and the tests' own has no TLS")
    postgres = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not postgres:
        missing("there is no PostgreSQL of Debian's in /usr/lib/postgresql, and the tests' own has no TLS")
    with ExitStack() as stack:
        directories = [made.key.parent / name for name in ("redis", "postgres")]
        for directory in directories:
            directory.mkdir()
        first = SecuredRedis(program, directories[0], made)
        stack.callback(first.close)
        second = SecuredPostgres(postgres[-1].parent, directories[1], made)
        stack.callback(second.close)
        yield second, first


@pytest.fixture
def secured_rabbitmq(made: Certificates) -> Iterator[SecuredRabbitMq]:
    programs = find_programs()
    if programs is None:
        missing("there is no rabbitmq-server to start")
    one = SecuredRabbitMq(programs, made.key.parent / "rabbitmq", made)
    yield one
    one.node.close()


def everything_works(one: Pipeline, owner_url: str) -> None:
    migrated = one.run("migrate", CASELOG_DATABASE_URL=owner_url)
    assert migrated.returncode == 0, migrated.stderr
    workers = [one.start(role) for role in ("recorder", "tasks")]
    status = Served(one)
    one.publish([created("AB-1"), event("case", "NO_SUCH_CODE", "AB-1"), event("case", "CASE_VIEWED", "NOT-THERE")])
    one.recorded(1)
    for words in (
        *(
            ("wait", "--timeout", "150"),
            ("queues",),
            ("log", "AB-1"),
            ("verify",),
            ("rebuild",),
            ("pause", "--why", "x"),
        ),
        *(("resume",), ("dead", "requeue", "--all", "--yes", "--why", "x"), ("export", "dead"), ("migrate",)),
    ):
        done = one.run(*words)
        assert done.returncode == (1 if words[:2] == ("dead", "requeue") else 0), (words, done.stderr)
    eventually(lambda: one.run("ping").returncode == 0, "a ping says that all is well")
    checks = status.get("/healthcheck.json").json()
    assert [name for name, check in checks.items() if not check["status"]] == []
    assert status.get("/metrics").is_success
    for worker in (*workers, status.worker):
        assert worker.stop(30) == 0
        assert '"level": "error"' not in worker.said(), worker.said()
        assert "refuse" not in worker.said(), worker.said()
        assert "denied" not in worker.said(), worker.said()


@pytest.mark.slow
def test_all_works_over_tls_with_the_documented_users_on_redis(
    tmp_path: Path, secured: tuple[SecuredPostgres, SecuredRedis]
) -> None:
    """And a server whose certificate nobody vouches for, or which is another's, is not talked to."""
    database, server = secured
    one = Pipeline(tmp_path, database.url("caselog"), server.url, server.url, **QUIET)
    try:
        everything_works(one, database.url("caselog_owner"))
        reader = one.run("log", "AB-1", CASELOG_DATABASE_URL=database.url("caselog_reader"))
        assert reader.returncode == 0, reader.stderr
        assert server.refused() == []
        assert server.would_refuse(called_by_dramatiq()) == []
        assert sorted(server.would_refuse({"flushall", "shutdown", "xadd"})) == ["flushall", "shutdown"]
    finally:
        one.close()
    for url in (server.url.partition("?")[0], server.url.replace("@127.0.0.1:", "@localhost:")):
        with connect(url) as connection, pytest.raises(connection.connection_errors, match="CERTIFICATE_VERIFY"):
            open_channel(connection)


def called_by_dramatiq() -> set[str]:
    """What its script calls, also for a worker that has been dead for a minute, which no test waits for."""
    return set(
        re.findall(
            r'redis\.call\("(\w+)"',
            (Path(dramatiq.brokers.redis.__file__).parent / "redis" / "dispatch.lua").read_text(),
        )
    )


@pytest.mark.slow
def test_all_works_over_tls_with_the_documented_permissions_on_rabbitmq(
    tmp_path: Path, secured: tuple[SecuredPostgres, SecuredRedis], secured_rabbitmq: SecuredRabbitMq
) -> None:
    """And a server whose certificate nobody vouches for is not talked to."""
    database, server = secured
    one = Pipeline(tmp_path, database.url("caselog"), secured_rabbitmq.url, server.url, **QUIET)
    try:
        everything_works(one, database.url("caselog_owner"))
        assert server.refused() == []
        assert secured_rabbitmq.node.control("add_user", "shop", SECRET)
        permissions = re.search(r"`set_permissions -p caselog shop (.*)`", DOCS)
        assert permissions is not None
        words = shlex.split(permissions[1])
        assert secured_rabbitmq.node.control("set_permissions", "-p", "caselog", "shop", *words)
        with Publisher(secured_rabbitmq.url.replace("//caselog:", "//shop:")) as publisher:
            publisher.publish(created("AB-2"))
        one.start("recorder")
        one.recorded(2)
    finally:
        one.close()
    with connect(secured_rabbitmq.unverified_url) as connection, pytest.raises(OSError, match="CERTIFICATE_VERIFY"):
        open_channel(connection)
    elsewhere = secured_rabbitmq.url.replace("@127.0.0.1:", "@localhost:")
    with connect(elsewhere) as connection, pytest.raises(OSError, match="Hostname mismatch"):
        open_channel(connection)
    for lenient in (secured_rabbitmq.unverified_url + "?ssl_cert_reqs=none", elsewhere + "&ssl_check_hostname=false"):
        with connect(lenient) as connection:
            open_channel(connection)
