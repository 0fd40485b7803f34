"""A TCP wire to a server, with which the rig does what networks do: cuts, waits, one-way silence, half-open ends."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final, TypeAlias

Target: TypeAlias = Path | tuple[str, int]
_LOOK_S: Final = 0.02
_CHUNK_BYTES: Final = 65_536
# On close, send a reset and forget what was not delivered.
_RESET: Final = struct.pack("ii", 1, 0)


class Wires:
    """The event loop of all wires, in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.listeners: list[asyncio.Server] = []
        self._thread = threading.Thread(target=self.loop.run_forever, name="wires", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    def close(self) -> None:
        async def cancel_all() -> None:
            for listener in self.listeners:
                listener.close()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self.run(cancel_all())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class Wire:
    """Carries connections from a port of its own to a server. All is well until a fault is set; `heal` ends them all.

    `delay_s` holds back each piece; `stalled` names directions in which nothing moves ("up": to the server, "down"),
    so that the sender's buffers fill; `is_half_open` swallows both ways, as a firewall does that forgot the
    connection; `is_refusing` closes whoever connects. `is_shut` does so, too,
    and `heal` leaves it: the server is not ready.
    """

    def __init__(self, wires: Wires, target: Target) -> None:
        self.target = target
        self.delay_s = 0.0
        self.stalled: frozenset[str] = frozenset()
        self.is_half_open = False
        self.is_refusing = False
        self.is_shut = False
        self._wires = wires
        self._ends: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server = wires.run(self._listen())
        wires.listeners.append(self._server)
        self.port: int = self._server.sockets[0].getsockname()[1]

    def heal(self) -> None:
        """Everything moves again. Connections that lost bytes are reset: nobody could make sense of the rest."""
        lost = self.is_half_open
        self.delay_s, self.stalled, self.is_half_open, self.is_refusing = 0.0, frozenset(), False, False
        if lost:
            self.reset()

    def reset(self) -> None:
        """Cut every connection, with what was under way in it."""
        self._wires.run(self._reset())

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._carry, "127.0.0.1", 0)

    async def _reset(self) -> None:
        for end in list(self._ends):
            _cut(end)

    async def _carry(self, client_reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        if self.is_refusing or self.is_shut:
            _cut(client)
            return
        try:
            if isinstance(self.target, Path):
                server_reader, server = await asyncio.open_unix_connection(str(self.target))
            else:
                server_reader, server = await asyncio.open_connection(*self.target)
        except OSError:  # the server is down: its wire hangs up
            _cut(client)
            return
        ends = (client, server)
        self._ends.update(ends)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(client_reader, server, "up", ends))
                both.create_task(self._pump(server_reader, client, "down", ends))
        finally:
            self._ends.difference_update(ends)
            for end in ends:
                _cut(end)

    async def _pump(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        direction: str,
        ends: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
    ) -> None:
        try:
            while data := await source.read(_CHUNK_BYTES):
                while direction in self.stalled:  # noqa: ASYNC110 - looked at by the driver's thread, too
                    await asyncio.sleep(_LOOK_S)
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if not self.is_half_open:
                    sink.write(data)
                    await sink.drain()
        except OSError:
            pass
        for end in ends:  # either side is gone: so is the connection
            end.close()


def _cut(end: asyncio.StreamWriter) -> None:
    connection = end.get_extra_info("socket")
    if connection is not None and connection.fileno() != -1 and connection.family == socket.AF_INET:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    end.transport.abort()
