"""The RabbitMQ that the rig breaks: a node of its own where the programs are, else a virtual host on one of others."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Final
from uuid import uuid4

from servers import Disk, Owned, may_mount
from support.servers.free_ports import free_port
from wire import Wire, Wires

from caselog.workers.process.supervisor import die_with_parent

SHARED: Final = ("127.0.0.1", 5672)
STARTS_WITHIN_S: Final = 120.0
STOPS_WITHIN_S: Final = 60.0
DISK_MB: Final = 400
# With less free than its limit (60 MB) RabbitMQ blocks publishers.
BELOW_ALARM_MB: Final = 30
_CONTROL_S: Final = 120.0
_CONFIG: Final = """\
listeners.tcp.1 = 127.0.0.1:{port}
default_vhost = caselog
raft.wal_max_size_bytes = 16000000
disk_free_limit.absolute = 60MB
"""


class Control:
    """`rabbitmqctl` of a node, and a virtual host on it."""

    def __init__(self, program: str, vhost: str, environment: Mapping[str, str] | None = None) -> None:
        self._program, self._vhost, self._environment = program, vhost, environment

    def __call__(self, *arguments: str) -> bool:
        """Whether it was done. It is not where the node is down or has only just begun to start."""
        done = subprocess.run(
            [self._program, "--quiet", *arguments],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_CONTROL_S,
            check=False,
        )
        return done.returncode == 0

    def output(self, *arguments: str) -> str:
        """What it prints."""
        return subprocess.run(
            [self._program, "--quiet", *arguments],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_CONTROL_S,
            check=True,
            text=True,
        ).stdout

    def close_all_connections(self) -> bool:
        return self("close_all_connections", "--vhost", self._vhost, "chaos")

    def restart_virtual_host(self) -> bool:
        return self("restart_vhost", "--vhost", self._vhost)


class Node:
    """A RabbitMQ on a directory, with an epmd (Erlang's register of nodes) of its own beside it.

    A node takes seconds to start and to stop, in which the rig goes on: `start` does not wait until it answers. One
    `beside` another shares its epmd and its cookie, so that it may join it (`join`). `config` are lines more of its
    rabbitmq.conf.
    """

    def __init__(self, programs: Path, directory: Path, *, beside: Node | None = None, config: str = "") -> None:
        self._program = programs / "rabbitmq-server"
        self._directory = directory
        self._node: subprocess.Popen[bytes] | None = None
        self.port, distribution_port, epmd_port = (free_port() for _ in range(3))
        self.epmd_port: int = epmd_port if beside is None else beside.epmd_port
        self.home: Path = directory / "home" if beside is None else beside.home  # where the cookie is made
        self.name = f"caselog-chaos-{uuid4().hex[:8]}@localhost"
        for name in ("home", "data", "log"):
            (directory / name).mkdir(mode=0o700, parents=True)
        self.disk = Disk(directory / "data", DISK_MB) if may_mount() else None
        (directory / "rabbitmq.conf").write_text(_CONFIG.format(port=self.port) + config)
        (directory / "plugins").write_text("[].\n")
        self._environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "LC_ALL": "C.UTF-8",
            "HOME": str(self.home),
            "ERL_EPMD_PORT": str(self.epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_DIST_PORT": str(distribution_port),
            "RABBITMQ_MNESIA_BASE": str(directory / "data"),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
            "RABBITMQ_PID_FILE": str(directory / "pid"),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,  # nothing of the machine's own node
            # So the script becomes the node instead of waiting for it, and the node reads no input all the same.
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-noinput -start_epmd false",
        }
        self.control = Control(str(programs / "rabbitmqctl"), "caselog", self._environment)
        self._epmd: subprocess.Popen[bytes] | None = None
        if beside is None:
            self._epmd = self._run("epmd", "-port", str(self.epmd_port), "-address", "127.0.0.1")

    @property
    def pid(self) -> int | None:
        return None if self._node is None else self._node.pid

    def has_died(self) -> bool:
        return self._node is not None and self._node.poll() is not None

    def start(self) -> None:
        self._node = self._run(str(self._program))

    def join(self, other: Node) -> None:
        """Become a member of the other's cluster; both run. Raises `OSError` where it cannot."""
        for arguments in (("stop_app",), ("join_cluster", other.name), ("start_app",)):
            if not self.control(*arguments):
                raise OSError(f"{self.name} does not join the cluster of {other.name}: {arguments[0]} failed")

    def stop(self) -> None:
        """As SIGTERM does it, and wait until it is gone."""
        _end(self._node)
        self._node = None

    def close(self) -> None:
        self.stop()
        _end(self._epmd)
        self._epmd = None
        if self.disk is not None:
            self.disk.close()

    def answers(self) -> bool:
        """Whether it greets a client, which it does when its queues are back."""
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=2) as client:
            client.settimeout(2)
            client.sendall(b"AMQP\x00\x00\x09\x01")
            return client.recv(1) == b"\x01"  # a method: connection.start
        return False

    def wait_until_ready(self) -> None:
        """Raises `OSError` where it ends instead."""
        deadline_s = monotonic() + STARTS_WITHIN_S
        while not self.answers():
            if self.has_died() or monotonic() > deadline_s:
                raise OSError(f"the RabbitMQ of the rig does not start: {self._output.read_text()[-600:]}")
            sleep(0.1)

    @property
    def _output(self) -> Path:
        return self._directory / "log" / "output"

    def _run(self, *argv: str) -> subprocess.Popen[bytes]:
        with self._output.open("ab") as output:
            return subprocess.Popen(
                argv,
                env=self._environment,
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGTERM),  # noqa: PLW1509 - two system calls, see die_with_parent
            )


class OwnNode(Owned):
    """A node behind its wire."""

    def __init__(self, node: Node, wires: Wires) -> None:
        super().__init__("RabbitMQ", node, Wire(wires, ("127.0.0.1", node.port)), node.disk)
        self.node, self.control = node, node.control
        self.url = f"amqp://guest:guest@127.0.0.1:{self.wire.port}/caselog?heartbeat=5"

    def stop_application(self) -> bool:
        """As an operator does it: clients are gone, the Erlang beneath goes on."""
        return self.control("stop_app")

    def start_application(self) -> None:
        if not self.control("start_app") and not self.node.has_died():
            raise OSError("rabbitmqctl cannot start the application of the rig's node again")

    def is_up(self) -> bool:
        return super().is_up() and self.node.answers()

    def close(self) -> None:
        super().close()
        self.node.close()


class VirtualHost:
    """A virtual host of our own on a RabbitMQ of which others use the rest."""

    def __init__(self, wires: Wires) -> None:
        name = f"caselog-chaos-{uuid4().hex[:8]}"
        self._name = name
        self.control = Control("rabbitmqctl", name)
        if not (
            self.control("add_vhost", name)
            and self.control("set_permissions", "--vhost", name, "guest", ".*", ".*", ".*")
        ):
            raise OSError("rabbitmqctl cannot make a virtual host of our own (it may want to be run as root)")
        self.wire = Wire(wires, SHARED)
        self.url = f"amqp://guest:guest@127.0.0.1:{self.wire.port}/{name}?heartbeat=5"

    def close(self) -> None:
        self.control("delete_vhost", self._name)


def start_rabbitmq(directory: Path, wires: Wires) -> OwnNode | VirtualHost:
    """A node of our own where one can be started, and elsewhere a virtual host."""
    programs = find_programs()
    if programs is not None:
        node = Node(programs, directory)
        try:
            node.start()
            node.wait_until_ready()
        except OSError as error:
            node.close()
            sys.stderr.write(f"{error}\nA virtual host of the RabbitMQ on port {SHARED[1]} is used instead.\n")
        except BaseException:
            node.close()
            raise
        else:
            return OwnNode(node, wires)
    return VirtualHost(wires)


def find_programs() -> Path | None:
    """The directory of RabbitMQ's programs, or None where no node of our own can be started."""
    on_path = shutil.which("rabbitmq-server")
    if on_path is None or shutil.which("epmd") is None:
        return None
    # Debian's programs on PATH want to be the user rabbitmq. They are links to beside those that run as anyone.
    directory = Path(on_path).resolve().parent
    return directory if all((directory / name).exists() for name in ("rabbitmq-server", "rabbitmqctl")) else None


def _end(process: subprocess.Popen[bytes] | None) -> None:
    if process is None or process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(STOPS_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
