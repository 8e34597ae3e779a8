"""Keeps the parts of a platform running: starts each when what it needs is up, and again, ever later, when it dies.

A part that lives and does not answer is ended and started again too. Whatever goes wrong with one part, or with a file
of ours, the other parts go on.
"""

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fingerpost.cli.stack.logs import move_on
from fingerpost.cli.stack.parts import Part, answers
from fingerpost.cli.stack.patience import RestartPolicy, Upkeep
from fingerpost.cli.stack.ports import check_ports, foreign_listener
from fingerpost.cli.stack.processes import Child, ProcessGroup
from fingerpost.cli.stack.state import EVERY_S, PartState, forget_state, write_state
from fingerpost.errors import PortInUseError
from fingerpost.heartbeat import Heartbeats, beat
from fingerpost.home import disk_of

_POLL_S = 0.1
_UPKEEP_EVERY_S, _DISK_EVERY_S = 1.0, 30.0


@dataclass
class _Watched:
    """A part and what it is at; times are of the clock that never goes back."""

    part: Part
    told: PartState
    child: Child | None = None
    started: float = 0.0
    heard: float = 0.0
    next_ask: float = 0.0
    next_start: float = 0.0
    next_write: float = 0.0
    deaths: int = 0
    silences: int = 0
    late: bool = False
    heartbeats: Heartbeats | None = None
    foreign: str = ""

    @property
    def up(self) -> bool:
        return self.told.state in ("up", "silent")


class Supervisor:
    """Parts and what they are at.

    Args:
        stack: starts and ends the processes.
        tell: gets a line for people about every change; it must not raise.
    """

    def __init__(
        self,
        stack: ProcessGroup,
        parts: Sequence[Part],
        tell: Callable[[str], None],
        patience: RestartPolicy | None = None,
        upkeep: Upkeep | None = None,
    ) -> None:
        self._stack, self._tell = stack, tell
        self._patience, self._upkeep = patience or RestartPolicy(), upkeep or Upkeep()
        self._watched = {
            part.name: _Watched(part, PartState(part.name, since=time.time(), address=part.address)) for part in parts
        }
        self._next_upkeep = self._next_disk = 0.0
        self._disk_problem = ""
        self._troubles: dict[str, str] = {}

    @property
    def all_up(self) -> bool:
        return all(each.told.state == "up" for each in self._watched.values())

    def states(self) -> list[PartState]:
        """How the parts are."""
        return [each.told for each in self._watched.values()]

    def run(self, once_up: Callable[[], None] = lambda: None) -> None:
        """Keeps the parts running until a signal comes; calls `once_up` when all are up for the first time."""
        told = False
        while not self._stack.interrupted:
            self.step(time.monotonic())
            if self.all_up and not told:
                told = True
                once_up()
            beat()
            time.sleep(_POLL_S)

    def close(self) -> None:
        """Forgets the parts, after they have been stopped."""
        for each in self._watched.values():
            if each.heartbeats is not None:
                each.heartbeats.close()
            if self._upkeep.home is not None:
                forget_state(self._upkeep.home, each.part.name)

    def step(self, now: float) -> None:
        """Looks at every part once, and does what is due.

        Args:
            now: seconds of a clock that never goes back.
        """
        for each in self._watched.values():
            self._guarded(each.part.name, lambda each=each: self._look(each, now))  # type: ignore[misc]
        # One question a step: a part that hangs must not keep the others waiting for longer than its own answer.
        asked = (each for each in self._watched.values() if each.child is not None and each.part.health_url)
        if due := [each for each in asked if now >= each.next_ask]:
            longest = min(due, key=lambda each: each.next_ask)
            self._guarded(longest.part.name, lambda: self._ask(longest, now))
        if now >= self._next_upkeep:
            self._next_upkeep = now + _UPKEEP_EVERY_S
            self._guarded("logs", self._bound_logs)
            self._guarded("upkeep", self._upkeep.also)
            self._stack.keep_sentinel()
        if now >= self._next_disk:
            self._next_disk = now + _DISK_EVERY_S
            self._guarded("disk", self._look_at_disk)
        self._guarded("the state in run/", lambda: self._write_due(now))

    def _guarded(self, what: str, act: Callable[[], None]) -> None:
        """Does something that must not end the rest; each trouble is told once, until it is another or over."""
        try:
            act()
        except Exception as error:  # the other parts, and the clients' requests, come first
            # Without the names of files, which are other ones each time.
            text = (isinstance(error, OSError) and error.strerror) or f"{type(error).__name__}: {error}"
            if self._troubles.get(what) != text:
                self._troubles[what] = text
                self._tell(f"trouble with {what}: {text}; all else goes on")
        else:
            self._troubles.pop(what, None)

    def _look(self, each: _Watched, now: float) -> None:
        if each.child is None:
            if now >= each.next_start and self._ready(each.part):
                self._start(each, now)
        elif each.child.process.poll() is not None:
            how = each.child.failure()
            self._stack.end(each.child)
            self._handle_exit(each, now, how)
        elif each.heartbeats is not None:
            self._listen(each, each.heartbeats, now)
        elif not each.up and not each.part.health_url:
            self._rise(each, now)
        if each.told.state == "starting" and not each.late and now - each.started > self._patience.start_s:
            each.late = True
            self._tell(f"{each.part.name} is not up after {self._patience.start_s:g} s; its log is {each.told.log}")

    def _ready(self, part: Part) -> bool:
        return all(self._watched[name].up for name in part.needs if name in self._watched)

    def _start(self, each: _Watched, now: float) -> None:
        part = each.part
        env = dict(part.env)
        try:
            # Whoever has the port would answer in its place.
            check_ports(list(part.ports))
            if part.beats and Heartbeats.possible():
                each.heartbeats = each.heartbeats or Heartbeats()
                each.heartbeats.heard()
                env |= each.heartbeats.environment()
            child = self._stack.start(part.name, part.command, env)
        except (OSError, subprocess.SubprocessError, PortInUseError) as error:
            each.started = now
            self._handle_exit(each, now, f"{part.name} cannot be started: {error}")
            return
        each.child, each.started, each.heard, each.next_ask = child, now, now, now
        each.silences, each.late, each.foreign = 0, False, ""
        each.told.pid, each.told.log = child.process.pid, str(child.log)
        if child.log_problem:
            each.told.unlogged += 1
            self._tell(f"{part.name} runs without a log, for the {each.told.unlogged}. time: {child.log_problem}")
        self._become(each, "starting")

    def _ask(self, each: _Watched, now: float) -> None:
        part, patience = each.part, self._patience
        answered = answers(part.health_url, patience.ask_timeout_s)
        each.next_ask = now + (patience.ask_every_s if each.up else _POLL_S)
        if not each.up:
            if answered and self._its_own_answer(each):
                self._rise(each, now)
        elif answered:
            self._answered(each)
        else:
            each.silences += 1
            if each.silences == 1:
                self._become(each, "silent")
            if each.silences == max(1, patience.most_silences // 2):
                self._tell(f"{part.name} has not answered {each.silences} times in a row at {part.health_url}")
            if each.silences >= patience.most_silences:
                self._restart_hanging(each, now, f"did not answer {each.silences} times in a row")

    def _its_own_answer(self, each: _Watched) -> bool:
        """Whether it is this part's process that has its ports, and not another one that answers there."""
        if each.child is None:
            return False
        family = self._stack.family(each.child)
        foreign = next((found for use in each.part.ports if (found := foreign_listener(use, family))), "")
        if foreign and foreign != each.foreign:
            self._tell(f"{foreign} answers in place of {each.part.name}")
        each.foreign = foreign
        return not foreign

    def _rise(self, each: _Watched, now: float) -> None:
        each.next_ask = now + self._patience.ask_every_s
        self._become(each, "up")
        self._tell(f"{each.part.name} is up{f' at {each.part.address}' if each.part.address else ''}")

    def _listen(self, each: _Watched, heartbeats: Heartbeats, now: float) -> None:
        if heartbeats.heard():
            each.heard = now
            if not each.up:
                self._rise(each, now)
            else:
                self._answered(each)
        elif each.up and now - each.heard > self._patience.heartbeat_s:
            self._restart_hanging(each, now, f"gave no sign of life for {now - each.heard:.0f} s")
        elif each.told.state == "up" and now - each.heard > self._patience.heartbeat_s / 2:
            self._become(each, "silent")

    def _answered(self, each: _Watched) -> None:
        if each.told.state == "silent":
            self._become(each, "up")
            if each.silences >= self._patience.most_silences // 2:
                self._tell(f"{each.part.name} answers again")
        each.silences = 0

    def _restart_hanging(self, each: _Watched, now: float, why: str) -> None:
        child = each.child
        if child is None:
            return
        # What does not answer does not end politely either, and a stopped process not at all.
        self._stack.end(child, grace_s=0.0)
        self._handle_exit(each, now, f"{each.part.name} (pid {child.process.pid}) {why}, and was ended")

    def _handle_exit(self, each: _Watched, now: float, how: str) -> None:
        """Notes a death, and when the next start is due."""
        part, patience = each.part, self._patience
        each.deaths = 1 if now - each.started > patience.settled_s else each.deaths + 1
        each.child, each.told.pid = None, 0
        each.told.restarts += 1
        each.told.last_error, each.told.last_error_at = how, time.time()
        pause = patience.pause_s(each.deaths)
        each.next_start = now + pause
        resigned = each.deaths >= patience.most_deaths
        self._become(each, "resigned" if resigned else "waiting")
        if resigned:
            self._tell(f"{how}\n{part.name} died {each.deaths} times in a row: it is tried again in {pause:g} s only")
        else:
            self._tell(f"{how}\n{part.name} is started again in {pause:g} s")

    def _become(self, each: _Watched, state: str) -> None:
        each.told.state, each.told.since, each.next_write = state, time.time(), 0.0

    def _bound_logs(self) -> None:
        self._stack.bound_logs()
        for each in self._watched.values():
            # Not before it is up: the signal would end a process that has not yet asked for it.
            if each.part.reopens is None or (each.child is not None and not each.up):
                continue
            if move_on(each.part.reopens, self._upkeep.written_logs) and each.child is not None:
                with contextlib.suppress(ProcessLookupError):
                    each.child.process.send_signal(signal.SIGUSR1)

    def _look_at_disk(self) -> None:
        if self._upkeep.home is None:
            return
        problem = disk_of(self._upkeep.home).problem(self._upkeep.low_mb)
        if bool(problem) != bool(self._disk_problem):
            self._tell(f"{self._upkeep.home}: {problem or 'there is room on the disk again'}")
        self._disk_problem = problem

    def _write_due(self, now: float) -> None:
        for each in self._watched.values():
            if self._upkeep.home is not None and now >= each.next_write:
                each.next_write = now + EVERY_S
                write_state(self._upkeep.home, each.told)
