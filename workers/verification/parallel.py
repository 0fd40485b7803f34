"""One pass of a proof shared out to processes: each reads its part in the same snapshot and sends what it finds."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import closing, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from caselog.events.errors import CaselogError
from caselog.events.folding.recompute import Definitions
from caselog.events.folding.resolve import Rules
from caselog.events.model.registry import autodiscover, event_registry
from caselog.schema.recording.definitions import retire_unregistered
from caselog.schema.sessions.connection import make_engine
from caselog.schema.verification.findings import Finding
from caselog.schema.verification.session import open_session, read_shared, snapshot
from caselog.schema.verification.streams import Part
from caselog.workers.verification.compare import check_cases, check_timers

SENT_FINDINGS: Final = 200


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """What one process does: a pass over its part. `shared` is where what the first pass found of timers is."""

    database_url: str
    apps: tuple[str, ...]
    rules: Rules
    what: Literal["timers", "cases"]
    part: Part
    snapshot: str
    shared: Path


def run_shares(shares: list[Share]) -> Iterator[list[Finding] | int]:
    """What the processes find, and in between how many logs they have read since they last said so.

    Raises `CaselogError` where one of them fails. Closed early, it ends them.
    """
    # Started from nothing: a fork would take over connections and threads that are in use.
    context = multiprocessing.get_context("spawn")
    processes, pipes = [], list[Connection]()
    try:
        for share in shares:
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_run, args=(theirs, share), daemon=True)
            process.start()
            theirs.close()
            processes.append(process)
            pipes.append(ours)
        while pipes:
            for pipe in wait(pipes):
                assert isinstance(pipe, Connection)
                try:
                    told = pipe.recv()
                except EOFError:
                    raise CaselogError("a process of the verification died: run it again") from None
                if told is None:
                    pipes.remove(pipe)
                elif isinstance(told, str):
                    raise CaselogError(told)
                else:
                    yield told
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def _run(pipe: Connection, share: Share) -> None:
    # Nobody listens any more: the one that asked was killed, or has given up.
    with suppress(BrokenPipeError):
        try:
            _tell(pipe, share)
            pipe.send(None)
        except BrokenPipeError:
            raise
        except Exception as error:  # noqa: BLE001 - the asking process says it
            pipe.send(f"{type(error).__name__}: {error}")


def _tell(pipe: Connection, share: Share) -> None:
    autodiscover(share.apps)
    learn_retired(share.database_url)
    definitions = Definitions(event_registry)
    with closing(open_session(share.database_url)) as session, snapshot(session, share.snapshot):
        if share.what == "timers":
            found = check_timers(session, share.part, definitions, pipe.send)
        else:
            read_shared(session, share.shared)
            found = check_cases(session, share.part, definitions, share.rules, pipe.send)
        batch: list[Finding] = []
        for finding in found:
            batch.append(finding)
            if len(batch) == SENT_FINDINGS:
                pipe.send(batch)
                batch = []
        pipe.send(batch)


def learn_retired(database_url: str, registry: Any = event_registry) -> None:
    """Tell the registry what the codes meant that the log has and that are registered no more."""
    engine = make_engine(database_url, application="caselog verify", connections=1)
    try:
        with engine.connect() as db:
            retire_unregistered(db, registry)
    finally:
        engine.dispose()
