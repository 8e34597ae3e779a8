"""Defines a supervisor's policy: pauses between restarts, when a part counts as hanging, what is kept in order."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fingerpost.cli.stack.logs import Bounds


@dataclass(frozen=True)
class RestartPolicy:
    """How restarts are spaced, and when a part counts as hanging.

    Args:
        first_s, most_s: pause before the first restart, and the longest; each is twice the one before.
        settled_s: a part that has lived so long starts from the first pause again.
        most_deaths: deaths in a row after which a part is only tried again every `resigned_s`.
        ask_every_s, ask_timeout_s: how often a part that is up is asked whether it answers, and how long it may take.
        most_silences: questions in a row without an answer after which a part is ended and started again.
        heartbeat_s: the same for a part that tells by itself that it goes on: longest time between two heartbeats.
        start_s: time after which a part that is not up yet is spoken of.
    """

    first_s: float = 1.0
    most_s: float = 60.0
    settled_s: float = 60.0
    most_deaths: int = 10
    resigned_s: float = 600.0
    ask_every_s: float = 5.0
    ask_timeout_s: float = 5.0
    most_silences: int = 6
    heartbeat_s: float = 60.0
    start_s: float = 180.0

    def pause_s(self, deaths: int) -> float:
        """The pause after so many deaths in a row."""
        if deaths >= self.most_deaths:
            return self.resigned_s
        return min(self.most_s, self.first_s * 2.0 ** (deaths - 1))


@dataclass(frozen=True)
class Upkeep:
    """What a supervisor does besides, where it has a home.

    Args:
        home: where the state of the parts is written; None: nowhere.
        low_mb: room on the home's disk below which a word is said, megabytes.
        written_logs: sizes of the logs that parts write themselves (`Part.reopens`).
        also: called about every second.
    """

    home: Path | None = None
    low_mb: float = 0.0
    written_logs: Bounds = field(default_factory=lambda: Bounds(256 * 2**20, 4))
    also: Callable[[], None] = lambda: None
