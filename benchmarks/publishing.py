"""How many events a second one thread publishes: to Redis, and to RabbitMQ where one answers on this machine.

From the first call to the broker's confirmation of the last event. The bound is 30,000 events/s with batching.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import msgspec
import redis
from bounds import print_bounds
from figures import Series, add_output, print_series, write_bars, write_figures
from servers import servers, virtual_host

from caselog.events import Publisher
from caselog.workers.producers.simulation import simulate
from caselog.workers.servers.locate import redis_py_url


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--events", type=int, default=60_000, help="in messages of 100; a tenth of it one by one")
    arguments.add_argument("--rounds", type=int, default=3)
    add_output(arguments)
    chosen = arguments.parse_args()
    events = list(simulate(chosen.events // 8, 7))[: chosen.events]
    encoded = [msgspec.json.encode(event) for event in events]
    found: dict[str, Series] = {}
    with servers() as urls, virtual_host() as amqp_url:
        assert urls.redis_url is not None
        for _ in range(chosen.rounds):
            for broker, url in {"Redis": urls.redis_url, "RabbitMQ": amqp_url}.items():
                if url is None:
                    continue
                for name, given, message in (
                    ("bytes, messages of 100", encoded, 100),
                    ("dicts, messages of 100", events, 100),
                    ("dicts, single events", events[: len(events) // 10], 1),
                ):
                    one = found.setdefault(f"{name}, {broker}", Series(f"{name}, {broker}"))
                    one.values.append(publish(url, given, message))
                    if broker == "Redis":
                        empty(url)
    series = list(found.values())
    title = "Published and confirmed, from one thread"
    print_series(title, "events/s", series)
    print_bounds({"publishing": series})
    write_figures(chosen.output, "publishing", {"events": len(events), "unit": "events/s", "series": series})
    write_bars(chosen.output, "publishing", title, "events/s", series)


def publish(url: str, events: list[Any], message: int) -> float:
    with Publisher(url, batch_events=message) as publisher:
        began_s = time.perf_counter()
        for event in events:
            publisher.publish(event)
        publisher.flush()
        return len(events) / (time.perf_counter() - began_s)


def empty(url: str) -> None:

    with redis.Redis.from_url(redis_py_url(url)) as client:
        client.flushall()


if __name__ == "__main__":
    main()
