"""Reports problems of an agent: in its log when they begin and each minute, on `/healthz`, and as metrics."""

import logging
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fingerpost.masking import masked

if TYPE_CHECKING:
    from fingerpost.agent.agent import Agent
    from fingerpost.agent.announcer import Announcer
    from fingerpost.agent.courier import Courier
    from fingerpost.agent.proxy import ProxyAgent
    from fingerpost.agent.sender import Sender

logger = logging.getLogger(__name__)
# Without a report for so many of its periods an agent is not well.
_LATE_PERIODS = 5
_SAY_AGAIN_S = 60.0
# Over how long refused lines are compared with accepted ones, and how many there must be.
_SPAN_S = 60.0
_FEWEST_LINES = 20
# Of so many requests at least one should tell how long it took.
_TIMED_REQUESTS = 100
# So short no request is that a server logs: half of them say that the log is of another unit.
_SHORTEST_S = 50e-6
PROBLEMS = {
    "requests": "The access log is not there or cannot be read.",
    "refused": "Most requests are refused.",
    "times": "No request tells how long it took, or most in another unit.",
    "host": "The host cannot be sampled.",
    "lake": "The lake cannot be written.",
    "spool": "The spool cannot be written.",
    "inbox": "Batches were removed that nobody fetched.",
    "engine": "The engine does not answer.",
    "delivery": "The engine does not take batches.",
    "membership": "The engine does not take the announcement of the host.",
}


@dataclass
class _Problem:
    text: str
    said_s: float
    times: int = 1


class Problems:
    """What is wrong now, by a short, stable name.

    The same problem is logged when it begins, once a minute as long as it lasts, and when it is over, however often it
    is told of.

    Args:
        clock: seconds that never jump.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._current: dict[str, _Problem] = {}

    def tell(self, name: str, text: str | None, level: int = logging.WARNING) -> None:
        """Says that something is wrong, and what to do; None: it is not, or not any more."""
        known, now_s = self._current.get(name), self._clock()
        if text is None:
            if known:
                del self._current[name]
                logger.info("over: %s", known.text)
        elif known is None:
            self._current[name] = _Problem(text, now_s)
            logger.log(level, "%s", text)
        else:
            known.text, known.times = text, known.times + 1
            if now_s - known.said_s >= _SAY_AGAIN_S:
                known.said_s = now_s
                logger.log(level, "%s (%d times by now)", text, known.times)

    def now(self) -> dict[str, str]:
        """Name to text."""
        return {name: problem.text for name, problem in list(self._current.items())}


class RequestChecks:
    """Whether the requests that come can be used: not most of them refused, and with the time they took.

    Args:
        problems: where it is told: `refused` and `times`.
        hint: what may be wrong where lines are refused, for the message.
        clock: seconds that never jump.
    """

    def __init__(self, problems: Problems, hint: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._problems, self._hint, self._clock = problems, hint, clock
        self._seen: deque[tuple[float, int, Counter[str]]] = deque([(clock(), 0, Counter())])
        self._untimed: int | None = 0

    def update(self, fresh: list[dict[str, Any]], taken: int, refused: Counter[str]) -> None:
        """Looks at what came since the last call.

        Args:
            fresh: the request records that were accepted.
            taken: how many were accepted by now, in all.
            refused: those that were refused by now, by reason.
        """
        self._problems.tell("refused", self._refusals(taken, refused))
        if self._untimed is None or not fresh:
            self._check_unit(fresh)
            return
        if any(row.get("duration_s") is not None or row.get("service_time_s") is not None for row in fresh):
            self._untimed = None
            self._problems.tell("times", None)
            return
        self._untimed += len(fresh)
        if self._untimed >= _TIMED_REQUESTS:
            self._problems.tell("times", "no request tells how long it took: docs/agent.md has log formats that do")

    def _check_unit(self, fresh: list[dict[str, Any]]) -> None:
        """A log with seconds or milliseconds where microseconds are read looks like this."""
        times = [row["duration_s"] for row in fresh if row.get("duration_s") is not None]
        if len(times) < _TIMED_REQUESTS:
            return
        short = sum(0 < each < _SHORTEST_S for each in times)
        text = (
            f"{short} of {len(times)} requests took less than {_SHORTEST_S * 1e6:g} us: are the log's times in another "
            "unit? docs/logs.md#which-format-fits names formats for seconds and milliseconds"
        )
        self._problems.tell("times", text if 2 * short > len(times) else None)

    def _refusals(self, taken: int, refused: Counter[str]) -> str | None:
        now_s = self._clock()
        self._seen.append((now_s, taken, Counter(refused)))
        while len(self._seen) > 2 and self._seen[1][0] <= now_s - _SPAN_S:
            self._seen.popleft()
        _, taken_before, refused_before = self._seen[0]
        recent = refused - refused_before
        bad = recent.total()
        both = taken - taken_before + bad
        if both < _FEWEST_LINES or 2 * bad <= both:
            return None
        [(reason, count)] = recent.most_common(1)
        return f"{bad} of the last {both} requests were refused, {count} of them because of {reason}; {self._hint}"


class Health:
    """What `/healthz` and the metrics tell of an agent.

    Args:
        batch_s: how often it should report, seconds.
    """

    def __init__(
        self,
        agent: "Agent | ProxyAgent",
        sender: "Sender | None",
        batch_s: float,
        courier: "Courier | None",
        announcer: "Announcer | None" = None,
    ) -> None:
        self._agent, self._batch_s = agent, batch_s
        self._away = {"engine": sender, "delivery": courier, "membership": announcer}

    def problems(self) -> dict[str, str]:
        """What is wrong now, by the names of PROBLEMS."""
        found = self._agent.problems.now() | {
            name: each.problem for name, each in self._away.items() if each is not None and each.problem
        }
        # They tell of URLs.
        return {name: masked(text) for name, text in found.items()}

    def told(self) -> tuple[bool, dict[str, Any]]:
        """Whether it works, as far as it can by itself, and the answer of `/healthz`."""
        problems = self.problems()
        late_s = time.monotonic() - self._agent.reported_s
        late = late_s > _LATE_PERIODS * self._batch_s
        status = f"no report for {late_s:.0f} s" if late else "degraded" if problems else "ok"
        return not late, {"status": status, "problems": problems}
