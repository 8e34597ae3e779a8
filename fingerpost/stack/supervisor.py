"""Keeps the parts of a platform running: starts each when what it needs is up, and again, ever later, when it dies."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fingerpost.stack.parts import Part, answers
from fingerpost.stack.processes import Child, Stack

_POLL_S = 0.3


@dataclass(frozen=True)
class Patience:
    """How restarts are spaced.

    Args:
        first_s, most_s: pause before the first restart, and the longest; each is twice the one before.
        settled_s: a part that has lived so long starts from the first pause again.
        most_deaths: deaths in a row after which a part stays down.
    """

    first_s: float = 1.0
    most_s: float = 60.0
    settled_s: float = 60.0
    most_deaths: int = 10

    def pause_s(self, deaths: int) -> float:
        """The pause after so many deaths in a row."""
        return min(self.most_s, self.first_s * 2.0 ** (deaths - 1))


@dataclass
class _State:
    child: Child | None = None
    started: float = 0.0
    up: bool = False
    deaths: int = 0
    next_start: float = 0.0
    given_up: bool = False


class Supervisor:
    """Parts and what they are at.

    Args:
        stack: starts and ends the processes.
        tell: gets a line for people about every change.
    """

    def __init__(
        self, stack: Stack, parts: Sequence[Part], tell: Callable[[str], None], patience: Patience | None = None
    ) -> None:
        self._stack, self._parts, self._tell = stack, list(parts), tell
        self._patience = patience or Patience()
        self._states = {part.name: _State() for part in parts}

    @property
    def all_up(self) -> bool:
        return all(state.up for state in self._states.values())

    def run(self, once_up: Callable[[], None] = lambda: None) -> None:
        """Keeps the parts running until a signal comes; calls `once_up` when all are up for the first time."""
        told = False
        while not self._stack.interrupted:
            self.step(time.monotonic())
            if self.all_up and not told:
                told = True
                once_up()
            time.sleep(_POLL_S)

    def step(self, now: float) -> None:
        """Looks at every part once, and does what is due.

        Args:
            now: seconds of a clock that never goes back.
        """
        for part in self._parts:
            state = self._states[part.name]
            if state.child is not None and state.child.process.poll() is not None:
                self._mourn(part, state, now)
            elif state.child is not None and not state.up:
                if not part.health_url or answers(part.health_url):
                    state.up = True
                    self._tell(f"{part.name} is up{f' at {part.address}' if part.address else ''}")
            elif state.child is None and not state.given_up and now >= state.next_start and self._ready(part):
                state.child, state.started = self._stack.start(part.name, part.command, part.env), now

    def _ready(self, part: Part) -> bool:
        return all(self._states[name].up for name in part.needs if name in self._states)

    def _mourn(self, part: Part, state: _State, now: float) -> None:
        child = state.child
        if child is None:
            return
        how = child.failure()
        self._stack.end(child)
        if child.log.exists():
            # The next start writes the log anew.
            child.log.replace(child.log.with_suffix(".before.log"))
        state.deaths = 1 if now - state.started > self._patience.settled_s else state.deaths + 1
        state.child, state.up = None, False
        how = how.replace(str(child.log), str(child.log.with_suffix(".before.log")))
        if state.deaths >= self._patience.most_deaths:
            state.given_up = True
            self._tell(f"{how}\n{part.name} died {state.deaths} times in a row and stays down; the other parts go on")
            return
        pause = self._patience.pause_s(state.deaths)
        state.next_start = now + pause
        self._tell(f"{how}\n{part.name} is started again in {pause:g} s")
