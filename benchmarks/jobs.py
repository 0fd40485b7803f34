"""The contenders' workers: python benchmarks/jobs.py dramatiq|celery. One process with threads, or a prefork pool.

Both have two jobs, `record`, which does all that `one_by_one.py` does, and `nothing`. Services are those of the
environment. dramatiq runs 8 threads in one process, which is its default. Celery runs its default pool with a process a
core, takes 100 jobs ahead, and acknowledges a job when it is done, as dramatiq does: else a kill would lose it.
"""

from __future__ import annotations

import os
import sys
import time
from functools import cache
from typing import Any

import dramatiq
from celery import Celery
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from one_by_one import NotYet, OneByOne

from caselog.events.model.registry import autodiscover
from caselog.workers.recording.assembly import make_rules
from caselog.workers.servers.locate import Services, find_services
from caselog.workers.servers.redis_client import make_redis
from caselog.workers.settings import load_settings
from caselog.workers.tasks.wakeup import make_broker

QUEUE = "bench"
THREADS = 8
AHEAD = 100
RETRIES = 200


@cache
def _road() -> OneByOne:
    """Made in the process that works."""
    settings = load_settings()
    autodiscover(settings.apps)
    return OneByOne(find_services(settings).database_url, make_rules(settings), connections=THREADS)


def dramatiq_broker(services: Services) -> dramatiq.Broker:
    """A dramatiq with its usual middleware and Redis or RabbitMQ, on which the two jobs are declared."""
    if services.broker_url.startswith("amqp"):
        broker: dramatiq.Broker = RabbitmqBroker(url=services.broker_url, confirm_delivery=True)
    else:
        broker = make_broker(make_redis(services))

    @dramatiq.actor(broker=broker, queue_name=QUEUE, max_retries=RETRIES, min_backoff=10, max_backoff=500)
    def record(raw: str) -> None:
        _road().record(raw.encode())

    @dramatiq.actor(broker=broker, queue_name=QUEUE)
    def nothing(raw: str) -> None:
        pass

    return broker


def celery_app(broker_url: str) -> Celery:
    """Celery on Redis or RabbitMQ, with the two jobs."""
    app = Celery(QUEUE, broker=broker_url, set_as_current=False)
    app.conf.update(
        task_default_queue=QUEUE,
        task_ignore_result=True,
        task_acks_late=True,
        worker_prefetch_multiplier=AHEAD,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        broker_connection_retry_on_startup=True,
    )

    def record(job: Any, raw: str) -> None:
        try:
            _road().record(raw.encode())
        except NotYet as error:
            raise job.retry(exc=error, countdown=0.05) from error

    def nothing(raw: str) -> None:
        pass

    app.task(name="record", shared=False, bind=True, max_retries=RETRIES)(record)
    app.task(name="nothing", shared=False)(nothing)
    return app


def enqueue_dramatiq(services: Services, job: str, events: list[bytes]) -> None:
    actor = dramatiq_broker(services).get_actor(job)
    for event in events:
        actor.send(event.decode())


def enqueue_celery(broker_url: str, job: str, events: list[bytes]) -> None:
    app = celery_app(broker_url)
    with app.producer_or_acquire() as producer:
        for event in events:
            app.tasks[job].apply_async((event.decode(),), producer=producer)
    app.close()


def main() -> None:
    services = find_services(load_settings())
    if sys.argv[1] == "dramatiq":
        _road()
        worker = dramatiq.Worker(dramatiq_broker(services), queues={QUEUE}, worker_threads=THREADS)
        worker.start()
        time.sleep(3600)  # the benchmark ends this process
    else:
        quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=ERROR")
        app = celery_app(services.broker_url)
        app.worker_main(["worker", "--pool=prefork", f"--concurrency={os.cpu_count()}", *quiet])


if __name__ == "__main__":
    main()
