"""A virtual host of our own on this machine's RabbitMQ, of which others use the rest."""

from __future__ import annotations

import subprocess
from typing import Final
from uuid import uuid4

from support.processes.patience import DEADLINE_S

RABBITMQ: Final = ("127.0.0.1", 5672)


class VirtualHost:
    """Made at once, deleted by `close`. Raises `OSError` where rabbitmqctl may not make one."""

    def __init__(self, purpose: str) -> None:
        self.name = f"caselog-{purpose}-{uuid4().hex[:8]}"
        if self.control("add_vhost", self.name) or self.control(
            "set_permissions", "--vhost", self.name, "guest", ".*", ".*", ".*"
        ):
            raise OSError("rabbitmqctl cannot make a virtual host of our own (it may want to be run as root)")
        self.direct_url = f"amqp://guest:guest@{RABBITMQ[0]}:{RABBITMQ[1]}/{self.name}"

    def close(self) -> None:
        self.control("delete_vhost", self.name)

    @staticmethod
    def control(*arguments: str) -> int:
        """The exit status of a `rabbitmqctl` command."""
        done = subprocess.run(
            ["rabbitmqctl", "--quiet", *arguments], capture_output=True, timeout=DEADLINE_S, check=False
        )
        return done.returncode
