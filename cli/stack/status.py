"""Collects the state of a platform: the parts its supervisors wrote down, and what else an operator must know."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fingerpost.cli.stack.state import SILENT_S, PartState, lock_path
from fingerpost.home import Disk
from fingerpost.locks import Owner, holder
from fingerpost.shown import visible

_WELL = ("up",)


@dataclass(frozen=True)
class Seen:
    """A part's state with what its lock says.

    Args:
        owner: the `fingerpost up` that runs it; None: there is none any more.
    """

    part: PartState
    owner: Owner | None


@dataclass(frozen=True)
class Serves:
    """Who predicts for a service.

    Args:
        model_version: the model; empty: the baseline serves all.
        model_share: share of the categories that the model serves, 0..1.
        reason: why the baseline serves the others; empty: it serves none, or there is no model.
    """

    model_version: str
    model_share: float
    reason: str

    @property
    def words(self) -> str:
        """Who it is, in words for people."""
        if not self.model_version:
            return f"the baseline ({visible(self.reason)})" if self.reason else "the baseline"
        rest = "" if self.model_share == 1 else f" in {self.model_share:.0%} of the categories ({visible(self.reason)})"
        return f"version {visible(self.model_version)}{rest}"


@dataclass(frozen=True)
class Engine:
    """What the engine says of itself, as `/v1/health` has it; `answers` False: nothing.

    Args:
        serves: by service, of those with a table.
    """

    answers: bool
    ready: bool = False
    problems: Mapping[str, str] = field(default_factory=dict)
    serves: Mapping[str, Serves] = field(default_factory=dict)


@dataclass(frozen=True)
class Status:
    """All of it. Ages are in seconds, None where there is nothing that could be old.

    Args:
        engine: None: it is not one of the parts here, and was not asked.
        table_age_s: of the picker's file; see `has_router`.
        has_router: whether a router is to keep that file here.
        model_version: the champion; empty: there is none, or the registry has not told yet.
    """

    home: Path
    parts: Sequence[Seen]
    engine: Engine | None
    has_router: bool
    table_age_s: float | None
    table_ttl_s: float
    model_version: str
    disk: Disk
    low_mb: float

    def problems(self, now: float) -> list[str]:
        """What is not well, in words for people.

        Args:
            now: seconds since 1970.
        """
        if self.home.exists() and not self.home.is_dir():
            return [f"{self.home} is no folder: name another as FINGERPOST_HOME"]
        found = [] if self.parts else [f"nothing runs in {self.home}: start `fingerpost up`"]
        found += [problem for each in self.parts if (problem := _problem(each, now))]
        if self.engine is not None and not self.engine.answers:
            found.append("the engine does not answer")
        elif self.engine is not None:
            found += [f"engine: {name}: {text}" for name, text in self.engine.problems.items()]
        if self.has_router and self.table_age_s is None:
            found.append("there is no routing table yet, so nothing is predicted: does an agent report to the engine?")
        elif self.has_router and self.table_age_s is not None and self.table_age_s > self.table_ttl_s:
            found.append(
                f"the routing table is {self.table_age_s:.0f} s old: the picker has fallen back to least request"
            )
        if problem := self.disk.problem(self.low_mb):
            found.append(problem)
        return found

    def to_json(self, now: float) -> dict[str, Any]:
        """For `--json`."""
        problems = self.problems(now)
        return {
            "ok": not problems,
            "home": str(self.home),
            "problems": problems,
            "parts": [
                {**asdict(each.part), "supervisor": each.owner.pid if each.owner else None} for each in self.parts
            ],
            "engine": None if self.engine is None else asdict(self.engine),
            "table_age_s": self.table_age_s,
            "model_version": self.model_version or None,
            "disk": {"free_mb": round(self.disk.free_bytes / 2**20), "free_inodes": self.disk.free_inodes},
        }


def seen(home: Path, states: Sequence[PartState]) -> list[Seen]:
    """The parts of a home with whoever runs them."""
    return [Seen(each, holder(lock_path(home, each.name))) for each in states]


def told(status: Status, now: float) -> str:
    """The status as lines for people."""
    lines = []
    for each in status.parts:
        part = each.part
        state = part.state if each.owner else "gone"
        about = [f"for {_span(now - part.since)}", f"pid {part.pid}" if part.pid else ""] if each.owner else []
        about += [f"{part.restarts} restarts" if part.restarts else "", part.address]
        lines.append(f"{part.name:9} {state:9} {', '.join(word for word in about if word)}")
        if part.last_error:
            first = part.last_error.splitlines()[0]
            lines.append(f"          {_span(now - part.last_error_at)} ago: {visible(first)}")
    if status.has_router and status.table_age_s is not None:
        lines.append(f"table     {status.table_age_s:.1f} s old")
    lines.append(
        f"model     {f'version {status.model_version}' if status.model_version else 'none yet: the baseline predicts'}"
    )
    if status.engine is not None:
        lines += [f"predicts  {each.words} for {visible(name)}" for name, each in sorted(status.engine.serves.items())]
    lines.append(f"disk      {status.disk.free_bytes / 2**30:.1f} GB left")
    problems = status.problems(now)
    lines += [f"PROBLEM   {visible(problem)}" for problem in problems] or ["all is well"]
    return "\n".join(lines)


def _problem(each: Seen, now: float) -> str:
    part = each.part
    if each.owner is None:
        return f"{part.name} is gone: its `fingerpost up` has died; start it again"
    if now - part.written > SILENT_S:
        return (
            f"{part.name}: nothing was written of it for {_span(now - part.written)}: "
            f"`fingerpost up` (pid {each.owner.pid}) hangs, or cannot write to the disk"
        )
    if part.state not in _WELL:
        return f"{part.name} is {part.state} for {_span(now - part.since)}; its log is {part.log or 'not there yet'}"
    return ""


def _span(seconds: float) -> str:
    seconds = max(0.0, seconds)
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h"
