"""A status worker that serves its pages to a test."""

from __future__ import annotations

from typing import Any, Final

import httpx

from support.processes.patience import DEADLINE_S
from support.processes.pipeline import Pipeline, Worker, eventually
from support.servers.free_ports import free_port

ANNA: Final = "anna-anna-anna-anna-anna"
APP: Final = "app1-app1-app1-app1-app1"
TOKENS: Final = f"anna:operator:{ANNA},app1:publisher:{APP}"


class Served:
    """A running `caselog worker status` of a pipeline, and requests to it."""

    def __init__(self, pipeline: Pipeline, **settings: str) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        named = {"CASELOG_API_TOKENS": TOKENS, "CASELOG_HTTP_PORT": str(port), **settings}
        self.worker: Worker = pipeline.start("status", **named)
        eventually(self._answers, "the status worker answers")

    def get(self, path: str, **more: Any) -> httpx.Response:
        return httpx.get(self.url + path, timeout=DEADLINE_S, **more)

    def post(self, path: str, **more: Any) -> httpx.Response:
        return httpx.post(self.url + path, timeout=DEADLINE_S, **more)

    def _answers(self) -> bool:
        assert self.worker.is_running(), self.worker.said()
        try:
            return self.get("/livez").is_success
        except httpx.TransportError:
            return False


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}
