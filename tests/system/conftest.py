"""The browser of the tests that look at pages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright
from support.processes.browsing import CHROMIUM


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium")
    if program is None:
        hint = "there is no chromium on PATH; on Debian: apt-get install chromium"
        if os.environ.get("CASELOG_REQUIRE_SERVICES") == "1":
            pytest.fail(f"CASELOG_REQUIRE_SERVICES=1, but {hint}")
        pytest.skip(hint)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=CHROMIUM)
        yield browser
        browser.close()
