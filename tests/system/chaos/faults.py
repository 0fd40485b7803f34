"""The faults of the rig: each begins something, and says how and after how long it is healed."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from rabbitmq import BELOW_ALARM_MB, Control, OwnNode
from servers import Owned, kill_backend
from wire import Wire

if TYPE_CHECKING:
    from rig import Actor, Rig

# A lease on Redis is 10 s, the rig's heartbeat on RabbitMQ 5 s (two are waited for): longer than either.
PAST_LEASES_S: Final = (12.0, 15.0)


@dataclass(frozen=True)
class Heal:
    after_s: float
    do: Callable[[], None]


# Nothing: it could not be done just now. What it breaks is taken until it is healed.
Begun: TypeAlias = Heal | None


@dataclass(frozen=True)
class Fault:
    """A kind of fault. `target` names what it breaks: what is broken already is left alone until it is healed."""

    kind: str
    target: str
    weight: float
    begin: Callable[[random.Random], Begun]


def _at_once(do: Callable[[], None]) -> Heal:
    return Heal(0, do)


def _nothing() -> None:
    pass


def of_process(rig: Rig, actor: Actor) -> list[Fault]:
    role = actor.role

    def kill(chance: random.Random) -> Begun:
        actor.kill()
        return Heal(chance.uniform(0, 1), actor.start)

    def term(_: random.Random) -> Begun:
        rig.stop_in_time(actor)
        return _at_once(_nothing)

    def freeze(at_least_s: float, at_most_s: float) -> Callable[[random.Random], Begun]:
        def begin(chance: random.Random) -> Begun:
            actor.send(signal.SIGSTOP)
            return Heal(chance.uniform(at_least_s, at_most_s), lambda: actor.send(signal.SIGCONT))

        return begin

    weight = 2.0 if role == "recorder" else 0.7
    return [
        Fault(f"SIGKILL {role}", actor.name, weight, kill),
        Fault(f"SIGTERM {role}", actor.name, weight / 2, term),
        Fault(f"SIGSTOP {role}, 0.1 to 2 s", actor.name, weight / 2, freeze(0.1, 2)),
        Fault(f"SIGSTOP {role}, past every lease", actor.name, weight / 4, freeze(*PAST_LEASES_S)),
    ]


def of_redis(redis: Owned, *, has_aof: bool, is_killed: bool) -> list[Fault]:
    """Without append-only file its restarts are what is tried, so that they come more often."""
    often = 1 if has_aof else 5
    faults = [_stopped(redis, often), _frozen(redis, 0.7), *_full(redis)]
    if is_killed:
        faults.append(_dead(redis, "SIGKILL", signal.SIGKILL, 1.5 * often))
    return faults


def of_postgres(postgres: Owned, direct_url: str) -> list[Fault]:
    def backend(*, politely: bool) -> Callable[[random.Random], Begun]:
        return lambda chance: _at_once(_nothing) if kill_backend(direct_url, chance, politely=politely) else None

    return [
        _stopped(postgres, 1),
        _dead(postgres, "immediate shutdown", signal.SIGQUIT, 1),
        _dead(postgres, "SIGKILL", signal.SIGKILL, 0.5),
        _frozen(postgres, 0.3),
        *_full(postgres),
        Fault("PostgreSQL backend kill -9", "PostgreSQL", 1, backend(politely=False)),
        Fault("PostgreSQL sessions terminated", "PostgreSQL", 1.5, backend(politely=True)),
    ]


def of_node(node: OwnNode) -> list[Fault]:
    """Rarer than the others: a node takes five seconds and more to start."""

    def stop_application(chance: random.Random) -> Begun:
        if not node.stop_application():
            return None
        return Heal(chance.uniform(0, 2), node.start_application)

    return [
        Fault("RabbitMQ stop_app and start_app", node.name, 0.4, stop_application),
        _dead(node, "SIGTERM", signal.SIGTERM, 0.4),
        _dead(node, "SIGKILL", signal.SIGKILL, 0.6),
        _frozen(node, 0.4),
        _frozen(node, 0.1, PAST_LEASES_S, "past every heartbeat"),
        *_full(node, leave_mb=BELOW_ALARM_MB),
    ]


def of_virtual_host(control: Control) -> list[Fault]:
    def do(what: Callable[[], bool]) -> Callable[[random.Random], Begun]:
        return lambda _: _at_once(_nothing) if what() else None

    return [
        Fault("RabbitMQ closes all connections", "RabbitMQ", 1, do(control.close_all_connections)),
        Fault("RabbitMQ virtual host restarted", "RabbitMQ", 0.5, do(control.restart_virtual_host)),
    ]


def _stopped(owned: Owned, weight: float) -> Fault:
    def begin(chance: random.Random) -> Begun:
        owned.stop()
        return Heal(chance.uniform(0, 2), owned.start)

    return Fault(f"{owned.name} stopped and started", owned.name, weight, begin)


def _dead(owned: Owned, how: str, number: signal.Signals, weight: float) -> Fault:
    def begin(chance: random.Random) -> Begun:
        owned.die(number)
        return Heal(chance.uniform(0, 2), owned.start)

    return Fault(f"{owned.name} {how}", owned.name, weight, begin)


def _frozen(owned: Owned, weight: float, for_s: tuple[float, float] = (0.2, 4), how_long: str = "0.2 to 4 s") -> Fault:
    def begin(chance: random.Random) -> Begun:
        owned.send(signal.SIGSTOP)
        return Heal(chance.uniform(*for_s), lambda: owned.send(signal.SIGCONT))

    return Fault(f"{owned.name} SIGSTOP, {how_long}", owned.name, weight, begin)


def _full(owned: Owned, leave_mb: int = 0) -> list[Fault]:
    disk = owned.disk
    if disk is None:
        return []

    def begin(chance: random.Random) -> Begun:
        disk.fill(leave_mb)
        return Heal(chance.uniform(1, 4), disk.free)

    how = "disk almost full" if leave_mb else "disk full"
    return [Fault(f"{owned.name}: {how}", f"{owned.name}'s disk", 0.7, begin)]


def of_wire(name: str, wire: Wire) -> list[Fault]:
    def reset(_: random.Random) -> Begun:
        wire.reset()
        return _at_once(_nothing)

    def delay(chance: random.Random) -> Begun:
        wire.delay_s = chance.uniform(0.01, 0.3)
        return Heal(chance.uniform(0.5, 3), wire.heal)

    def stall(direction: str) -> Callable[[random.Random], Begun]:
        def begin(chance: random.Random) -> Begun:
            wire.stalled = frozenset({direction})
            return Heal(chance.uniform(0.5, 5), wire.heal)

        return begin

    def half_open(at_most_s: float) -> Callable[[random.Random], Begun]:
        def begin(chance: random.Random) -> Begun:
            wire.is_half_open = True
            return Heal(chance.uniform(0.5, at_most_s), wire.heal)

        return begin

    def refuse(chance: random.Random) -> Begun:
        wire.is_refusing = True
        wire.reset()
        return Heal(chance.uniform(0.5, 3), wire.heal)

    target = f"wire to {name}"
    return [
        Fault(f"{target}: reset", target, 2, reset),
        Fault(f"{target}: slow", target, 0.7, delay),
        Fault(f"{target}: nothing gets there", target, 0.6, stall("up")),
        Fault(f"{target}: nothing comes back", target, 0.6, stall("down")),
        Fault(f"{target}: half-open, 0.5 to 5 s", target, 0.6, half_open(5)),
        Fault(f"{target}: half-open, to 20 s", target, 0.2, half_open(20)),
        Fault(f"{target}: refuses", target, 0.6, refuse),
    ]
