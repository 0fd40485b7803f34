"""The faults of the rig: each begins something, and says how and after how long it is healed."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

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


def of_server(owned: Owned) -> list[Fault]:
    def stop(chance: random.Random) -> Begun:
        owned.stop()
        return Heal(chance.uniform(0, 2), owned.start)

    def die(number: signal.Signals) -> Callable[[random.Random], Begun]:
        def begin(chance: random.Random) -> Begun:
            owned.die(number)
            return Heal(chance.uniform(0, 2), owned.start)

        return begin

    def freeze(chance: random.Random) -> Begun:
        owned.send(signal.SIGSTOP)
        return Heal(chance.uniform(0.2, 4), lambda: owned.send(signal.SIGCONT))

    name = owned.name
    faults = [Fault(f"{name} stopped and started", name, 1, stop)]
    if name == "Redis":
        faults += [Fault("Redis SIGKILL", name, 1.5, die(signal.SIGKILL)), Fault("Redis SIGSTOP", name, 0.7, freeze)]
    else:
        faults.append(Fault("PostgreSQL immediate shutdown", name, 1, die(signal.SIGQUIT)))
    if (disk := owned.disk) is not None:

        def fill(chance: random.Random) -> Begun:
            disk.fill()
            return Heal(chance.uniform(1, 4), disk.free)

        faults.append(Fault(f"{name}: disk full", f"{name}'s disk", 0.7, fill))
    return faults


def of_sessions(direct_url: str) -> list[Fault]:
    def backend(*, politely: bool) -> Callable[[random.Random], Begun]:
        return lambda chance: _at_once(_nothing) if kill_backend(direct_url, chance, politely=politely) else None

    return [
        Fault("PostgreSQL backend kill -9", "PostgreSQL", 1, backend(politely=False)),
        Fault("PostgreSQL sessions terminated", "PostgreSQL", 1.5, backend(politely=True)),
    ]


def of_virtual_host(close_all: Callable[[], None], restart: Callable[[], None]) -> list[Fault]:
    def do(what: Callable[[], None]) -> Callable[[random.Random], Begun]:
        def begin(_: random.Random) -> Begun:
            what()
            return _at_once(_nothing)

        return begin

    return [
        Fault("RabbitMQ closes all connections", "RabbitMQ", 2, do(close_all)),
        Fault("RabbitMQ virtual host restarted", "RabbitMQ", 1, do(restart)),
    ]


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
