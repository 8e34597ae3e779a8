"""Phases on standard error: a line when each is done, and what it is at meanwhile where there is a terminal."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.status import Status
from rich.text import Text

from fingerpost.shown import visible


class Progress:
    """Shows which phase runs, with notes, and how long each took."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Status | None = None
        self._what = ""

    @contextmanager
    def phase(self, what: str) -> Iterator[None]:
        """One phase; without a terminal its beginning is a line too, since a spinner would not show."""
        began, self._what = time.monotonic(), what
        if not self._console.is_terminal:
            self._console.print(f"{what} ...", highlight=False)
        with self._console.status(what) as status:
            self._status = status
            try:
                yield
            finally:
                self._status = None
        self._console.print(f"[green]✓[/] {what} [dim]{time.monotonic() - began:.1f} s[/]", highlight=False)

    def note(self, text: str) -> None:
        """What the phase is at."""
        if self._status and text:
            self._status.update(Text.assemble(self._what, " ", (visible(text), "dim")))
