"""What a broker that answers, and refuses, means in words, and what to do: it is told from one that is away."""

from __future__ import annotations

from typing import Final

from amqp.exceptions import AMQPError, MessageNacked
from redis.exceptions import AuthenticationError, ResponseError

from caselog.events.errors import BrokerRefusal
from caselog.events.phrases import sentence

_PERMISSIONS: Final = (
    "allow it to the user of CASELOG_BROKER_URL: rabbitmqctl set_permissions -p VHOST USER '^caselog\\.' "
    "'^(caselog\\.|amq\\.)' '^caselog\\.'"
)
_BY_CODE: Final = {
    403: _PERMISSIONS,
    404: "start the node that it names, or make what is missing: a Publisher and a recorder declare what they need",
    405: "another connection holds it for itself alone: end that one (rabbitmqctl list_connections)",
    406: "see what it was made with (rabbitmqctl list_queues name arguments, list_exchanges), and delete it if it is "
    "not caselog's",
    530: "make the virtual host, or let the user of CASELOG_BROKER_URL in: rabbitmqctl add_vhost, set_permissions",
}
_LOGIN: Final = "check the user and the password of CASELOG_BROKER_URL"
_NACKED: Final = (
    "RabbitMQ took a message and gave it back (nack): a policy limits the length of the queue, or the queue has no "
    "majority of its nodes. See: rabbitmqctl list_policies -p VHOST; rabbitmq-queues quorum_status caselog.events"
)
_BY_WORD: Final = {
    "OOM": "give it more memory (maxmemory), or let recorders empty the queue",
    "OUTOFMEMORY": "give it more memory (maxmemory), or let recorders empty the queue",
    "READONLY": "it is a replica: name the primary in CASELOG_BROKER_URL",
    "MISCONF": "it cannot save to its disk: free space there, and see its log",
    "NOPERMISSION": "allow it to the user of CASELOG_BROKER_URL (ACL SETUSER)",
    "NOPERM": "allow it to the user of CASELOG_BROKER_URL (ACL SETUSER)",
    "WRONGTYPE": "a key of caselog's name holds something else: use a database of caselog's own",
}


def refusal(error: BaseException) -> str | None:
    """One line that says what the broker refuses and what to do; None where it did not answer, or closes down."""
    if isinstance(error, BrokerRefusal):
        return str(error)
    if isinstance(error, MessageNacked):
        return _NACKED
    if isinstance(error, AMQPError):
        return _of_rabbitmq(error)
    if isinstance(error, AuthenticationError | ResponseError):
        return _of_redis(error)
    return None


def _of_rabbitmq(error: AMQPError) -> str | None:
    said = error.reply_text or type(error).__name__
    remedy = _LOGIN if "Login was refused" in str(said) else _BY_CODE.get(error.reply_code)
    if remedy is None:
        return None
    # Of a list of hosts: which one it is, and what the others said.
    notes = "".join(f". {note}" for note in getattr(error, "__notes__", ()))
    return f"RabbitMQ refuses: {error.reply_code} {said}. To mend it, {remedy}{notes}"


def _of_redis(error: Exception) -> str:
    """By the word that Redis begins its answer with, which redis-py turns into a class where it knows it."""
    word, name = str(error).partition(" ")[0], type(error).__name__.removesuffix("Error").upper()
    fallback = _LOGIN if isinstance(error, AuthenticationError) else "see the log of Redis"
    return f"Redis refuses: {sentence(error)} To mend it, {_BY_WORD.get(name) or _BY_WORD.get(word) or fallback}"


def alarm_refusal(alarm: str) -> BrokerRefusal:
    """The error for what cannot be published because of RabbitMQ's alarm, given RabbitMQ's words."""
    return BrokerRefusal(
        f"RabbitMQ takes nothing that is published: alarm, {alarm}. Free memory or disk on its nodes (see: rabbitmq-"
        f"diagnostics alarms); it then goes on by itself, and recorders record meanwhile"
    )
