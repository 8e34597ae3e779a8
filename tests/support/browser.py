"""The system's Chromium, driven by Playwright: nothing is downloaded."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = next((found for name in ("chromium", "chromium-browser") if (found := shutil.which(name))), None)


@contextmanager
def running_browser() -> Iterator[Any]:
    """A headless browser; skips the test where the system has no Chromium."""
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine: `make system-packages` installs it")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Tests may run as root, where Chromium refuses its sandbox.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


class Watched:
    """A page of the browser, with what its console said and what it asked for.

    Attributes:
        errors: errors of scripts and of the console.
        elsewhere: addresses asked for that are not the engine's.
    """

    def __init__(self, browser: Any, url: str) -> None:
        self.page, self.url = browser.new_page(viewport={"width": 1280, "height": 900}), url
        self.errors: list[str] = []
        self.elsewhere: list[str] = []
        self.page.set_default_timeout(60_000)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._hear)
        self.page.on("dialog", lambda dialog: self.errors.append(dialog.message))
        self.page.on("request", self._note)

    def _hear(self, said: Any) -> None:
        if said.type == "error":
            self.errors.append(said.text)

    def _note(self, request: Any) -> None:
        if not request.url.startswith((self.url, "data:", "blob:")):
            self.elsewhere.append(request.url)

    def open(self, path: str = "/") -> None:
        """Opens a path and waits until it has loaded."""
        self.page.goto(self.url + path)

    def choose(self, panel: str) -> None:
        """Shows a panel."""
        self.page.click(f"#tab-{panel}")

    def text(self, selector: str) -> str:
        """The text of an element, as it is shown."""
        return str(self.page.inner_text(selector))

    def figure(self, name: str) -> str:
        """The text of one of the large figures."""
        return self.text(f"[data-figure='{name}']")

    def expect(self, selector: str, timeout_s: float = 60.0) -> Any:
        """Playwright's assertions on an element, which wait until they hold."""
        from playwright.sync_api import expect

        expect.set_options(timeout=timeout_s * 1000)
        return expect(self.page.locator(selector))
