"""A browser's window on the pages of a status worker."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser, BrowserContext, Page, ViewportSize, expect

from support.processes.served import ANNA, Served

PHONE: Final[ViewportSize] = {"width": 375, "height": 812}
DESKTOP: Final[ViewportSize] = {"width": 1280, "height": 1000}
CHROMIUM: Final = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
SHOTS: Final = os.environ.get("CASELOG_TEST_SCREENSHOTS")
LIVE_MS: Final = 30_000


class Visit:
    """A browser's window, with what went wrong in it."""

    def __init__(self, browser: Browser, served: Served, **options: Any) -> None:
        self.url = served.url
        self.context: BrowserContext = browser.new_context(**{"viewport": DESKTOP, **options})
        self.context.set_default_timeout(LIVE_MS)
        self.page: Page = self.context.new_page()
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def go(self, path: str = "/") -> Page:
        self.page.goto(self.url + path)
        return self.page

    def sign_in(self) -> Page:
        page = self.go()
        page.click("#sign-in")
        page.fill("#token", ANNA)
        page.click("#go")
        expect(page.locator("#sign-out")).to_be_visible()
        return page

    def close(self) -> None:
        """Nothing was reported in the console, and nothing was asked of another host."""
        assert self.errors == []
        assert all(url.startswith(self.url) for url in self.requests), self.requests
        self.context.close()


def shoot(page: Page, name: str) -> None:
    if SHOTS:
        page.screenshot(path=Path(SHOTS) / f"{name}.png", full_page=True)


def barriers(page: Page) -> list[str]:
    """What axe finds on the page as it is shown now; the size of targets (WCAG 2.2, 2.5.8) is asked for, too."""
    options = {"resultTypes": ["violations"], "rules": {"target-size": {"enabled": True}}}
    found = Axe().run(page, options=options).response["violations"]
    return [f"{one['id']}: {node['target']} {node['failureSummary']}" for one in found for node in one["nodes"]]
