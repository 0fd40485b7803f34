"""The transport to RabbitMQ: kombu's, which here also tries a list of hosts and keeps what RabbitMQ says of its alarms.

With too little memory or disk RabbitMQ stops reading what is published, and tells each connection that publishes why
(`connection.blocked`). py-amqp reads the notification without its reason; kombu has no place for it. Here it is the
attribute `alarm` of kombu's connection: None, or RabbitMQ's words.

kombu has lists of hosts, too; but it goes on with the next one only in its own loops, which wait between two attempts,
never after a refusal or an operation that failed, and then with a transport that knows nothing of alarms. And each of
its connections begins with the first one again. So a list is tried here, where a connection is made.
"""

from __future__ import annotations

import ssl
from time import monotonic
from types import TracebackType
from typing import Any, ClassVar, Final
from urllib.parse import unquote

import kombu
from amqp import spec
from kombu.transport import TRANSPORT_ALIASES, pyamqp

from caselog.events.credentials import hide
from caselog.events.transport.hosts import hosts_of
from caselog.events.transport.refusals import refusal
from caselog.events.transport.urls import ServiceUrl, virtual_host_of

TRANSPORT: Final = "caselog-amqp"
CONNECT_TIMEOUT_S: Final = 5.0
# Of several hosts one that is silent must not keep us from the others for long. Whoever waits for a health check, for
# an answer to a ping or for a worker's end still gets it.
CONNECT_TIMEOUT_OF_SEVERAL_S: Final = 3.0
# Where no time is left, a host that is well still gets to answer, and each is named in what is said.
CONNECT_TIMEOUT_MIN_S: Final = 0.5
# As long as Redis has for an answer (`redis_streams`).
ANSWER_TIMEOUT_S: Final = 15.0
_CERTIFICATE: Final = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
_NO: Final = ("false", "no", "0")


class Connection(pyamqp.Connection):
    _METHODS: ClassVar = {
        **pyamqp.Connection._METHODS,  # noqa: SLF001 - there is no public way to read the reason
        spec.Connection.Blocked: spec.method(spec.Connection.Blocked, "s"),
    }

    def drain_events(self, timeout: float | None = None) -> Any:
        """Read until something came, at most `timeout` seconds. Raises `TimeoutError`.

        py-amqp gives no limit where it waits for an answer, to a channel that is opened or a queue that is declared;
        over a wire that died half open, or from a node that hangs, none would ever come.
        """
        return super().drain_events(ANSWER_TIMEOUT_S if timeout is None else timeout)

    def _on_blocked(self, reason: str = "") -> None:
        self.client.alarm = reason or "an alarm"

    def _on_unblocked(self) -> None:
        self.client.alarm = None


class Transport(pyamqp.Transport):
    Connection = Connection

    def establish_connection(self) -> Any:
        """A connection to the first host that takes one, each tried once; all later ones of this process begin with it.

        Raises what the host raised; of several, the refusal of one that answered, with a note of what each said, before
        all that say no more than that a host is away.
        """
        client = self.client
        client.alarm = None
        failures: list[tuple[str, Exception]] = []
        for url in client.hosts.in_order():
            for name, value in client.parameters_of(url).items():
                setattr(client, name, value)
            try:
                connection = super().establish_connection()
            except (*self.connection_errors, *self.channel_errors) as error:
                failures.append((client.hosts.name(url), error))
                client.hosts.leave(url)
            else:
                client.url = url
                return connection
        raise _most_telling(failures)


class RabbitMq(kombu.Connection):
    """kombu's connection, to any one of these hosts. `url` is the one that it is, or was, connected to."""

    def __init__(self, urls: tuple[ServiceUrl, ...], heartbeat_s: float) -> None:
        self.hosts = hosts_of(urls)
        self.url = urls[0]
        self.alarm: str | None = None
        # By the monotonic clock, when whoever waits for a connection wants to know that there is none.
        self.deadline_s: float | None = None
        self._heartbeat_s = heartbeat_s
        self._timeout_s = CONNECT_TIMEOUT_S if len(urls) == 1 else CONNECT_TIMEOUT_OF_SEVERAL_S
        super().__init__(
            transport=TRANSPORT,
            # Without it a publish returns before RabbitMQ has the message.
            transport_options={"confirm_publish": True},
            **self.parameters_of(self.url),
        )

    def leave_after(self, error: BaseException | None) -> None:
        """Where this is an error of the connection, the next one of this process begins with another host.

        What the server refuses on a channel it would refuse on each of its nodes.
        """
        if isinstance(error, self.connection_errors):
            self.hosts.leave(self.url)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave_after(error)
        super().__exit__(kind, error, trace)

    def parameters_of(self, url: ServiceUrl) -> dict[str, Any]:
        """What a URL says, as attributes of kombu's connection."""
        ((host, port),) = url.hosts
        told = {name: unquote(value) for name, value in url.parameters}
        host = unquote(host.strip("[]")) or "127.0.0.1"
        is_secure = url.scheme == "amqps"
        return {
            "hostname": host,
            "port": int(port) if port else pyamqp.DEFAULT_SSL_PORT if is_secure else pyamqp.DEFAULT_PORT,
            "userid": unquote(url.user or ""),
            "password": unquote(url.password or ""),
            "virtual_host": virtual_host_of(url),
            "login_method": told.get("login_method"),
            "connect_timeout": self._patience_s(float(told.get("connect_timeout", self._timeout_s))),
            "heartbeat": float(told.get("heartbeat", self._heartbeat_s)),
            "ssl": _tls(host, told) if is_secure else False,
        }

    def _patience_s(self, timeout_s: float) -> float:
        """What is left of the time to the deadline, and a little in any case."""
        left_s = timeout_s if self.deadline_s is None else self.deadline_s - monotonic()
        return min(timeout_s, max(left_s, CONNECT_TIMEOUT_MIN_S))


def _tls(host: str, told: dict[str, str]) -> dict[str, Any]:
    """What py-amqp is told of TLS: a certificate that is this host's is wanted, unless the URL says otherwise.

    (kombu gives py-amqp the names as they stand in a URL, which it does not know.)
    """
    files = {name: told[f"ssl_{name}"] for name in ("ca_certs", "certfile", "keyfile") if f"ssl_{name}" in told}
    wanted = _CERTIFICATE[told.get("ssl_cert_reqs", "required")]
    is_its_own = wanted == ssl.CERT_REQUIRED and told.get("ssl_check_hostname", "true").lower() not in _NO
    # (Not None: kombu would put the host in its place.)
    return {**files, "cert_reqs": wanted, **({"server_hostname": host} if is_its_own else {})}


def _most_telling(failures: list[tuple[str, Exception]]) -> Exception:
    if len(failures) == 1:
        return failures[0][1]
    for which, error in failures:
        if refusal(error) is not None:
            others = "; ".join(f"{name}: {_in_words(other)}" for name, other in failures if other is not error)
            error.add_note(f"It is {which} that says so. Of the others, {others}")
            return error
    return ConnectionError("; ".join(f"{which}: {_in_words(error)}" for which, error in failures))


def _in_words(error: Exception) -> str:
    """What a host said, and not what to do: that is said of the first one that refuses."""
    said = getattr(error, "reply_text", None) or error
    return hide(str(said).strip()) or type(error).__name__


TRANSPORT_ALIASES[TRANSPORT] = f"{__name__}:{Transport.__qualname__}"
